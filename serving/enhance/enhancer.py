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
from serving.batching.tiles import BatchLimits, Lane, Tile, TileRequest
from serving.enhance.request import Answer, Order, Stages
from serving.enhance.strips import Stripes
from serving.errors import DeadlinePassed
from serving.models.routing import Offer
from serving.requests.pieces import Pieces
from serving.setting_groups import ConsistencySettings
from serving.telemetry.drift import LiveWindow
from superres.image.codecs import Picture
from superres.model.tiling import TilePlan, plan

Result = TypeVar("Result")

BATCHES_AHEAD = 2  # of one picture's tiles in the queue; the rest are cut as these come back


class Watcher(Protocol):
    """Hears what goes through."""

    def picture_done(
        self, offer: Offer, *, waste_ratio: float, taken: int, given: int, seconds: float
    ) -> None: ...

    def picture_failed(self, offer: Offer) -> None: ...

    def inconsistent(self, offer: Offer, regions: int) -> None: ...


class Shadows(Protocol):
    """Takes tiles that a shadow is to be compared on; must not block."""

    def wants(self, offer: Offer) -> bool: ...

    def compare(self, offer: Offer, kept: list[tuple[Tile, Tile]]) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class EnhancerParts:
    """What an enhancer is made of."""

    scheduler: Scheduler
    limits: BatchLimits
    window: LiveWindow
    watcher: Watcher
    shadows: Shadows
    consistency: ConsistencySettings
    worker_threads: int


class Enhancer:
    """Turns orders into answers."""

    def __init__(self, parts: EnhancerParts) -> None:
        self._parts = parts
        self._workers = CapacityLimiter(parts.worker_threads)
        # A refusal must not wait for a place behind pictures that are being encoded.
        self._quick_workers = CapacityLimiter(2)

    async def in_worker(self, work: Callable[[], Result]) -> Result:
        """Run `work` on a worker thread, waiting for a free one."""
        return await to_thread.run_sync(work, limiter=self._workers)

    async def quickly(self, work: Callable[[], Result]) -> Result:
        """The same for what takes a few milliseconds at most, apart from the heavy work."""
        return await to_thread.run_sync(work, limiter=self._quick_workers)

    async def enhance(self, order: Order, stages: Stages) -> Answer:
        """The answer as soon as its first piece is there.

        Raises PictureError, DeadlinePassed, Inconsistent, or what the scheduler failed it with.
        """
        time_left = TimeLeft(order.deadline_seconds)
        picture = await time_left.spend_on(self._decoded(order, stages))
        stripes = await time_left.spend_on(self.in_worker(lambda: self._stripes(picture, order)))
        pieces = self._pieces(stripes, order, stages, time_left)
        try:
            # An answer that may be flagged is held back, for its header comes before its pixels.
            most = None if self._parts.consistency.action == "flag" else 1
            first = await self._begin(pieces, stripes, most)
        except BaseException:
            await pieces.aclose()
            raise
        return Answer(
            width=stripes.width,
            height=stripes.height,
            pieces=Pieces(first, pieces),
            size=sum(map(len, first)) if stripes.complete else None,
            verdict=stripes.verdict,
            stage_seconds=dict(stages.seconds),
        )

    async def _begin(
        self, pieces: AsyncGenerator[bytes], stripes: Stripes, most: int | None
    ) -> list[bytes]:
        first: list[bytes] = []
        while not stripes.complete and (most is None or len(first) < most):
            first.append(await anext(pieces))
        return first

    async def _decoded(self, order: Order, stages: Stages) -> Picture:
        with stages("decode"):
            return await self.in_worker(order.read)

    def _stripes(self, picture: Picture, order: Order) -> Stripes:
        geometry = order.offer.model.upscaler.geometry
        tile_plan = plan(picture.height, picture.width, geometry)
        return Stripes(picture, tile_plan, order, self._parts.consistency)

    async def _pieces(
        self, stripes: Stripes, order: Order, stages: Stages, time_left: "TimeLeft"
    ) -> AsyncGenerator[bytes]:
        """The file, piece by piece; every tile goes through the queue, a few batches at once."""
        lane = lane_of(order.offer, stripes.plan, str(stripes.picture.rgb_hwc.dtype))
        ahead = BATCHES_AHEAD * self._parts.limits.tiles_in(lane)
        keep = self._parts.shadows.wants(order.offer)
        mailbox = Mailbox()
        request = self._parts.scheduler.open(
            lane,
            deadline_seconds=order.deadline_seconds,
            receiver=mailbox,
            client=order.client,
            background=order.background,
        )
        results: list[tuple[int, Tile]] = []
        began_seconds = time.monotonic()
        try:
            while not stripes.complete:
                piece = await time_left.spend_on(
                    self.in_worker(
                        partial(self._step, stripes, request, results, len(results) or ahead, keep)
                    )
                )
                order.progress(stripes.share_done)
                if stripes.complete:
                    await self._finish(stripes, order, stages, began_seconds)
                if piece:
                    yield piece
                results = []
                if stripes.waits_for_device:
                    waited_from_seconds = time.perf_counter()
                    results = await time_left.spend_on(mailbox.take())
                    stages.add("network", time.perf_counter() - waited_from_seconds)
        except Exception:
            self._parts.watcher.picture_failed(order.offer)
            raise
        finally:
            self._parts.scheduler.close(request)
            if stripes.verdict.regions_off:
                self._parts.watcher.inconsistent(order.offer, stripes.verdict.regions_off)
        if stripes.kept:
            self._parts.shadows.compare(order.offer, stripes.kept)

    def _step(
        self,
        stripes: Stripes,
        request: TileRequest,
        results: list[tuple[int, Tile]],
        free: int,
        keep: bool,
    ) -> bytes:
        """Put as many new tiles into the queue as have come back, then take these in."""
        self._parts.scheduler.put(request, stripes.cut(free))
        return stripes.add(results, keep=keep)

    async def _finish(
        self, stripes: Stripes, order: Order, stages: Stages, began_seconds: float
    ) -> None:
        """What is told of a picture before its last piece leaves."""
        parts = self._parts
        parts.window.add(order.offer.name, await self.in_worker(stripes.observe))
        stages.add("check", stripes.check_seconds)
        stages.add("encode", stripes.encode_seconds)
        stages.tell()
        picture, tile_plan = stripes.picture, stripes.plan
        parts.watcher.picture_done(
            order.offer,
            waste_ratio=tile_plan.waste_ratio,
            taken=picture.pixels,
            given=picture.pixels * tile_plan.scale**2,
            seconds=time.monotonic() - began_seconds,
        )


class TimeLeft:
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


class Mailbox:
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


def lane_of(offer: Offer, tile_plan: TilePlan, dtype: str) -> Lane:
    """What the tiles of a picture have in common with those that may share their batch."""
    height, width = tile_plan.bucket
    return Lane(model=offer.model, height=height, width=width, dtype=dtype)
