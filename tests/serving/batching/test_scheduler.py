import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.batching.scheduler import Scheduler
from serving.batching.tiles import BatchKey, BatchLimits

WAIT_SECONDS = 0.005


class TileReceiver:
    def __init__(self):
        self.results = []
        self.error = None

    def done(self, index, tile):
        self.results.append((index, tile))

    def failed(self, error):
        self.error = error


def batch_key(model="m", side=4, dtype="uint8"):
    return BatchKey(model=model, height=side, width=side, dtype=dtype)


def scheduler_of(clock, max_tiles=4, max_pixels=10**9, fair_tiles=1):
    limits = BatchLimits(
        max_tiles=max_tiles,
        max_pixels=max_pixels,
        max_wait_seconds=WAIT_SECONDS,
        fair_pixels=fair_tiles * batch_key().tile_pixels,
    )
    return Scheduler(limits, clock)


client_numbers = itertools.count()


def admit(scheduler, count, *, key=None, deadline=10.0, first=0, client=None, **kind):
    """Open a request with `count` tiles, of a new client unless `client` is given."""
    receiver = TileReceiver()
    request = scheduler.open(
        key or batch_key(),
        deadline_seconds=deadline,
        receiver=receiver,
        client=client or f"client {next(client_numbers)}",
        **kind,
    )
    tile = np.zeros((4, 4, 3), np.uint8)
    scheduler.put(request, [(first + n, tile) for n in range(count)])
    return request, receiver


def owners(batch):
    return Counter(item.request.serial for item in batch.items)


def test_full_batch_is_due_at_once_and_a_partial_one_after_the_wait(clock):
    scheduler = scheduler_of(clock)
    admit(scheduler, 5)
    assert len(scheduler.take().items) == 4
    assert scheduler.take() is None
    assert scheduler.wait_seconds() == pytest.approx(WAIT_SECONDS)
    clock.seconds += WAIT_SECONDS
    assert len(scheduler.take().items) == 1
    assert scheduler.take() is None
    assert scheduler.wait_seconds() is None


def test_tiles_of_different_requests_share_a_batch(clock):
    scheduler = scheduler_of(clock)
    first, _ = admit(scheduler, 2)
    second, _ = admit(scheduler, 2)
    assert owners(scheduler.take()) == {first.serial: 2, second.serial: 2}


@pytest.mark.parametrize(
    "other", [batch_key(model="n"), batch_key(side=8), batch_key(dtype="uint16")]
)
def test_tiles_of_another_model_shape_or_dtype_do_not_share_a_batch(clock, other):
    scheduler = scheduler_of(clock)
    admit(scheduler, 2)
    admit(scheduler, 2, key=other)
    clock.seconds += WAIT_SECONDS
    batches = [scheduler.take(), scheduler.take()]
    assert {batch.batch_key for batch in batches} == {batch_key(), other}
    assert [len(batch.items) for batch in batches] == [2, 2]


def test_large_tiles_make_smaller_batches(clock):
    scheduler = scheduler_of(clock, max_tiles=8, max_pixels=33)
    admit(scheduler, 5)
    batch = scheduler.take()
    assert len(batch.items) == batch.capacity == 2


def test_tile_larger_than_the_limit_gets_its_own_batch(clock):
    scheduler = scheduler_of(clock, max_pixels=3)
    admit(scheduler, 2)
    assert len(scheduler.take().items) == 1


@pytest.mark.parametrize("client", [None, "one"], ids=["two clients", "one client"])
@pytest.mark.parametrize("deadlines", [(30.0, 20.0), (20.0, 30.0)])
def test_earlier_deadline_goes_first_at_equal_service(clock, deadlines, client):
    scheduler = scheduler_of(clock, max_tiles=1)
    for deadline in deadlines:
        admit(scheduler, 1, deadline=deadline, client=client)
    served = [scheduler.take().items[0].request.deadline_seconds for _ in range(2)]
    assert served == [20.0, 30.0]


@pytest.mark.parametrize("client", [None, "one"], ids=["two clients", "one client"])
def test_earlier_deadline_exceeds_its_fair_share_by_fair_pixels_only(clock, client):
    scheduler = scheduler_of(clock, max_tiles=1, fair_tiles=3)
    late, _ = admit(scheduler, 9, deadline=30.0, client=client)
    early, _ = admit(scheduler, 9, deadline=20.0, client=client)
    served = [scheduler.take().items[0].request.serial for _ in range(12)]
    assert served == [*[early.serial] * 3, *[late.serial] * 3] * 2


def test_small_picture_is_not_starved_by_a_huge_one_with_an_earlier_deadline(clock):
    scheduler = scheduler_of(clock)
    admit(scheduler, 1000, deadline=1.0)
    for _ in range(50):
        scheduler.take()
    small, _ = admit(scheduler, 2, deadline=99.0)
    assert owners(scheduler.take())[small.serial] == 2


def test_huge_picture_is_not_starved_by_a_stream_of_small_ones(clock):
    scheduler = scheduler_of(clock, max_tiles=2)
    huge, _ = admit(scheduler, 400, deadline=99.0)
    served = 0
    for _ in range(200):  # as many tiles as the device can run, all with an earlier deadline
        admit(scheduler, 2, deadline=1.0)
        served += owners(scheduler.take())[huge.serial]
    assert served >= 10


def test_client_with_fifty_requests_gets_one_clients_share(clock):
    scheduler = scheduler_of(clock)
    crowd = [admit(scheduler, 8, client="crowd", deadline=1.0)[0].serial for _ in range(50)]
    lone, _ = admit(scheduler, 20, client="lone", deadline=99.0)
    served = Counter()
    for _ in range(10):
        served += owners(scheduler.take())
    assert served[lone.serial] >= 19, "half of ten batches of four, except for rounding"
    assert sum(served[serial] for serial in crowd) >= 19


def test_huge_picture_does_not_starve_a_small_one_of_the_same_client(clock):
    scheduler = scheduler_of(clock)
    admit(scheduler, 1000, client="one", deadline=1.0)
    for _ in range(50):
        scheduler.take()
    small, _ = admit(scheduler, 2, client="one", deadline=99.0)
    assert owners(scheduler.take())[small.serial] == 2


def test_returning_client_has_neither_credit_nor_debt(clock):
    scheduler = scheduler_of(clock)
    first, _ = admit(scheduler, 40, client="busy")
    for _ in range(10):
        scheduler.take()
    scheduler.close(first)
    again, _ = admit(scheduler, 20, client="busy")
    other, _ = admit(scheduler, 20, client="new")
    shares = Counter()
    for _ in range(5):
        shares += owners(scheduler.take())
    assert abs(shares[again.serial] - shares[other.serial]) <= 1


@pytest.mark.parametrize("client", [None, "one"], ids=["three clients", "one client"])
def test_newcomer_gets_the_same_share_as_those_already_served(clock, client):
    scheduler = scheduler_of(clock)
    requests = [admit(scheduler, 100, client=client)[0] for _ in range(2)]
    for _ in range(20):
        scheduler.take()
    requests.append(admit(scheduler, 100, client=client)[0])
    shares = Counter()
    for _ in range(6):
        shares += owners(scheduler.take())
    assert all(abs(shares[request.serial] - 8) <= 1 for request in requests), shares


def test_newcomer_gets_the_same_share_after_others_came_and_went(clock):
    """Both virtual times advance by the number of members that have tiles, however tiles came."""
    scheduler = scheduler_of(clock)

    def admit_in_two_steps(count, client):
        request, _ = admit(scheduler, count - 1, client=client)
        scheduler.put(request, [(count, np.zeros((4, 4, 3), np.uint8))])
        return request

    def shares_of(batches):
        shares = Counter()
        for _ in range(batches):
            shares += owners(scheduler.take())
        return shares

    first, second, _ = (admit_in_two_steps(count, "three requests") for count in (200, 200, 3))
    other = admit_in_two_steps(200, "other")
    for client in ("short", "shorter"):
        admit_in_two_steps(4, client)
    shares_of(50)
    newcomer = admit_in_two_steps(100, "new")
    shares = shares_of(9)
    both = shares[first.serial] + shares[second.serial]
    assert all(abs(share - 12) <= 1 for share in (both, shares[other.serial])), shares
    assert abs(shares[newcomer.serial] - 12) <= 1, shares
    sibling = admit_in_two_steps(100, "three requests")
    shares = shares_of(9)
    assert all(abs(shares[request.serial] - 4) <= 1 for request in (first, second, sibling)), shares


def test_closed_client_is_forgotten(clock):
    """Tiles that it was served before the others are no debt when it returns."""
    scheduler = scheduler_of(clock, max_tiles=1, fair_tiles=8)
    first, _ = admit(scheduler, 8, client="busy", deadline=1.0)
    admit(scheduler, 20, client="other", deadline=2.0)
    for _ in range(8):
        assert owners(scheduler.take()) == {first.serial: 1}
    scheduler.close(first)
    again, _ = admit(scheduler, 1, client="busy", deadline=1.0)
    assert owners(scheduler.take()) == {again.serial: 1}


def test_background_request_runs_one_tile_at_a_time_while_no_other_is_open(clock):
    scheduler = scheduler_of(clock)
    shadow, receiver = admit(scheduler, 3, background=True)
    picture, _ = admit(scheduler, 4)
    assert owners(scheduler.take()) == {picture.serial: 4}
    assert scheduler.take() is None, "without its results the request is still open"
    assert scheduler.wait_seconds() is None
    scheduler.close(picture)
    assert scheduler.wait_seconds() == 0
    for _ in range(3):
        batch = scheduler.take()
        assert owners(batch) == {shadow.serial: 1}
        assert (batch.batch_key, batch.capacity) == (batch_key(), 1)
        scheduler.deliver(batch, batch.tiles)
    assert scheduler.take() is None
    assert [index for index, _ in receiver.results] == [0, 1, 2]
    assert all(tile.shape == (4, 4, 3) for _, tile in receiver.results)


def test_closed_background_request_is_removed(clock):
    scheduler = scheduler_of(clock)
    shadow, _ = admit(scheduler, 3, background=True)
    scheduler.close(shadow)
    assert scheduler.take() is None


def test_idle_request_gets_no_credit(clock):
    scheduler = scheduler_of(clock)
    idle, _ = admit(scheduler, 0)
    busy, _ = admit(scheduler, 100)
    for _ in range(20):
        scheduler.take()
    scheduler.put(idle, [(n, np.zeros((4, 4, 3), np.uint8)) for n in range(50)])
    shares = Counter()
    for _ in range(10):
        shares += owners(scheduler.take())
    assert abs(shares[idle.serial] - shares[busy.serial]) <= 2


def test_failed_batch_fails_its_own_requests_only(clock):
    scheduler = scheduler_of(clock, max_tiles=2)
    failed = [admit(scheduler, 2), admit(scheduler, 2)]
    batch = scheduler.take()
    _, other = admit(scheduler, 2)
    error = RuntimeError("broken")
    scheduler.fail(batch, error)
    assert [receiver.error for _, receiver in failed] == [error, error]
    batch = scheduler.take()
    scheduler.deliver(batch, batch.tiles)
    assert other.error is None
    assert sorted(index for index, _ in other.results) == [0, 1]
    assert scheduler.wait_seconds() is None


def test_results_that_are_fewer_than_the_tiles_are_an_error(clock):
    scheduler = scheduler_of(clock)
    admit(scheduler, 4)
    batch = scheduler.take()
    with pytest.raises(ValueError, match="shorter"):
        scheduler.deliver(batch, batch.tiles[:3])


def test_closed_requests_tiles_are_dropped_and_their_results_not_delivered(clock):
    scheduler = scheduler_of(clock, max_tiles=2)
    closed, receiver = admit(scheduler, 6)
    batch = scheduler.take()
    scheduler.close(closed)
    scheduler.close(closed)
    assert scheduler.queued_tiles() == {}
    scheduler.put(closed, [(9, np.zeros((4, 4, 3), np.uint8))])
    clock.seconds += 1
    assert scheduler.take() is None
    scheduler.deliver(batch, batch.tiles)
    scheduler.fail(batch, RuntimeError("late"))
    assert receiver.results == []
    assert receiver.error is None


def test_stop_fails_open_requests_and_refuses_new_ones(clock):
    scheduler = scheduler_of(clock)
    _, waiting = admit(scheduler, 1)
    error = RuntimeError("gone")
    scheduler.stop(error)
    assert waiting.error is error
    assert scheduler.next_batch() is None
    with pytest.raises(RuntimeError, match="gone"):
        admit(scheduler, 1)


def test_next_batch_returns_none_when_unless_is_true(clock):
    scheduler = scheduler_of(clock)
    assert scheduler.next_batch(unless=lambda: True) is None
    admit(scheduler, 4)
    assert len(scheduler.next_batch(unless=lambda: False).items) == 4


def test_queued_tiles_are_counted_by_model(clock):
    scheduler = scheduler_of(clock)
    admit(scheduler, 3)
    admit(scheduler, 2, key=batch_key(side=8))
    admit(scheduler, 1, key=batch_key(model="n"))
    assert scheduler.queued_tiles() == {"m": 5, "n": 1}


arrivals = st.lists(
    st.tuples(st.sampled_from(["a", "b"]), st.integers(1, 9), st.floats(1, 50), st.integers(0, 3)),
    min_size=1,
    max_size=12,
)


@given(arrivals, st.integers(1, 6))
def test_every_tile_is_delivered_once_to_its_own_request(new_clock, arrivals, max_tiles):
    clock = new_clock()
    scheduler = scheduler_of(clock, max_tiles=max_tiles)
    requests = []
    for model, count, deadline, batches_between in arrivals:
        _, receiver = admit(
            scheduler, count, key=batch_key(model), deadline=deadline, first=100 * len(requests)
        )
        requests.append((100 * len(requests), count, receiver))
        for _ in range(batches_between):
            run_batch(scheduler)
    clock.seconds += WAIT_SECONDS
    while run_batch(scheduler):
        pass
    for first, count, receiver in requests:
        assert sorted(index for index, _ in receiver.results) == list(range(first, first + count))


def run_batch(scheduler):
    batch = scheduler.take()
    if batch is None:
        return False
    assert 1 <= len(batch.items) <= batch.capacity
    assert {item.request.batch_key for item in batch.items} == {batch.batch_key}
    scheduler.deliver(batch, batch.tiles)
    return True


@given(
    st.lists(st.tuples(st.integers(10, 60), st.floats(1, 50)), min_size=2, max_size=6),
    st.integers(1, 8),
    st.integers(1, 5),
)
def test_service_of_waiting_requests_differs_by_fair_pixels_at_most(
    new_clock, requests, max_tiles, fair_tiles
):
    """The service of two requests with queued tiles differs by at most `fair_pixels`."""
    clock = new_clock()
    scheduler = scheduler_of(clock, max_tiles=max_tiles, fair_tiles=fair_tiles)
    waiting = {
        admit(scheduler, count, deadline=deadline)[0].serial: count for count, deadline in requests
    }
    served = Counter(dict.fromkeys(waiting, 0))
    clock.seconds += WAIT_SECONDS
    while (batch := scheduler.take()) is not None:
        served += owners(batch)
        unfinished = [served[serial] for serial, count in waiting.items() if served[serial] < count]
        assert not unfinished or max(unfinished) - min(unfinished) <= fair_tiles
    assert served == waiting


@given(st.lists(st.integers(0, 20), min_size=1, max_size=20))
def test_no_tile_waits_longer_than_the_limit_for_a_free_device(new_clock, gaps_ms):
    """A device that polls whenever a batch is due gets every tile within `max_wait_seconds`."""
    clock = new_clock()
    scheduler = scheduler_of(clock, max_tiles=3)
    put_at = {}
    for number, gap_ms in enumerate(gaps_ms):
        arrival_seconds = clock.seconds + gap_ms / 1000
        while (wait := scheduler.wait_seconds()) is not None and (
            clock.seconds + wait <= arrival_seconds
        ):
            clock.seconds += wait
            take_and_check(scheduler, clock, put_at)
        clock.seconds = arrival_seconds
        request, _ = admit(scheduler, 1)
        put_at[request.serial] = clock.seconds
        assert number < len(gaps_ms)
    while (wait := scheduler.wait_seconds()) is not None:
        clock.seconds += wait
        take_and_check(scheduler, clock, put_at)
    assert not put_at


def take_and_check(scheduler, clock, put_at):
    batch = scheduler.take()
    if batch is None:  # floating-point rounding: due a moment later
        clock.seconds += 1e-9
        batch = scheduler.take()
    for item in batch.items:
        assert clock.seconds - put_at.pop(item.request.serial) <= WAIT_SECONDS + 1e-6
