"""One picture's way through the house: decode, split, queue, join, check, encode.

The event loop only waits and passes on; everything that touches pixels runs in worker threads, a
few at a time, and the networks on the engines' threads. The answer leaves in pieces while the rest
is still being worked on.
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

BATCHES_AHEAD = 2  # of one picture's tiles in the queue; the rest are cut as these come back


class PictureObserver(Protocol):
    """Hears what goes through."""

    def picture_done(
        self,
        model_version: ModelVersion,
        *,
        waste_ratio: float,
        taken: int,
        given: int,
        seconds: float,
    ) -> None: ...

    def picture_failed(self, model_version: ModelVersion) -> None: ...

    def inconsistent(self, model_version: ModelVersion, regions: int) -> None: ...


class ShadowComparer(Protocol):
    """Takes tiles that a shadow is to be compared on; must not block."""

    def wants(self, model_version: ModelVersion) -> bool: ...

    def compare(self, model_version: ModelVersion, kept: list[tuple[Tile, Tile]]) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class EnhancerParts:
    """What an enhancer is made of."""

    scheduler: Scheduler
    limits: BatchLimits
    window: LiveWindow
    observer: PictureObserver
    shadows: ShadowComparer
    consistency: ConsistencySettings
    worker_threads: int


class Enhancer:
    """Turns orders into answers."""

    def __init__(self, parts: EnhancerParts) -> None:
        self._parts = parts
        self._workers = CapacityLimiter(parts.worker_threads)
        # A refusal must not wait for a place behind pictures that are being encoded.
        self._light_workers = CapacityLimiter(2)

    async def in_worker(self, work: Callable[[], Result]) -> Result:
        """Run `work` on a worker thread, waiting for a free one."""
        return await to_thread.run_sync(work, limiter=self._workers)

    async def in_light_worker(self, work: Callable[[], Result]) -> Result:
        """The same for what takes a few milliseconds at most, apart from the heavy work."""
        return await to_thread.run_sync(work, limiter=self._light_workers)

    async def enhance(self, enhance_request: EnhanceRequest, stages: StageTimer) -> EnhanceResult:
        """The answer as soon as its first piece is there.

        Raises PictureError, DeadlinePassed, Inconsistent, or what the scheduler failed it with.
        """
        deadline = Deadline(enhance_request.deadline_seconds)
        picture = await deadline.spend_on(self._decoded(enhance_request, stages))
        strips = await deadline.spend_on(
            self.in_worker(lambda: self._strips(picture, enhance_request))
        )
        chunks = self._chunks(strips, enhance_request, stages, deadline)
        try:
            # An answer that may be flagged is held back, for its header comes before its pixels.
            most = None if self._parts.consistency.action == "flag" else 1
            first = await self._begin(chunks, strips, most)
        except BaseException:
            await chunks.aclose()
            raise
        return EnhanceResult(
            width=strips.width,
            height=strips.height,
            chunks=BodyChunks(first, chunks),
            size=sum(map(len, first)) if strips.complete else None,
            consistency_result=strips.consistency_result,
            stage_seconds=dict(stages.seconds),
        )

    async def _begin(
        self, chunks: AsyncGenerator[bytes], strips: StripAssembler, most: int | None
    ) -> list[bytes]:
        first: list[bytes] = []
        while not strips.complete and (most is None or len(first) < most):
            first.append(await anext(chunks))
        return first

    async def _decoded(self, enhance_request: EnhanceRequest, stages: StageTimer) -> Picture:
        with stages("decode"):
            return await self.in_worker(enhance_request.read)

    def _strips(self, picture: Picture, enhance_request: EnhanceRequest) -> StripAssembler:
        geometry = enhance_request.model_version.model.upscaler.geometry
        tile_plan = plan(picture.height, picture.width, geometry)
        return StripAssembler(picture, tile_plan, enhance_request, self._parts.consistency)

    async def _chunks(
        self,
        strips: StripAssembler,
        enhance_request: EnhanceRequest,
        stages: StageTimer,
        deadline: "Deadline",
    ) -> AsyncGenerator[bytes]:
        """The file, piece by piece; every tile goes through the queue, a few batches at once."""
        batch_key = batch_key_of(
            enhance_request.model_version, strips.plan, str(strips.picture.rgb_hwc.dtype)
        )
        ahead = BATCHES_AHEAD * self._parts.limits.tiles_in(batch_key)
        keep = self._parts.shadows.wants(enhance_request.model_version)
        mailbox = ResultQueue()
        request = self._parts.scheduler.open(
            batch_key,
            deadline_seconds=enhance_request.deadline_seconds,
            receiver=mailbox,
            client=enhance_request.client,
            background=enhance_request.background,
        )
        results: list[tuple[int, Tile]] = []
        began_seconds = time.monotonic()
        try:
            while not strips.complete:
                chunk = await deadline.spend_on(
                    self.in_worker(
                        partial(self._step, strips, request, results, len(results) or ahead, keep)
                    )
                )
                enhance_request.progress(strips.share_done)
                if strips.complete:
                    await self._finish(strips, enhance_request, stages, began_seconds)
                if chunk:
                    yield chunk
                results = []
                if strips.waits_for_device:
                    waited_from_seconds = time.perf_counter()
                    results = await deadline.spend_on(mailbox.take())
                    stages.add("network", time.perf_counter() - waited_from_seconds)
        except Exception:
            self._parts.observer.picture_failed(enhance_request.model_version)
            raise
        finally:
            self._parts.scheduler.close(request)
            if strips.consistency_result.regions_off:
                self._parts.observer.inconsistent(
                    enhance_request.model_version, strips.consistency_result.regions_off
                )
        if strips.kept:
            self._parts.shadows.compare(enhance_request.model_version, strips.kept)

    def _step(
        self,
        strips: StripAssembler,
        request: TileRequest,
        results: list[tuple[int, Tile]],
        free: int,
        keep: bool,
    ) -> bytes:
        """Put as many new tiles into the queue as have come back, then take these in."""
        self._parts.scheduler.put(request, strips.cut(free))
        return strips.add(results, keep=keep)

    async def _finish(
        self,
        strips: StripAssembler,
        enhance_request: EnhanceRequest,
        stages: StageTimer,
        began_seconds: float,
    ) -> None:
        """What is told of a picture before its last piece leaves."""
        parts = self._parts
        parts.window.add(enhance_request.model_version.name, await self.in_worker(strips.observe))
        stages.add("check", strips.check_seconds)
        stages.add("encode", strips.encode_seconds)
        stages.tell()
        picture, tile_plan = strips.picture, strips.plan
        parts.observer.picture_done(
            enhance_request.model_version,
            waste_ratio=tile_plan.waste_ratio,
            taken=picture.pixels,
            given=picture.pixels * tile_plan.scale**2,
            seconds=time.monotonic() - began_seconds,
        )


class Deadline:
    """What is left until a deadline; only work counts, not the client's slowness in taking."""

    def __init__(self, deadline_seconds: float) -> None:
        self._seconds = deadline_seconds - time.monotonic()

    async def spend_on(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Raises DeadlinePassed once nothing is left."""
        began_seconds = time.monotonic()
        try:
            async with asyncio.timeout(self._seconds):
                return await work
        except TimeoutError:
            raise DeadlinePassed("the answer was not ready in time") from None
        finally:
            self._seconds -= time.monotonic() - began_seconds


class ResultQueue:
    """Carries results from an engine's thread to the event loop that made it."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._arrived = asyncio.Event()
        self._results: deque[tuple[int, Tile]] = deque()
        self._error: Exception | None = None

    def done(self, index: int, tile: Tile) -> None:
        self._results.append((index, tile))
        self._wake()

    def failed(self, error: Exception) -> None:
        self._error = error
        self._wake()

    async def take(self) -> list[tuple[int, Tile]]:
        """What has arrived since the last time, at least one. Raises what failed the request."""
        await self._arrived.wait()
        self._arrived.clear()
        if self._error is not None:
            raise self._error
        return [self._results.popleft() for _ in range(len(self._results))]

    def _wake(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has closed: nobody waits any more
            self._loop.call_soon_threadsafe(self._arrived.set)


def batch_key_of(model_version: ModelVersion, tile_plan: TilePlan, dtype: str) -> BatchKey:
    """What the tiles of a picture have in common with those that may share their batch."""
    height, width = tile_plan.bucket
    return BatchKey(model=model_version.model, height=height, width=width, dtype=dtype)
