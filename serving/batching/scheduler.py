"""Batches the tiles of many requests, with fair queueing between clients and between requests.

Two levels of fair queueing by virtual time (Parekh and Gallager 1993, generalized processor
sharing): clients, and the requests of each client. Every client and request is charged the pixels
it was served; a new or idle one starts at the current virtual time. Within the same quantum of
`fair_pixels`, the earliest deadline goes first. So neither fifty requests nor one huge picture
starve the small pictures of other clients or of the same client.

Background requests are served one tile at a time and only while no other request is open.
"""

import itertools
import threading
import time
from collections.abc import Callable, Hashable, Iterable, Sequence

from serving.batching.tiles import (
    Batch,
    BatchItem,
    BatchKey,
    BatchLimits,
    Tile,
    TileReceiver,
    TileRequest,
)

Clock = Callable[[], float]
Rank = tuple[float, float, int]  # charged pixels in quanta, deadline, serial; the lowest goes first


class FairShares:
    """The virtual time of one level of fair queueing, in LR pixels."""

    __slots__ = ("active", "served_pixels")

    def __init__(self) -> None:
        self.served_pixels = 0.0  # virtual time: service of a member that was always active
        self.active = 0  # members with pending tiles

    def charge(self, pixels: int) -> None:
        self.served_pixels += pixels / max(1, self.active)


class ClientQueue:
    """The state of one client with open requests; `charged` is its virtual time in LR pixels."""

    __slots__ = ("charged", "requests", "waiting")

    def __init__(self) -> None:
        self.charged = 0.0
        self.requests = FairShares()
        self.waiting = 0  # requests with pending tiles


class Scheduler:
    """Queues tiles by batch key and returns them in batches; thread-safe."""

    def __init__(self, limits: BatchLimits, clock: Clock = time.monotonic) -> None:
        self._limits = limits
        self._clock = clock
        self._changed = threading.Condition()
        # Requests with pending tiles, by serial.
        self._waiting: dict[BatchKey, dict[int, TileRequest]] = {}
        self._background: dict[int, TileRequest] = {}  # the same, in order of arrival
        self._open: dict[int, TileRequest] = {}
        self._clients: dict[str, ClientQueue] = {}  # those with open requests
        self._shares = FairShares()
        self._serials = itertools.count()
        self._stopped: Exception | None = None

    def open(
        self,
        batch_key: BatchKey,
        *,
        deadline_seconds: float,
        receiver: TileReceiver,
        client: str = "",
        background: bool = False,
    ) -> TileRequest:
        """Open a request; `deadline_seconds` is on the scheduler's clock.

        Requests with the same `client` share one client's part of the device. A background request
        is served while no other request is open.
        """
        with self._changed:
            request = TileRequest(
                batch_key, deadline_seconds, receiver, client, background, next(self._serials)
            )
            if self._stopped is not None:
                raise self._stopped
            self._open[request.serial] = request
            return request

    def put(self, request: TileRequest, tiles: Iterable[tuple[int, Tile]]) -> None:
        """Queue tiles of a request; ignored once the request is closed or has failed."""
        with self._changed:
            if request.closed:
                return
            was_idle = not request.pending
            now_seconds = self._clock()
            request.pending.extend((index, tile, now_seconds) for index, tile in tiles)
            if was_idle and request.pending:
                self._enqueue(request)
            if request.pending:
                self._changed.notify_all()  # there may be enough for several batches

    def close(self, request: TileRequest) -> None:
        """Close a request: drop its queued tiles and call its receiver no more."""
        with self._changed:
            self._close(request)
            self._changed.notify_all()  # background requests may be due now

    def take(self) -> Batch | None:
        """The batch that is due now, or None; never blocks."""
        with self._changed:
            due = [batch_key for batch_key in self._waiting if self._due_in_seconds(batch_key) <= 0]
            if due:
                return self._fill(min(due, key=self._key_rank))
            return self._background_batch() if self._background_is_due() else None

    def next_batch(self, unless: Callable[[], bool] = lambda: False) -> Batch | None:
        """Wait for the next batch. None after `stop`, or once `unless()` is true (see `wake`)."""
        with self._changed:
            while not unless() and self._stopped is None:
                batch = self.take()
                if batch is not None:
                    return batch
                self._changed.wait(self.wait_seconds())
            return None

    def wait_seconds(self) -> float | None:
        """Seconds until a batch is due if no tiles are added; None if none are queued."""
        with self._changed:
            waits = [self._due_in_seconds(batch_key) for batch_key in self._waiting]
            if self._background_is_due():
                waits.append(0.0)
            return max(0.0, min(waits)) if waits else None

    def deliver(self, batch: Batch, results: Sequence[Tile]) -> None:
        """Pass each result to its request's receiver; `results` are in the order of `items`."""
        for item, result in zip(batch.items, results, strict=True):
            if not item.request.closed:
                item.request.receiver.done(item.index, result)

    def fail(self, batch: Batch, error: Exception) -> None:
        """Fail the requests that have tiles in this batch, and no others."""
        for request in {item.request.serial: item.request for item in batch.items}.values():
            self._fail(request, error)

    def wake(self) -> None:
        """Make every waiting `next_batch` evaluate `unless` again."""
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
        """The number of queued tiles by model; models without any are absent."""
        with self._changed:
            queued: dict[Hashable, int] = {}
            for batch_key, requests in self._waiting.items():
                waiting = sum(len(request.pending) for request in requests.values())
                queued[batch_key.model] = queued.get(batch_key.model, 0) + waiting
            return queued

    def _due_in_seconds(self, batch_key: BatchKey) -> float:
        requests = self._waiting[batch_key].values()
        if sum(len(request.pending) for request in requests) >= self._limits.tiles_in(batch_key):
            return 0.0
        oldest_seconds = min(request.pending[0][2] for request in requests)
        return oldest_seconds + self._limits.max_wait_seconds - self._clock()

    def _background_is_due(self) -> bool:
        # Only while every open request is in the background: nothing else is delayed.
        return bool(self._background) and all(request.background for request in self._open.values())

    def _background_batch(self) -> Batch:
        request = next(iter(self._background.values()))
        index, tile, _ = request.pending.popleft()
        if not request.pending:
            self._unqueue(request)
        return Batch(
            batch_key=request.batch_key, items=(BatchItem(request, index, tile),), capacity=1
        )

    def _client_rank(self, request: TileRequest) -> Rank:
        """The rank of the request's client."""
        quanta = self._clients[request.client].charged // self._limits.fair_pixels
        return (quanta, request.deadline_seconds, request.serial)

    def _request_rank(self, request: TileRequest) -> Rank:
        """The rank of a request among those of its client."""
        quanta = request.charged // self._limits.fair_pixels
        return (quanta, request.deadline_seconds, request.serial)

    def _next_of_each_client(self, batch_key: BatchKey) -> list[TileRequest]:
        """The request of each client with the lowest rank."""
        by_client: dict[str, TileRequest] = {}
        for request in self._waiting[batch_key].values():
            best = by_client.get(request.client)
            if best is None or self._request_rank(request) < self._request_rank(best):
                by_client[request.client] = request
        return list(by_client.values())

    def _key_rank(self, batch_key: BatchKey) -> Rank:
        return min(self._client_rank(request) for request in self._next_of_each_client(batch_key))

    def _fill(self, batch_key: BatchKey) -> Batch:
        capacity = self._limits.tiles_in(batch_key)
        items: list[BatchItem] = []
        while batch_key in self._waiting and len(items) < capacity:
            request = min(self._next_of_each_client(batch_key), key=self._client_rank)
            index, tile, _ = request.pending.popleft()
            items.append(BatchItem(request, index, tile))
            client = self._clients[request.client]
            client.charged += batch_key.tile_pixels
            request.charged += batch_key.tile_pixels
            self._shares.charge(batch_key.tile_pixels)
            client.requests.charge(batch_key.tile_pixels)
            if not request.pending:
                self._unqueue(request)
        return Batch(batch_key=batch_key, items=tuple(items), capacity=capacity)

    def _enqueue(self, request: TileRequest) -> None:
        """Queue a request; one that was idle gets no credit and starts at the virtual time."""
        if request.background:
            self._background[request.serial] = request
            return
        client = self._clients.setdefault(request.client, ClientQueue())
        if not client.waiting:
            client.charged = max(client.charged, self._shares.served_pixels)
            self._shares.active += 1
        client.waiting += 1
        client.requests.active += 1
        request.charged = max(request.charged, client.requests.served_pixels)
        self._waiting.setdefault(request.batch_key, {})[request.serial] = request

    def _unqueue(self, request: TileRequest) -> None:
        if self._background.pop(request.serial, None) is not None:
            return
        requests = self._waiting.get(request.batch_key, {})
        if requests.pop(request.serial, None) is None:
            return
        if not requests:
            del self._waiting[request.batch_key]
        client = self._clients[request.client]
        client.waiting -= 1
        client.requests.active -= 1
        if not client.waiting:
            self._shares.active -= 1

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
