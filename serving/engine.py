"""One thread owns one device: it runs what the scheduler deals out, and nothing else touches it."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from typing import Any, Protocol, TypeVar

import numpy as np

from serving.errors import ModelFailed, NotReady
from serving.scheduler import Batch, Scheduler, Tile

log = logging.getLogger(__name__)

Result = TypeVar("Result")


class Network(Protocol):
    """What a lane's model must be for an engine: tiles (B, h, w, 3) in, (B, h*s, w*s, 3) out."""

    name: str

    def forward(self, tiles_bhwc: Tile) -> Tile: ...


class Watcher(Protocol):
    """Hears how batches went."""

    def batch_done(self, model: str, fill_ratio: float, seconds: float) -> None: ...

    def batch_failed(self, model: str) -> None: ...


class Engine:
    """Runs batches and errands, one at a time, on a thread of its own."""

    def __init__(self, scheduler: Scheduler, watcher: Watcher) -> None:
        self._scheduler = scheduler
        self._watcher = watcher
        self._lock = threading.Lock()
        self._errands: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Finish the batch at hand, then end the thread; whatever still waits is refused."""
        with self._lock:
            self._stopping = True
        self._scheduler.interrupt()
        self._thread.join()

    def call(self, errand: Callable[[], Result]) -> Result:
        """Run `errand` on the engine's thread between batches and return what it returns.

        Raises what it raises, or CancelledError where the engine stops first.
        """
        future: Future[Result] = Future()
        with self._lock:
            if self._stopping:
                raise CancelledError("the engine has stopped")
            self._errands.append((future, errand))
        self._scheduler.interrupt()
        return future.result()

    def _run(self) -> None:
        try:
            while not self._stopping:
                self._run_errands()
                batch = self._scheduler.next_batch()
                if batch is not None:
                    self._run_batch(batch)
        finally:
            with self._lock:
                self._stopping = True
            for future, _ in self._errands:
                future.cancel()
            self._scheduler.stop(NotReady("the engine has stopped", seconds=10))

    def _run_errands(self) -> None:
        while self._errands and not self._stopping:
            future, errand = self._errands.popleft()
            try:
                future.set_result(errand())
            except Exception as error:
                future.set_exception(error)

    def _run_batch(self, batch: Batch) -> None:
        network: Any = batch.lane.model
        started_seconds = time.monotonic()
        try:
            results = self._forward(network, batch)
        except Exception as error:
            # The fault may lie in any tile of the batch: its requests fail, the others go on.
            log.exception("a batch of %s failed", network.name)
            self._watcher.batch_failed(network.name)
            self._scheduler.fail(
                batch, ModelFailed(f"{network.name} failed on this picture: {type(error).__name__}")
            )
            return
        self._watcher.batch_done(
            network.name, len(batch.slots) / batch.capacity, time.monotonic() - started_seconds
        )
        self._scheduler.deliver(batch, results)

    @staticmethod
    def _forward(network: Network, batch: Batch) -> list[Tile]:
        results = network.forward(np.stack(batch.tiles))
        if len(results) != len(batch.slots):
            raise ValueError(f"{len(batch.slots)} tiles went in, {len(results)} came out")
        return list(results)
