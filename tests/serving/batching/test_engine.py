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
    """Doubles values; fails on batches that hold a 13, and answers a tile too few on a 7."""

    name = "doubling"

    def __init__(self):
        self.threads = set()

    def forward(self, tiles_bhwc, device_index):
        self.threads.add(threading.current_thread().name)
        if (tiles_bhwc == 13).any():
            raise RuntimeError("cannot do thirteen")
        return 2 * tiles_bhwc[: -1 if (tiles_bhwc == 7).any() else None]


class Watcher:
    def __init__(self):
        self.fills = []
        self.failed = []
        self.short_of_memory = []

    def batch_done(self, model, *, fill_ratio, pixels, seconds):
        assert pixels > 0
        assert seconds >= 0
        self.fills.append(fill_ratio)

    def batch_failed(self, model):
        self.failed.append(model)

    def memory_ran_out(self, model):
        self.short_of_memory.append(model)


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
    engine = Engine(scheduler, Watcher())
    engine.start()
    yield scheduler, engine
    engine.stop()


def ask(scheduler, value, network):
    receiver = TileReceiver()
    batch_key = BatchKey(model=network, height=2, width=2, dtype="uint8")
    request = scheduler.open(batch_key, deadline_seconds=1e9, receiver=receiver)
    receiver.answer.add_done_callback(lambda _: scheduler.close(request))
    scheduler.put(request, [(0, np.full((2, 2, 3), value, np.uint8))])
    return receiver.answer


def test_tiles_come_back_changed_by_the_network_on_the_engines_thread(running):
    scheduler, _ = running
    network = Network()
    answers = [ask(scheduler, value, network) for value in range(5)]
    assert [int(answer.result(timeout=60).max()) for answer in answers] == [0, 2, 4, 6, 8]
    assert network.threads == {"engine-0"}


@pytest.mark.parametrize("bad_value", [13, 7])
def test_failing_batch_fails_its_requests_and_the_engine_lives_on(running, bad_value):
    scheduler, engine = running
    network = Network()
    with pytest.raises(ModelFailed, match="doubling failed"):
        ask(scheduler, bad_value, network).result(timeout=60)
    assert ask(scheduler, 3, network).result(timeout=60).max() == 6
    assert engine.alive
    assert engine._observer.failed == ["doubling"]


def test_fill_of_each_batch_is_told():
    scheduler = Scheduler(BatchLimits(max_tiles=2, max_wait_seconds=0.001))
    observer = Watcher()
    engine = Engine(scheduler, observer)
    network = Network()
    answers = [ask(scheduler, value, network) for value in range(3)]
    engine.start()
    for answer in answers:
        answer.result(timeout=60)
    engine.stop()
    assert observer.fills == [1.0, 0.5]


def test_errand_runs_on_the_engines_thread_and_returns_or_raises(running):
    _, engine = running
    assert engine.call(lambda: threading.current_thread().name) == "engine-0"
    with pytest.raises(ZeroDivisionError):
        engine.call(lambda: 1 // 0)
    assert engine.alive


def test_stopped_engine_refuses_errands_and_fails_who_waits():
    scheduler = Scheduler(BatchLimits(max_tiles=2, max_wait_seconds=60))
    engine = Engine(scheduler, Watcher())
    answer = ask(scheduler, 1, Network())
    engine.start()
    engine.stop()
    assert not engine.alive
    with pytest.raises(NotReady):
        answer.result(timeout=60)
    with pytest.raises(CancelledError):
        engine.call(lambda: None)


def test_errand_that_waits_when_the_engine_stops_is_cancelled():
    engine = Engine(Scheduler(BatchLimits()), Watcher())
    begun, go_on, outcome = threading.Event(), threading.Event(), Future()

    def first():
        begun.set()
        go_on.wait(timeout=60)

    def second():
        try:
            outcome.set_result(engine.call(lambda: "ran"))
        except CancelledError as error:
            outcome.set_exception(error)

    engine.start()
    threads = [threading.Thread(target=engine.call, args=(first,))]
    threads[0].start()
    begun.wait(timeout=60)
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


class Small(Network):
    """A device whose memory holds `room` whole tiles, or none and only parts of one."""

    name = "small"

    def __init__(self, room):
        super().__init__()
        self.room = room
        self.batches = []

    def forward(self, tiles_bhwc, device_index):
        self.batches.append(len(tiles_bhwc))
        if len(tiles_bhwc) > self.room:
            raise DeviceOutOfMemory("full")
        return super().forward(tiles_bhwc, device_index)

    def forward_in_parts(self, tile_hwc, device_index):
        self.batches.append(0)
        if self.room < 0:
            raise DeviceOutOfMemory("full")
        return 2 * tile_hwc


@pytest.mark.parametrize(
    ("room", "batches"),
    [(4, [4]), (3, [4, 2, 2]), (1, [4, 2, 1, 1, 1, 1]), (0, [4, 2, 1, 0, 0, 0, 0])],
)
def test_batch_that_the_memory_does_not_hold_is_run_in_parts_with_the_same_answer(room, batches):
    scheduler = Scheduler(BatchLimits(max_tiles=4, max_wait_seconds=60))
    engine = Engine(scheduler, Watcher())
    network = Small(room)
    answers = [ask(scheduler, value, network) for value in range(4)]
    engine.start()
    assert [int(answer.result(timeout=60).max()) for answer in answers] == [0, 2, 4, 6]
    assert network.batches == batches
    again = [ask(scheduler, value, network) for value in range(4)]
    assert [int(answer.result(timeout=60).max()) for answer in again] == [0, 2, 4, 6]
    engine.stop()
    known = batches[engine._observer.short_of_memory.count("small") :]
    assert network.batches == batches + known, "what the memory holds is remembered"


def test_tile_of_which_no_part_fits_fails_its_requests_only():
    scheduler = Scheduler(BatchLimits(max_tiles=2, max_wait_seconds=0.001))
    engine = Engine(scheduler, Watcher())
    engine.start()
    with pytest.raises(ModelFailed):
        ask(scheduler, 1, Small(-1)).result(timeout=60)
    assert ask(scheduler, 3, Network()).result(timeout=60).max() == 6
    engine.stop()


class Dying(Network):
    def forward(self, tiles_bhwc, device_index):
        raise DeviceLost("an illegal memory access")


def test_lost_device_fails_everybody_and_is_told_for_good():
    scheduler = Scheduler(BatchLimits(max_tiles=1, max_wait_seconds=0.001))
    engines = Engines(scheduler, Watcher(), 2)
    dying, waiting = ask(scheduler, 1, Dying()), ask(scheduler, 2, Dying())
    engines.start()
    for answer in (dying, waiting):
        with pytest.raises(NotReady):
            answer.result(timeout=60)
    engines.stop()
    assert "illegal memory access" in str(engines.lost)
    with pytest.raises(NotReady, match="lost"):
        engines.require_alive()


def test_device_that_is_lost_in_an_errand_is_lost():
    engines = Engines(Scheduler(BatchLimits()), Watcher(), 1)
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
    engines = Engines(scheduler, Watcher(), 2)
    meeting = threading.Barrier(2, timeout=60)

    class Meeting(Network):
        def forward(self, tiles_bhwc, device_index):
            meeting.wait()  # only two threads at once get past it
            self.threads.add(f"engine-{device_index}")
            return tiles_bhwc

    network = Meeting()
    answers = [ask(scheduler, value, network) for value in range(6)]
    engines.start()
    assert [int(answer.result(timeout=60).max()) for answer in answers] == list(range(6))
    engines.stop()
    assert network.threads == {"engine-0", "engine-1"}


def test_batch_that_does_not_end_fails_liveness():
    scheduler = Scheduler(BatchLimits(max_tiles=1, max_wait_seconds=0))
    engines = Engines(scheduler, Watcher(), 1, stuck_seconds=1e-9)
    begun, go_on = threading.Event(), threading.Event()

    class Stuck(Network):
        def forward(self, tiles_bhwc, device_index):
            begun.set()
            go_on.wait(timeout=60)
            return tiles_bhwc

    answer = ask(scheduler, 1, Stuck())
    engines.start()
    begun.wait(timeout=60)
    with pytest.raises(NotReady, match="has been running"):
        engines.require_alive()
    go_on.set()
    answer.result(timeout=60)
    engines.stop()
