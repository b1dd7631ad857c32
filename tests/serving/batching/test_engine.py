import threading
from concurrent.futures import CancelledError, Future

import numpy as np
import pytest

from serving.batching.engine import Engine, Engines
from serving.batching.scheduler import Scheduler
from serving.batching.tiles import BatchKey, BatchLimits
from serving.errors import ModelFailed, NotReady
from superres.model.backends import DeviceLost, DeviceOutOfMemory


class Network:
    """Doubles values; raises for batches with a 13, returns a tile too few for those with a 7."""

    name = "doubling"

    def __init__(self):
        self.threads = set()

    def forward(self, tiles_bhwc, device_index):
        self.threads.add(threading.current_thread().name)
        if (tiles_bhwc == 13).any():
            raise RuntimeError("cannot do thirteen")
        return 2 * tiles_bhwc[: -1 if (tiles_bhwc == 7).any() else None]


class RecordingObserver:
    def __init__(self):
        self.fills = []
        self.failed = []
        self.out_of_memory_models = []

    def batch_done(self, model, *, fill_ratio, pixels, seconds):
        assert pixels > 0
        assert seconds >= 0
        self.fills.append(fill_ratio)

    def batch_failed(self, model):
        self.failed.append(model)

    def out_of_memory(self, model):
        self.out_of_memory_models.append(model)


class TileReceiver:
    def __init__(self):
        self.answer = Future()

    def done(self, index, tile):
        self.answer.set_result(tile)

    def failed(self, error):
        self.answer.set_exception(error)


@pytest.fixture
def running():
    scheduler = Scheduler(BatchLimits(max_tiles=2, max_wait_seconds=0.001))
    engine = Engine(scheduler, RecordingObserver())
    engine.start()
    yield scheduler, engine
    engine.stop()


def submit(scheduler, value, network):
    receiver = TileReceiver()
    batch_key = BatchKey(model=network, height=2, width=2, dtype="uint8")
    request = scheduler.open(batch_key, deadline_seconds=1e9, receiver=receiver)
    receiver.answer.add_done_callback(lambda _: scheduler.close(request))
    scheduler.put(request, [(0, np.full((2, 2, 3), value, np.uint8))])
    return receiver.answer


def test_network_runs_on_the_engines_thread(running):
    scheduler, _ = running
    network = Network()
    answers = [submit(scheduler, value, network) for value in range(5)]
    assert [int(answer.result(timeout=60).max()) for answer in answers] == [0, 2, 4, 6, 8]
    assert network.threads == {"engine-0"}


@pytest.mark.parametrize("bad_value", [13, 7])
def test_failed_batch_fails_its_requests_and_the_engine_keeps_running(running, bad_value):
    scheduler, engine = running
    network = Network()
    with pytest.raises(ModelFailed, match="doubling failed"):
        submit(scheduler, bad_value, network).result(timeout=60)
    assert submit(scheduler, 3, network).result(timeout=60).max() == 6
    assert engine.alive
    assert engine._observer.failed == ["doubling"]


def test_fill_ratio_of_each_batch_is_reported():
    scheduler = Scheduler(BatchLimits(max_tiles=2, max_wait_seconds=0.001))
    observer = RecordingObserver()
    engine = Engine(scheduler, observer)
    network = Network()
    answers = [submit(scheduler, value, network) for value in range(3)]
    engine.start()
    for answer in answers:
        answer.result(timeout=60)
    engine.stop()
    assert observer.fills == [1.0, 0.5]


def test_device_task_runs_on_the_engines_thread_and_returns_or_raises(running):
    _, engine = running
    assert engine.call(lambda: threading.current_thread().name) == "engine-0"
    with pytest.raises(ZeroDivisionError):
        engine.call(lambda: 1 // 0)
    assert engine.alive


def test_stopped_engine_refuses_device_tasks_and_fails_queued_requests():
    scheduler = Scheduler(BatchLimits(max_tiles=2, max_wait_seconds=60))
    engine = Engine(scheduler, RecordingObserver())
    answer = submit(scheduler, 1, Network())
    engine.start()
    engine.stop()
    assert not engine.alive
    with pytest.raises(NotReady):
        answer.result(timeout=60)
    with pytest.raises(CancelledError):
        engine.call(lambda: None)


def test_queued_device_task_is_cancelled_when_the_engine_stops():
    engine = Engine(Scheduler(BatchLimits()), RecordingObserver())
    started, go_on, outcome = threading.Event(), threading.Event(), Future()

    def first():
        started.set()
        go_on.wait(timeout=60)

    def second():
        try:
            outcome.set_result(engine.call(lambda: "ran"))
        except CancelledError as error:
            outcome.set_exception(error)

    engine.start()
    threads = [threading.Thread(target=engine.call, args=(first,))]
    threads[0].start()
    started.wait(timeout=60)
    threads.append(threading.Thread(target=second))
    threads[1].start()
    while not engine._device_tasks:
        pass
    threads.append(threading.Thread(target=engine.stop))
    threads[2].start()
    while not engine._stopping:
        pass
    go_on.set()
    for thread in threads:
        thread.join(timeout=60)
    with pytest.raises(CancelledError):
        outcome.result(timeout=60)


class SmallMemoryNetwork(Network):
    """Its device memory holds `capacity` tiles; with 0 only parts of one, with -1 none."""

    name = "small"

    def __init__(self, capacity):
        super().__init__()
        self.capacity = capacity
        self.batches = []

    def forward(self, tiles_bhwc, device_index):
        self.batches.append(len(tiles_bhwc))
        if len(tiles_bhwc) > self.capacity:
            raise DeviceOutOfMemory("full")
        return super().forward(tiles_bhwc, device_index)

    def forward_in_parts(self, tile_hwc, device_index):
        self.batches.append(0)
        if self.capacity < 0:
            raise DeviceOutOfMemory("full")
        return 2 * tile_hwc


@pytest.mark.parametrize(
    ("capacity", "batches"),
    [(4, [4]), (3, [4, 2, 2]), (1, [4, 2, 1, 1, 1, 1]), (0, [4, 2, 1, 0, 0, 0, 0])],
)
def test_batch_too_large_for_memory_is_run_in_parts_with_the_same_result(capacity, batches):
    scheduler = Scheduler(BatchLimits(max_tiles=4, max_wait_seconds=60))
    engine = Engine(scheduler, RecordingObserver())
    network = SmallMemoryNetwork(capacity)
    answers = [submit(scheduler, value, network) for value in range(4)]
    engine.start()
    assert [int(answer.result(timeout=60).max()) for answer in answers] == [0, 2, 4, 6]
    assert network.batches == batches
    again = [submit(scheduler, value, network) for value in range(4)]
    assert [int(answer.result(timeout=60).max()) for answer in again] == [0, 2, 4, 6]
    engine.stop()
    remembered = batches[engine._observer.out_of_memory_models.count("small") :]
    assert network.batches == batches + remembered, "the number of tiles that fit is stored"


def test_tile_whose_smallest_part_does_not_fit_fails_its_requests_only():
    scheduler = Scheduler(BatchLimits(max_tiles=2, max_wait_seconds=0.001))
    engine = Engine(scheduler, RecordingObserver())
    engine.start()
    with pytest.raises(ModelFailed):
        submit(scheduler, 1, SmallMemoryNetwork(-1)).result(timeout=60)
    assert submit(scheduler, 3, Network()).result(timeout=60).max() == 6
    engine.stop()


class LostDeviceNetwork(Network):
    def forward(self, tiles_bhwc, device_index):
        raise DeviceLost("an illegal memory access")


def test_lost_device_fails_every_request_and_stays_lost():
    scheduler = Scheduler(BatchLimits(max_tiles=1, max_wait_seconds=0.001))
    engines = Engines(scheduler, RecordingObserver(), 2)
    lost, waiting = (
        submit(scheduler, 1, LostDeviceNetwork()),
        submit(scheduler, 2, LostDeviceNetwork()),
    )
    engines.start()
    for answer in (lost, waiting):
        with pytest.raises(NotReady):
            answer.result(timeout=60)
    engines.stop()
    assert "illegal memory access" in str(engines.lost)
    with pytest.raises(NotReady, match="lost"):
        engines.require_alive()


def test_device_lost_during_a_device_task_is_lost():
    engines = Engines(Scheduler(BatchLimits()), RecordingObserver(), 1)
    engines.start()
    engines.require_alive()

    def lose():
        raise DeviceLost("gone")

    with pytest.raises(DeviceLost):
        engines.call(0, lose)
    engines.stop()
    assert engines.lost is not None


def test_every_device_has_a_thread_and_serves_the_same_queue():
    scheduler = Scheduler(BatchLimits(max_tiles=1, max_wait_seconds=0))
    engines = Engines(scheduler, RecordingObserver(), 2)
    barrier = threading.Barrier(2, timeout=60)

    class BarrierNetwork(Network):
        def forward(self, tiles_bhwc, device_index):
            barrier.wait()  # passes only when both threads wait
            self.threads.add(f"engine-{device_index}")
            return tiles_bhwc

    network = BarrierNetwork()
    answers = [submit(scheduler, value, network) for value in range(6)]
    engines.start()
    assert [int(answer.result(timeout=60).max()) for answer in answers] == list(range(6))
    engines.stop()
    assert network.threads == {"engine-0", "engine-1"}


def test_stuck_batch_fails_liveness():
    scheduler = Scheduler(BatchLimits(max_tiles=1, max_wait_seconds=0))
    engines = Engines(scheduler, RecordingObserver(), 1, stuck_seconds=1e-9)
    started, go_on = threading.Event(), threading.Event()

    class StuckNetwork(Network):
        def forward(self, tiles_bhwc, device_index):
            started.set()
            go_on.wait(timeout=60)
            return tiles_bhwc

    answer = submit(scheduler, 1, StuckNetwork())
    engines.start()
    started.wait(timeout=60)
    with pytest.raises(NotReady, match="has been running"):
        engines.require_alive()
    go_on.set()
    answer.result(timeout=60)
    engines.stop()
