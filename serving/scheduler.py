"""Tiles of many requests in one batch: which go next, and when a batch is worth sending.

The earliest deadline goes first among requests that were served about alike; who has had more
than `fair_pixels` more than others waits for them. That is fair queueing by tags (Parekh and
Gallager 1993, generalized processor sharing): each request is charged the pixels it was served, and
one that arrives starts from what a request present all along would have been served by now. So a
huge picture takes its turn like a small one, and neither starves the other.
"""

import heapq
import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import NDArray

Tile = NDArray[Any]
Clock = Callable[[], float]
Rank = tuple[int, float, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    """What tiles must have in common to share a batch; `height` and `width` in LR pixels."""

    model: Hashable
    height: int
    width: int
    dtype: str

    @property
    def tile_pixels(self) -> int:
        return self.height * self.width


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchLimits:
    """A batch goes when it holds `max_tiles` tiles or `max_pixels` LR pixels, or after the wait.

    `fair_pixels` is how far ahead of others an early deadline may bring a request.
    """

    max_tiles: int = 8
    max_pixels: int = 512 * 512
    max_wait_seconds: float = 0.005
    fair_pixels: int = 512 * 512

    def tiles_in(self, lane: Lane) -> int:
        """How many tiles of this lane make a full batch; at least one."""
        return max(1, min(self.max_tiles, self.max_pixels // lane.tile_pixels))


class Receiver(Protocol):
    """Hears of one request's tiles, on an engine's thread; must not block."""

    def done(self, index: int, tile: Tile) -> None: ...

    def failed(self, error: Exception) -> None: ...


class TileRequest:
    """One picture's place in the queue; made by `Scheduler.open`."""

    __slots__ = ("charged", "closed", "deadline_seconds", "lane", "pending", "receiver", "serial")

    def __init__(self, lane: Lane, deadline_seconds: float, receiver: Receiver, serial: int):
        self.lane = lane
        self.deadline_seconds = deadline_seconds
        self.receiver = receiver
        self.serial = serial
        self.pending: deque[tuple[int, Tile, float]] = deque()  # index, tile, when it was put
        self.charged = 0.0  # LR pixels; comparable between requests, not with a clock
        self.closed = False


@dataclass(frozen=True, slots=True)
class Slot:
    """One tile of a batch and whose it is."""

    request: TileRequest
    index: int
    tile: Tile


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Tiles of one lane to run together; `capacity` is what a full batch would hold."""

    lane: Lane
    slots: tuple[Slot, ...]
    capacity: int

    @property
    def tiles(self) -> list[Tile]:
        return [slot.tile for slot in self.slots]


class Scheduler:
    """Queues tiles per lane and deals them out in batches; safe to use from any thread."""

    def __init__(self, limits: BatchLimits, clock: Clock = time.monotonic) -> None:
        self._limits = limits
        self._clock = clock
        self._changed = threading.Condition()
        self._waiting: dict[Lane, dict[int, TileRequest]] = {}  # by serial; all have pending tiles
        self._open: dict[int, TileRequest] = {}
        self._serials = itertools.count()
        self._fair_share = 0.0  # pixels that a request present all along was served by now
        self._interrupted = False
        self._stopped: Exception | None = None

    def open(self, lane: Lane, *, deadline_seconds: float, receiver: Receiver) -> TileRequest:
        """Enter a request; `deadline_seconds` is on the scheduler's clock."""
        with self._changed:
            request = TileRequest(lane, deadline_seconds, receiver, next(self._serials))
            if self._stopped is not None:
                raise self._stopped
            self._open[request.serial] = request
            return request

    def put(self, request: TileRequest, tiles: Iterable[tuple[int, Tile]]) -> None:
        """Queue more tiles of a request; nothing happens once it is closed or has failed."""
        with self._changed:
            if request.closed:
                return
            if not request.pending:
                # An idle request saves up no credit: it rejoins at the present.
                request.charged = max(request.charged, self._fair_share)
            now_seconds = self._clock()
            request.pending.extend((index, tile, now_seconds) for index, tile in tiles)
            if request.pending:
                self._waiting.setdefault(request.lane, {})[request.serial] = request
                self._changed.notify()

    def close(self, request: TileRequest) -> None:
        """Forget a request: its queued tiles are dropped and its receiver hears no more."""
        with self._changed:
            self._close(request)

    def take(self) -> Batch | None:
        """The batch that is due now, if any; never blocks."""
        with self._changed:
            due = [lane for lane in self._waiting if self._due_in_seconds(lane) <= 0]
            if not due:
                return None
            return self._fill(min(due, key=self._lane_rank))

    def next_batch(self) -> Batch | None:
        """Wait for the next batch. None after `interrupt` or `stop`."""
        with self._changed:
            while not self._interrupted and self._stopped is None:
                batch = self.take()
                if batch is not None:
                    return batch
                self._changed.wait(self.wait_seconds())
            self._interrupted = False
            return None

    def wait_seconds(self) -> float | None:
        """Seconds until a batch is due if nothing more is put; None where nothing is queued."""
        with self._changed:
            waits = [self._due_in_seconds(lane) for lane in self._waiting]
            return max(0.0, min(waits)) if waits else None

    def deliver(self, batch: Batch, results: Sequence[Tile]) -> None:
        """Hand each result to its request, in the order of the batch's slots."""
        for slot, result in zip(batch.slots, results, strict=True):
            if not slot.request.closed:
                slot.request.receiver.done(slot.index, result)

    def fail(self, batch: Batch, error: Exception) -> None:
        """End the requests that had tiles in this batch, and no others."""
        for request in {slot.request.serial: slot.request for slot in batch.slots}.values():
            self._fail(request, error)

    def interrupt(self) -> None:
        """Make the present or next `next_batch` return None once."""
        with self._changed:
            self._interrupted = True
            self._changed.notify_all()

    def stop(self, error: Exception) -> None:
        """Fail every open request with `error` and refuse new ones with it."""
        with self._changed:
            self._stopped = error
            self._changed.notify_all()
            requests = list(self._open.values())
        for request in requests:
            self._fail(request, error)

    def queued_tiles(self) -> dict[Hashable, int]:
        """Tiles waiting now, by model; a model without any is absent."""
        with self._changed:
            queued: dict[Hashable, int] = {}
            for lane, requests in self._waiting.items():
                waiting = sum(len(request.pending) for request in requests.values())
                queued[lane.model] = queued.get(lane.model, 0) + waiting
            return queued

    def _due_in_seconds(self, lane: Lane) -> float:
        requests = self._waiting[lane].values()
        if sum(len(request.pending) for request in requests) >= self._limits.tiles_in(lane):
            return 0.0
        oldest_seconds = min(request.pending[0][2] for request in requests)
        return oldest_seconds + self._limits.max_wait_seconds - self._clock()

    def _rank(self, request: TileRequest) -> Rank:
        """Lowest goes next."""
        quanta = int(request.charged // self._limits.fair_pixels)
        return (quanta, request.deadline_seconds, request.serial)

    def _lane_rank(self, lane: Lane) -> Rank:
        return min(self._rank(request) for request in self._waiting[lane].values())

    def _fill(self, lane: Lane) -> Batch:
        capacity = self._limits.tiles_in(lane)
        ranked = [(self._rank(request), request) for request in self._waiting[lane].values()]
        heapq.heapify(ranked)  # ranks are unique (serial), so requests are never compared
        slots: list[Slot] = []
        while ranked and len(slots) < capacity:
            _, request = heapq.heappop(ranked)
            index, tile, _ = request.pending.popleft()
            slots.append(Slot(request, index, tile))
            request.charged += lane.tile_pixels
            self._fair_share += lane.tile_pixels / sum(map(len, self._waiting.values()))
            if request.pending:
                heapq.heappush(ranked, (self._rank(request), request))
            else:
                self._unqueue(request)
        return Batch(lane=lane, slots=tuple(slots), capacity=capacity)

    def _unqueue(self, request: TileRequest) -> None:
        requests = self._waiting.get(request.lane, {})
        requests.pop(request.serial, None)
        if not requests:
            self._waiting.pop(request.lane, None)

    def _close(self, request: TileRequest) -> None:
        request.closed = True
        request.pending.clear()
        self._open.pop(request.serial, None)
        self._unqueue(request)

    def _fail(self, request: TileRequest, error: Exception) -> None:
        with self._changed:
            if request.closed:
                return
            self._close(request)
        request.receiver.failed(error)
