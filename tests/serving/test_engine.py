import threading
from concurrent.futures import CancelledError, Future

import numpy as np
import pytest

from serving.engine import Engine
from serving.errors import ModelFailed, NotReady
from serving.scheduler import BatchLimits, Lane, Scheduler


class Network:
    """Doubles values; fails on batches that hold a 13, and answers a tile too few on a 7."""

    name = "doubling"

    def __init__(self):
        self.threads = set()

    def forward(self, tiles_bhwc, place):
        self.threads.add(threading.current_thread().name)
        if (tiles_bhwc == 13).any():
            raise RuntimeError("cannot do thirteen")
        return 2 * tiles_bhwc[: -1 if (tiles_bhwc == 7).any() else None]


class Watcher:
    def __init__(self):
        self.fills = []
        self.failed = []

    def batch_done(self, model, *, fill_ratio, pixels, seconds):
        assert pixels > 0
        assert seconds >= 0
        self.fills.append(fill_ratio)

    def batch_failed(self, model):
        self.failed.append(model)


class Receiver:
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
    receiver = Receiver()
    lane = Lane(model=network, height=2, width=2, dtype="uint8")
    request = scheduler.open(lane, deadline_seconds=1e9, receiver=receiver)
    receiver.answer.add_done_callback(lambda _: scheduler.close(request))
    scheduler.put(request, [(0, np.full((2, 2, 3), value, np.uint8))])
    return receiver.answer


def test_tiles_come_back_changed_by_the_network_on_the_engines_thread(running):
    scheduler, _ = running
    network = Network()
    answers = [ask(scheduler, value, network) for value in range(5)]
    assert [int(answer.result(timeout=10).max()) for answer in answers] == [0, 2, 4, 6, 8]
    assert network.threads == {"engine-0"}


@pytest.mark.parametrize("bad_value", [13, 7])
def test_failing_batch_fails_its_requests_and_the_engine_lives_on(running, bad_value):
    scheduler, engine = running
    network = Network()
    with pytest.raises(ModelFailed, match="doubling failed"):
        ask(scheduler, bad_value, network).result(timeout=10)
    assert ask(scheduler, 3, network).result(timeout=10).max() == 6
    assert engine.alive
    assert engine._watcher.failed == ["doubling"]


def test_fill_of_each_batch_is_told():
    scheduler = Scheduler(BatchLimits(max_tiles=2, max_wait_seconds=0.001))
    watcher = Watcher()
    engine = Engine(scheduler, watcher)
    network = Network()
    answers = [ask(scheduler, value, network) for value in range(3)]
    engine.start()
    for answer in answers:
        answer.result(timeout=10)
    engine.stop()
    assert watcher.fills == [1.0, 0.5]


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
        answer.result(timeout=10)
    with pytest.raises(CancelledError):
        engine.call(lambda: None)


def test_errand_that_waits_when_the_engine_stops_is_cancelled():
    engine = Engine(Scheduler(BatchLimits()), Watcher())
    begun, go_on, outcome = threading.Event(), threading.Event(), Future()

    def first():
        begun.set()
        go_on.wait(timeout=10)

    def second():
        try:
            outcome.set_result(engine.call(lambda: "ran"))
        except CancelledError as error:
            outcome.set_exception(error)

    engine.start()
    threads = [threading.Thread(target=engine.call, args=(first,))]
    threads[0].start()
    begun.wait(timeout=10)
    threads.append(threading.Thread(target=second))
    threads[1].start()
    while not engine._errands:
        pass
    threads.append(threading.Thread(target=engine.stop))
    threads[2].start()
    while not engine._stopping:
        pass
    go_on.set()
    for thread in threads:
        thread.join(timeout=10)
    with pytest.raises(CancelledError):
        outcome.result(timeout=10)
