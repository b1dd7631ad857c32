"""The pipeline of one picture: decode, tile, queue, join, check, encode.

Everything that touches pixels runs on a few worker threads, the networks on the engines' threads;
the event loop only waits. The answer is streamed in chunks while the rest is being computed.
"""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeVar

from anyio import CapacityLimiter, to_thread

from serving.batching.scheduler import Scheduler
from serving.batching.tiles import BatchKey, BatchLimits, Tile, TileRequest
from serving.enhance.request import EnhanceRequest, EnhanceResult, StageTimer
from serving.enhance.strips import StripAssembler
from serving.errors import DeadlinePassed
from serving.models.routing import ModelVersion
from serving.requests.chunks import BodyChunks
from serving.setting_groups import ConsistencySettings
from serving.telemetry.drift import LiveWindow
from superres.image.codecs import Picture
from superres.model.tiling import TilePlan, plan

Result = TypeVar("Result")

BATCHES_AHEAD = 2  # queued tiles of one picture, in batches; the rest are cut as these return


class PictureObserver(Protocol):
    """Is notified of finished and failed pictures."""

    def picture_done(
        self,
        model_version: ModelVersion,
        *,
        waste_ratio: float,
        input_pixels: int,
        output_pixels: int,
        seconds: float,
    ) -> None: ...

    def picture_failed(self, model_version: ModelVersion) -> None: ...

    def inconsistent(self, model_version: ModelVersion, regions: int) -> None: ...


class ShadowComparer(Protocol):
    """Compares a shadow with the champion on a few tiles; must not block."""

    def wants(self, model_version: ModelVersion) -> bool: ...

    def compare(self, model_version: ModelVersion, tile_pairs: list[tuple[Tile, Tile]]) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class EnhancerParts:
    """The components of an enhancer."""

    scheduler: Scheduler
    limits: BatchLimits
    window: LiveWindow
    observer: PictureObserver
    shadows: ShadowComparer
    consistency: ConsistencySettings
    worker_threads: int


class Enhancer:
    """Enhances pictures."""

    def __init__(self, parts: EnhancerParts) -> None:
        self._parts = parts
        self._workers = CapacityLimiter(parts.worker_threads)
        # Refusals must not wait for a thread that encodes a picture.
        self._light_workers = CapacityLimiter(2)

    async def in_worker(self, work: Callable[[], Result]) -> Result:
        """Run `work` on a worker thread, once one is free."""
        return await to_thread.run_sync(work, limiter=self._workers)

    async def in_light_worker(self, work: Callable[[], Result]) -> Result:
        """Run `work` of a few milliseconds on a separate small thread pool."""
        return await to_thread.run_sync(work, limiter=self._light_workers)

    async def enhance(self, enhance_request: EnhanceRequest, stages: StageTimer) -> EnhanceResult:
        """Enhance a picture; returns once the first chunk of the answer is ready.

        Raises PictureError, DeadlinePassed, InconsistentOutput, or the scheduler's error.
        """
        deadline = Deadline(enhance_request.deadline_seconds)
        picture = await deadline.run(self._decoded(enhance_request, stages))
        assembler = await deadline.run(
            self.in_worker(lambda: self._new_assembler(picture, enhance_request))
        )
        chunks = self._chunks(assembler, enhance_request, stages, deadline)
        try:
            # The flag is a header, so an answer that may be flagged is buffered completely.
            max_chunks = None if self._parts.consistency.action == "flag" else 1
            first = await self._first_chunks(chunks, assembler, max_chunks)
        except BaseException:
            await chunks.aclose()
            raise
        return EnhanceResult(
            width=assembler.width,
            height=assembler.height,
            chunks=BodyChunks(first, chunks),
            size=sum(map(len, first)) if assembler.complete else None,
            consistency_result=assembler.consistency_result,
            stage_seconds=dict(stages.seconds),
        )

    async def _first_chunks(
        self, chunks: AsyncGenerator[bytes], assembler: StripAssembler, max_chunks: int | None
    ) -> list[bytes]:
        first: list[bytes] = []
        while not assembler.complete and (max_chunks is None or len(first) < max_chunks):
            first.append(await anext(chunks))
        return first

    async def _decoded(self, enhance_request: EnhanceRequest, stages: StageTimer) -> Picture:
        with stages("decode"):
            return await self.in_worker(enhance_request.read)

    def _new_assembler(self, picture: Picture, enhance_request: EnhanceRequest) -> StripAssembler:
        geometry = enhance_request.model_version.model.upscaler.geometry
        tile_plan = plan(picture.height, picture.width, geometry)
        return StripAssembler(picture, tile_plan, enhance_request, self._parts.consistency)

    async def _chunks(
        self,
        assembler: StripAssembler,
        enhance_request: EnhanceRequest,
        stages: StageTimer,
        deadline: "Deadline",
    ) -> AsyncGenerator[bytes]:
        """The chunks of the answer's file; a few batches of tiles are queued at once."""
        batch_key = batch_key_of(
            enhance_request.model_version, assembler.plan, str(assembler.picture.rgb_hwc.dtype)
        )
        tiles_ahead = BATCHES_AHEAD * self._parts.limits.tiles_in(batch_key)
        keep_pairs = self._parts.shadows.wants(enhance_request.model_version)
        result_queue = ResultQueue()
        request = self._parts.scheduler.open(
            batch_key,
            deadline_seconds=enhance_request.deadline_seconds,
            receiver=result_queue,
            client=enhance_request.client,
            background=enhance_request.background,
        )
        results: list[tuple[int, Tile]] = []
        began_seconds = time.monotonic()
        try:
            while not assembler.complete:
                chunk = await deadline.run(
                    self.in_worker(
                        partial(
                            self._step,
                            assembler,
                            request,
                            results,
                            len(results) or tiles_ahead,
                            keep_pairs,
                        )
                    )
                )
                enhance_request.progress(assembler.share_done)
                if assembler.complete:
                    await self._report(assembler, enhance_request, stages, began_seconds)
                if chunk:
                    yield chunk
                results = []
                if assembler.waits_for_device:
                    waited_from_seconds = time.perf_counter()
                    results = await deadline.run(result_queue.take())
                    stages.add("network", time.perf_counter() - waited_from_seconds)
        except Exception:
            self._parts.observer.picture_failed(enhance_request.model_version)
            raise
        finally:
            self._parts.scheduler.close(request)
            if assembler.consistency_result.inconsistent_regions:
                self._parts.observer.inconsistent(
                    enhance_request.model_version, assembler.consistency_result.inconsistent_regions
                )
        if assembler.tile_pairs:
            self._parts.shadows.compare(enhance_request.model_version, assembler.tile_pairs)

    def _step(
        self,
        assembler: StripAssembler,
        request: TileRequest,
        results: list[tuple[int, Tile]],
        count: int,
        keep_pairs: bool,
    ) -> bytes:
        """Queue up to `count` new tiles, then add `results`; returns the next bytes of the file."""
        self._parts.scheduler.put(request, assembler.cut(count))
        return assembler.add(results, keep_pairs=keep_pairs)

    async def _report(
        self,
        assembler: StripAssembler,
        enhance_request: EnhanceRequest,
        stages: StageTimer,
        began_seconds: float,
    ) -> None:
        """Report a picture's metrics before its last chunk is sent."""
        parts = self._parts
        parts.window.add(
            enhance_request.model_version.name, await self.in_worker(assembler.observe)
        )
        stages.add("check", assembler.check_seconds)
        stages.add("encode", assembler.encode_seconds)
        stages.report()
        picture, tile_plan = assembler.picture, assembler.plan
        parts.observer.picture_done(
            enhance_request.model_version,
            waste_ratio=tile_plan.waste_ratio,
            input_pixels=picture.pixels,
            output_pixels=picture.pixels * tile_plan.scale**2,
            seconds=time.monotonic() - began_seconds,
        )


class Deadline:
    """Time left for a picture; time that the client takes to receive does not count."""

    def __init__(self, deadline_seconds: float) -> None:
        self._seconds = deadline_seconds - time.monotonic()

    async def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Await `work`. Raises DeadlinePassed once no time is left."""
        began_seconds = time.monotonic()
        try:
            async with asyncio.timeout(self._seconds):
                return await work
        except TimeoutError:
            raise DeadlinePassed("the answer was not ready in time") from None
        finally:
            self._seconds -= time.monotonic() - began_seconds


class ResultQueue:
    """Passes results from an engine's thread to the event loop that created the queue."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._available = asyncio.Event()
        self._results: deque[tuple[int, Tile]] = deque()
        self._error: Exception | None = None

    def done(self, index: int, tile: Tile) -> None:
        self._results.append((index, tile))
        self._wake()

    def failed(self, error: Exception) -> None:
        self._error = error
        self._wake()

    async def take(self) -> list[tuple[int, Tile]]:
        """Wait for results and return all of them. Raises the error that failed the request."""
        await self._available.wait()
        self._available.clear()
        if self._error is not None:
            raise self._error
        return [self._results.popleft() for _ in range(len(self._results))]

    def _wake(self) -> None:
        with contextlib.suppress(RuntimeError):  # the event loop is closed
            self._loop.call_soon_threadsafe(self._available.set)


def batch_key_of(model_version: ModelVersion, tile_plan: TilePlan, dtype: str) -> BatchKey:
    """The batch key of a picture's tiles."""
    height, width = tile_plan.bucket
    return BatchKey(model=model_version.model, height=height, width=width, dtype=dtype)
