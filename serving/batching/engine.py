"""Runs batches: each device is used by the thread of its engine only.

A batch that is too large for the device's memory is run in smaller parts, if necessary in smaller
tiles, with the same result. A lost device fails every request, because only a new process can use
it again.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future
from typing import Any, Protocol, TypeVar

import numpy as np

from serving.batching.scheduler import Scheduler
from serving.batching.tiles import Batch, Tile
from serving.errors import ModelFailed, NotReady
from superres.model.backends import DeviceLost, DeviceOutOfMemory

log = logging.getLogger(__name__)

Result = TypeVar("Result")
Shape = tuple[str | int, ...]


class Network(Protocol):
    """The interface of a batch key's model; `device_index` selects the engine's device."""

    name: str

    def forward(self, tiles_bhwc: Tile, device_index: int) -> Tile:
        """Enlarge tiles (B, h, w, 3) to (B, h * scale, w * scale, 3)."""
        ...

    def forward_in_parts(self, tile_hwc: Tile, device_index: int) -> Tile:
        """Enlarge one tile (h, w, 3) in smaller tiles; only its core must be exact.

        Raises DeviceOutOfMemory if the smallest tiles do not fit either.
        """
        ...


class BatchObserver(Protocol):
    """Is notified of finished and failed batches."""

    def batch_done(self, model: str, *, fill_ratio: float, pixels: int, seconds: float) -> None: ...

    def batch_failed(self, model: str) -> None: ...

    def out_of_memory(self, model: str) -> None: ...


class Engine:
    """Runs batches and device tasks, one at a time, on its own thread."""

    def __init__(
        self, scheduler: Scheduler, observer: BatchObserver, device_index: int = 0
    ) -> None:
        self._scheduler = scheduler
        self._observer = observer
        self._device_index = device_index
        self._lock = threading.Lock()
        self._device_tasks: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._max_tiles: dict[Shape, int] = {}  # that fit into the device's memory, once known
        self._stopping = False
        self._batch_began_seconds: float | None = None
        self._lost: DeviceLost | None = None
        self._thread = threading.Thread(
            target=self._run, name=f"engine-{device_index}", daemon=True
        )

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    @property
    def lost(self) -> DeviceLost | None:
        """Why this process cannot use the device again; None while it can."""
        return self._lost

    @property
    def busy_seconds(self) -> float:
        """Run time of the current batch so far; 0 if there is none."""
        began_seconds = self._batch_began_seconds
        return 0.0 if began_seconds is None else time.monotonic() - began_seconds

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Finish the current batch and end the thread; fail everything that is still queued."""
        with self._lock:
            self._stopping = True
        self._scheduler.wake()
        self._thread.join()

    def call(self, task: Callable[[], Result]) -> Result:
        """Run `task` on the engine's thread between batches and return its result.

        Raises what `task` raises, or CancelledError if the engine stops first.
        """
        future: Future[Result] = Future()
        with self._lock:
            if self._stopping:
                raise CancelledError("the engine has stopped")
            self._device_tasks.append((future, task))
        self._scheduler.wake()
        return future.result()

    def _run(self) -> None:
        try:
            while not self._stopping:
                self._run_device_tasks()
                batch = self._scheduler.next_batch(unless=self._has_other_work)
                if batch is not None:
                    self._run_batch(batch)
                elif not self._has_other_work():
                    break  # the scheduler was stopped by another engine
        finally:
            with self._lock:
                self._stopping = True
            for future, _ in self._device_tasks:
                future.cancel()
            self._scheduler.stop(NotReady("the engine has stopped", seconds=10))

    def _has_other_work(self) -> bool:
        return self._stopping or bool(self._device_tasks)

    def _run_device_tasks(self) -> None:
        while self._device_tasks and not self._stopping:
            future, task = self._device_tasks.popleft()
            try:
                future.set_result(task())
            except Exception as error:
                future.set_exception(error)
                if isinstance(error, DeviceLost):
                    self._mark_lost(error)

    def _run_batch(self, batch: Batch) -> None:
        network: Any = batch.batch_key.model
        started_seconds = self._batch_began_seconds = time.monotonic()
        try:
            results = self._forward(network, batch)
        except DeviceLost as error:
            self._mark_lost(error)
            return
        except Exception as error:
            # Any tile of the batch may be the cause: fail all of its requests, but no others.
            log.exception("a batch of %s failed", network.name)
            self._observer.batch_failed(network.name)
            self._scheduler.fail(
                batch, ModelFailed(f"{network.name} failed on this picture: {type(error).__name__}")
            )
            return
        finally:
            self._batch_began_seconds = None
        self._observer.batch_done(
            network.name,
            fill_ratio=len(batch.items) / batch.capacity,
            pixels=len(batch.items) * batch.batch_key.tile_pixels,
            seconds=time.monotonic() - started_seconds,
        )
        self._scheduler.deliver(batch, results)

    def _forward(self, network: Network, batch: Batch) -> list[Tile]:
        """Run the batch in the largest parts that fit into the device's memory."""
        tiles = batch.tiles
        # By name: a new version of a model needs as much memory as the one before.
        shape = (network.name, *tiles[0].shape, str(tiles[0].dtype))
        results: list[Tile] = []
        while len(results) < len(tiles):
            max_tiles = self._max_tiles.get(shape, len(tiles))
            part = tiles[len(results) : len(results) + max(1, max_tiles)]
            try:
                results += self._run_part(network, part, whole_tiles=max_tiles > 0)
            except DeviceOutOfMemory:
                if max_tiles == 0:
                    raise
                # 0 means that not even one tile fits. Stored, because a retry costs time.
                self._max_tiles[shape] = len(part) // 2
                self._observer.out_of_memory(network.name)
                log.warning(
                    "%s: %d tiles of %dx%d do not fit into the device's memory",
                    network.name,
                    len(part),
                    batch.batch_key.width,
                    batch.batch_key.height,
                )
        return results

    def _run_part(
        self, network: Network, tiles: Sequence[Tile], *, whole_tiles: bool
    ) -> list[Tile]:
        if not whole_tiles:
            return [network.forward_in_parts(tile, self._device_index) for tile in tiles]
        results = network.forward(np.stack(tiles), self._device_index)
        if len(results) != len(tiles):
            raise ValueError(f"the network returned {len(results)} tiles for {len(tiles)}")
        return list(results)

    def _mark_lost(self, error: DeviceLost) -> None:
        log.critical("device %d is lost, the process has to restart: %s", self._device_index, error)
        self._lost = error
        self._stopping = True  # ends the thread, which fails every request


class Engines:
    """One engine per device."""

    def __init__(
        self,
        scheduler: Scheduler,
        observer: BatchObserver,
        device_count: int,
        stuck_seconds: float = float("inf"),
    ) -> None:
        self._scheduler = scheduler
        self._engines = [
            Engine(scheduler, observer, device_index) for device_index in range(device_count)
        ]
        self._stuck_seconds = stuck_seconds

    def __len__(self) -> int:
        return len(self._engines)

    @property
    def lost(self) -> DeviceLost | None:
        """Why this process must end; None while every device works."""
        return next((engine.lost for engine in self._engines if engine.lost), None)

    def require_alive(self) -> None:
        """Raise NotReady if only a restart of the process can help."""
        if self.lost:
            raise NotReady("a device is lost and the server is about to stop", seconds=10)
        if not all(engine.alive for engine in self._engines):
            raise NotReady("the engine has stopped", seconds=10)
        busy_seconds = max(engine.busy_seconds for engine in self._engines)
        if busy_seconds > self._stuck_seconds:
            raise NotReady(f"a batch has been running for {busy_seconds:.0f} seconds", seconds=10)

    def start(self) -> None:
        for engine in self._engines:
            engine.start()

    def stop(self) -> None:
        """Finish the current batches and stop; fail everything that is still queued."""
        for engine in self._engines:
            engine.stop()

    def call(self, device_index: int, task: Callable[[], Result]) -> Result:
        """Run `task` on the thread of that device's engine; see `Engine.call`."""
        return self._engines[device_index].call(task)
