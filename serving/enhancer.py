"""One picture's way through the house: decode, split, queue, join, check, encode.

The event loop only waits and passes on; everything that touches pixels runs in worker threads, a
few at a time, and the networks on the engine's thread.
"""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass
from itertools import islice
from typing import Protocol, TypeVar

from anyio import CapacityLimiter, to_thread

from serving.drift import LiveWindow, Observation, consistency_db
from serving.errors import DeadlinePassed
from serving.models import Offer
from serving.scheduler import BatchLimits, Lane, Scheduler, Tile
from superres.image import Limits, Picture, check_format_holds, decode, encode
from superres.measure import measure
from superres.tiling import Joiner, TilePlan, cut_one
from superres.upscale import enlarged

Result = TypeVar("Result")

BATCHES_AHEAD = 2  # of one picture's tiles in the queue; the rest are cut as these come back


class Watcher(Protocol):
    """Hears how long the stages of a picture take and what goes through."""

    def stage_done(self, stage: str, seconds: float) -> None: ...

    def picture_done(self, model: str, waste_ratio: float, taken: int, given: int) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What one client asked for; `deadline_seconds` is on the scheduler's clock."""

    data: bytes
    name: str
    offer: Offer
    format: str
    quality: int
    limits: Limits
    deadline_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """An encoded picture and how long each stage took."""

    data: bytes
    width: int
    height: int
    stage_seconds: dict[str, float]


class Stages:
    """Takes the time of each stage of one picture."""

    def __init__(self, watcher: Watcher) -> None:
        self._watcher = watcher
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def __call__(self, stage: str) -> Generator[None]:
        started_seconds = time.perf_counter()
        yield
        self.seconds[stage] = time.perf_counter() - started_seconds
        self._watcher.stage_done(stage, self.seconds[stage])


class Enhancer:
    """Turns orders into answers."""

    def __init__(
        self,
        scheduler: Scheduler,
        limits: BatchLimits,
        window: LiveWindow,
        watcher: Watcher,
        worker_threads: int,
    ) -> None:
        self._scheduler = scheduler
        self._limits = limits
        self._window = window
        self._watcher = watcher
        self._workers = CapacityLimiter(worker_threads)

    async def in_worker(self, work: Callable[[], Result]) -> Result:
        """Run `work` on a worker thread, waiting for a free one."""
        return await to_thread.run_sync(work, limiter=self._workers)

    async def enhance(self, order: Order, stages: Stages) -> Answer:
        """Raises PictureError, DeadlinePassed, or what the scheduler failed the picture with."""
        timeout_seconds = order.deadline_seconds - time.monotonic()
        try:
            async with asyncio.timeout(timeout_seconds):
                return await self._enhance(order, stages)
        except TimeoutError:
            raise DeadlinePassed("the answer was not ready in time") from None

    async def _enhance(self, order: Order, stages: Stages) -> Answer:
        picture = await self._timed(stages, "decode", lambda: _decoded(order))
        with stages("network"):
            answer = await self._enlarge(picture, order)
        observation, data = await asyncio.gather(
            self._timed(stages, "check", lambda: _observed(picture, answer)),
            self._timed(
                stages, "encode", lambda: encode(answer, order.format, quality=order.quality)
            ),
        )
        self._window.add(order.offer.name, observation)
        return Answer(
            data=data, width=answer.width, height=answer.height, stage_seconds=stages.seconds
        )

    async def _timed(self, stages: Stages, stage: str, work: Callable[[], Result]) -> Result:
        with stages(stage):
            return await self.in_worker(work)

    async def _enlarge(self, picture: Picture, order: Order) -> Picture:
        model = order.offer.model
        tile_plan, _ = model.upscaler.split(picture)
        joiner = Joiner(tile_plan)
        await self._run_tiles(picture, tile_plan, joiner, order)
        self._watcher.picture_done(
            order.offer.name,
            tile_plan.waste_ratio,
            picture.pixels,
            picture.pixels * tile_plan.scale**2,
        )
        return await self.in_worker(lambda: enlarged(picture, joiner.result(), tile_plan.scale))

    async def _run_tiles(
        self, picture: Picture, tile_plan: TilePlan, joiner: Joiner, order: Order
    ) -> None:
        """Every tile through the queue, never more than a few batches of them at once."""
        lane = Lane(
            model=order.offer.model,
            height=tile_plan.bucket[0],
            width=tile_plan.bucket[1],
            dtype=str(picture.rgb_hwc.dtype),
        )
        ahead = BATCHES_AHEAD * self._limits.tiles_in(lane)
        mailbox = Mailbox()
        request = self._scheduler.open(
            lane, deadline_seconds=order.deadline_seconds, receiver=mailbox
        )
        to_cut = iter(range(len(tile_plan.boxes)))

        def step(results: list[tuple[int, Tile]]) -> None:
            """Take results in, and put as many new tiles into the queue as have come back."""
            free = len(results) or ahead
            self._scheduler.put(
                request,
                [
                    (index, cut_one(picture.rgb_hwc, tile_plan, index))
                    for index in islice(to_cut, free)
                ],
            )
            for index, result_hwc in results:
                joiner.add(index, result_hwc)

        try:
            results: list[tuple[int, Tile]] = []
            joined = 0
            while joined < len(tile_plan.boxes):
                await self.in_worker(lambda results=results: step(results))
                joined += len(results)
                if joined < len(tile_plan.boxes):
                    results = await mailbox.take()
        finally:
            self._scheduler.close(request)


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


def _decoded(order: Order) -> Picture:
    picture = decode(order.data, name=order.name, limits=order.limits)
    check_format_holds(picture, order.format)
    return picture


def _observed(picture: Picture, answer: Picture) -> Observation:
    return Observation(
        features=measure(picture.rgb_hwc), consistency_db=consistency_db(picture, answer)
    )
