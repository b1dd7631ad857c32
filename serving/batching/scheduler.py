"""Tiles of many requests in one batch: which go next, and when a batch is worth sending.

The earliest deadline goes first among clients that were served about alike; who has had more than
`fair_pixels` more than others waits for them. The same holds among the requests of one client, so
neither fifty requests nor one huge picture starve anybody else's, or the client's own, small one.
That is fair queueing by tags (Parekh and Gallager 1993, generalized processor sharing), on two
levels: each is charged the pixels it was served, and one that arrives starts from what somebody
present all along would have been served by now.

Background requests go one tile at a time and only while no other request is open.
"""

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
Rank = tuple[int, float, int]  # what was had in quanta, deadline, serial; the lowest goes next


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


class Shares:
    """Who was served how much, in LR pixels; the tags of one level of fair queueing."""

    __slots__ = ("present", "served_pixels")

    def __init__(self) -> None:
        self.served_pixels = 0.0  # what somebody present all along was served by now
        self.present = 0

    def charge(self, pixels: int) -> None:
        self.served_pixels += pixels / max(1, self.present)


class Client:
    """Everything that one client has waiting; `charged` is comparable between clients."""

    __slots__ = ("charged", "requests", "waiting")

    def __init__(self) -> None:
        self.charged = 0.0
        self.requests = Shares()
        self.waiting = 0  # requests with pending tiles


class TileRequest:
    """One picture's place in the queue; made by `Scheduler.open`."""

    __slots__ = (
        "background",
        "charged",
        "client",
        "closed",
        "deadline_seconds",
        "lane",
        "pending",
        "receiver",
        "serial",
    )

    def __init__(
        self,
        lane: Lane,
        deadline_seconds: float,
        receiver: Receiver,
        client: str,
        background: bool,
        serial: int,
    ):
        self.lane = lane
        self.deadline_seconds = deadline_seconds
        self.receiver = receiver
        self.client = client
        self.background = background
        self.serial = serial
        self.pending: deque[tuple[int, Tile, float]] = deque()  # index, tile, when it was put
        self.charged = 0.0  # LR pixels; comparable between requests of one client
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
        self._background: dict[int, TileRequest] = {}  # the same, and in the order they came
        self._open: dict[int, TileRequest] = {}
        self._clients: dict[str, Client] = {}  # those with open requests
        self._shares = Shares()
        self._serials = itertools.count()
        self._stopped: Exception | None = None

    def open(
        self,
        lane: Lane,
        *,
        deadline_seconds: float,
        receiver: Receiver,
        client: str = "",
        background: bool = False,
    ) -> TileRequest:
        """Enter a request; `deadline_seconds` is on the scheduler's clock.

        `client` says who shares one client's part of the device. A background request is served
        while nothing else is open.
        """
        with self._changed:
            request = TileRequest(
                lane, deadline_seconds, receiver, client, background, next(self._serials)
            )
            if self._stopped is not None:
                raise self._stopped
            self._open[request.serial] = request
            return request

    def put(self, request: TileRequest, tiles: Iterable[tuple[int, Tile]]) -> None:
        """Queue more tiles of a request; nothing happens once it is closed or has failed."""
        with self._changed:
            if request.closed:
                return
            was_idle = not request.pending
            now_seconds = self._clock()
            request.pending.extend((index, tile, now_seconds) for index, tile in tiles)
            if was_idle and request.pending:
                self._enqueue(request)
            if request.pending:
                self._changed.notify_all()  # one may take a batch and leave enough for another

    def close(self, request: TileRequest) -> None:
        """Forget a request: its queued tiles are dropped and its receiver hears no more."""
        with self._changed:
            self._close(request)
            self._changed.notify_all()  # the background may have waited for this

    def take(self) -> Batch | None:
        """The batch that is due now, if any; never blocks."""
        with self._changed:
            due = [lane for lane in self._waiting if self._due_in_seconds(lane) <= 0]
            if due:
                return self._fill(min(due, key=self._lane_rank))
            return self._one_of_background() if self._background_is_due() else None

    def next_batch(self, unless: Callable[[], bool] = lambda: False) -> Batch | None:
        """Wait for the next batch. None after `stop`, or once `unless` holds (see `wake`)."""
        with self._changed:
            while not unless() and self._stopped is None:
                batch = self.take()
                if batch is not None:
                    return batch
                self._changed.wait(self.wait_seconds())
            return None

    def wait_seconds(self) -> float | None:
        """Seconds until a batch is due if nothing more is put; None where nothing is queued."""
        with self._changed:
            waits = [self._due_in_seconds(lane) for lane in self._waiting]
            if self._background_is_due():
                waits.append(0.0)
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

    def wake(self) -> None:
        """Let everybody in `next_batch` ask `unless` again."""
        with self._changed:
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

    def _background_is_due(self) -> bool:
        # All that is open is in the background: nobody can be made to wait.
        return bool(self._background) and all(request.background for request in self._open.values())

    def _one_of_background(self) -> Batch:
        request = next(iter(self._background.values()))
        index, tile, _ = request.pending.popleft()
        if not request.pending:
            self._unqueue(request)
        return Batch(lane=request.lane, slots=(Slot(request, index, tile),), capacity=1)

    def _client_rank(self, request: TileRequest) -> Rank:
        """Whose turn it is: `request` stands for its client."""
        quanta = int(self._clients[request.client].charged // self._limits.fair_pixels)
        return (quanta, request.deadline_seconds, request.serial)

    def _request_rank(self, request: TileRequest) -> Rank:
        """Which request of a client is next."""
        quanta = int(request.charged // self._limits.fair_pixels)
        return (quanta, request.deadline_seconds, request.serial)

    def _first_of_each_client(self, lane: Lane) -> list[TileRequest]:
        first: dict[str, TileRequest] = {}
        for request in self._waiting[lane].values():
            known = first.get(request.client)
            if known is None or self._request_rank(request) < self._request_rank(known):
                first[request.client] = request
        return list(first.values())

    def _lane_rank(self, lane: Lane) -> Rank:
        return min(self._client_rank(request) for request in self._first_of_each_client(lane))

    def _fill(self, lane: Lane) -> Batch:
        capacity = self._limits.tiles_in(lane)
        slots: list[Slot] = []
        while lane in self._waiting and len(slots) < capacity:
            request = min(self._first_of_each_client(lane), key=self._client_rank)
            index, tile, _ = request.pending.popleft()
            slots.append(Slot(request, index, tile))
            client = self._clients[request.client]
            client.charged += lane.tile_pixels
            request.charged += lane.tile_pixels
            self._shares.charge(lane.tile_pixels)
            client.requests.charge(lane.tile_pixels)
            if not request.pending:
                self._unqueue(request)
        return Batch(lane=lane, slots=tuple(slots), capacity=capacity)

    def _enqueue(self, request: TileRequest) -> None:
        """Who was idle saves up no credit: it rejoins at the present."""
        if request.background:
            self._background[request.serial] = request
            return
        client = self._clients.setdefault(request.client, Client())
        if not client.waiting:
            client.charged = max(client.charged, self._shares.served_pixels)
            self._shares.present += 1
        client.waiting += 1
        client.requests.present += 1
        request.charged = max(request.charged, client.requests.served_pixels)
        self._waiting.setdefault(request.lane, {})[request.serial] = request

    def _unqueue(self, request: TileRequest) -> None:
        if self._background.pop(request.serial, None) is not None:
            return
        requests = self._waiting.get(request.lane, {})
        if requests.pop(request.serial, None) is None:
            return
        if not requests:
            del self._waiting[request.lane]
        client = self._clients[request.client]
        client.waiting -= 1
        client.requests.present -= 1
        if not client.waiting:
            self._shares.present -= 1

    def _close(self, request: TileRequest) -> None:
        request.closed = True
        request.pending.clear()
        self._open.pop(request.serial, None)
        self._unqueue(request)
        if not any(other.client == request.client for other in self._open.values()):
            self._clients.pop(request.client, None)

    def _fail(self, request: TileRequest, error: Exception) -> None:
        with self._changed:
            if request.closed:
                return
            self._close(request)
        request.receiver.failed(error)
