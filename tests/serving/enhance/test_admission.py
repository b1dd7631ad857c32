from collections import Counter
from contextlib import ExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.enhance.admission import Admission
from serving.enhance.costs import CostModel
from serving.errors import Draining, OutputTooLarge, QueueFull
from serving.setting_groups import LimitSettings, QueueSettings
from superres.image.codecs import FormatCannotHold, TooManyBytes


@pytest.fixture
def admission(clock):
    return Admission(
        LimitSettings(max_bytes=100, max_output_pixels=10**9),
        QueueSettings(max_pictures=3, max_bytes=150, max_output_pixels=1000),
        CostModel(),
        clock=clock,
    )


def test_slot_is_released_even_when_the_work_fails(admission):
    def fail():
        with admission.admit():
            assert admission.in_flight == 1
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert admission.in_flight == 0


def test_full_server_refuses(admission):
    with admission.admit(), admission.admit(), admission.admit():
        with pytest.raises(QueueFull), admission.admit():
            pass
        assert admission.in_flight == 3
    with admission.admit():
        assert admission.in_flight == 1


def test_draining_refuses_new_requests_and_keeps_admitted_ones(admission):
    with admission.admit() as admitted:
        assert not admission.draining
        admission.drain()
        assert admission.draining
        admitted.reserve_bytes(50)
        with pytest.raises(Draining, match="shutting down") as refusal, admission.admit():
            pass
        assert refusal.value.headers() == {"Retry-After": "5"}


def test_body_over_the_limit_is_refused(admission):
    with admission.admit() as admitted:
        admitted.reserve_bytes(60)
        admitted.reserve_bytes(40)
        with pytest.raises(TooManyBytes, match="100 bytes"):
            admitted.reserve_bytes(1)


def test_total_bytes_are_limited_except_for_a_single_request(clock):
    limits, queue = LimitSettings(max_bytes=200), QueueSettings(max_bytes=150)
    admission = Admission(limits, queue, CostModel(), clock=clock)
    with admission.admit() as answered:
        answered.reserve_output(10, 3, "png")
        clock.seconds += 10  # 3 pixels a second
    with admission.admit() as first, admission.admit() as second:
        first.reserve_output(6, 4, "png")
        first.reserve_bytes(100)
        second.reserve_bytes(50)
        with pytest.raises(QueueFull, match="uploads") as refusal:
            second.reserve_bytes(10)
        assert refusal.value.headers() == {"Retry-After": "4"}
    with admission.admit() as third:
        third.reserve_bytes(100)
        third.reserve_bytes(100)


def test_total_output_pixels_are_limited_except_for_a_single_picture(admission):
    with admission.admit() as huge:
        huge.reserve_output(100, 100, "png")
        with admission.admit() as second, pytest.raises(QueueFull, match="answers"):
            second.reserve_output(10, 10, "png")
    with admission.admit() as first, admission.admit() as second:
        first.reserve_output(20, 20, "png")
        with pytest.raises(QueueFull, match="answers"):
            second.reserve_output(20, 31, "png")
        second.reserve_output(20, 30, "png")


def test_answer_over_its_own_limit_is_refused(admission):
    with admission.admit() as admitted:
        admitted.reserve_output(40_000, 25_000, "png")
        with pytest.raises(OutputTooLarge, match="40,000x25,001"):
            admitted.reserve_output(40_000, 25_001, "png")


@pytest.mark.parametrize(("format", "longest"), [("webp", 16_383), ("jpeg", 65_500)])
def test_answer_that_the_format_cannot_hold_is_refused_before_the_work(admission, format, longest):
    with admission.admit() as admitted:
        admitted.reserve_output(longest, 1, format)
        with pytest.raises(FormatCannotHold, match="choose png"):
            admitted.reserve_output(1, longest + 1, format)


def test_retry_after_follows_the_measured_rate(admission, clock):
    with admission.admit() as admitted:
        admitted.reserve_output(10, 50, "png")
        clock.seconds += 10  # 50 pixels a second
    with admission.admit() as first, admission.admit() as second:
        first.reserve_output(10, 40, "png")
        second.reserve_output(10, 60, "png")
        with admission.admit() as third:
            with pytest.raises(QueueFull) as refusal, admission.admit():
                pass
            assert refusal.value.seconds == pytest.approx(1000 / 3 / 50)
            with pytest.raises(QueueFull) as refusal:
                third.reserve_output(20, 10, "png")
            assert refusal.value.headers() == {"Retry-After": "4"}


def test_the_measured_rate_is_an_average_of_which_the_last_answer_is_a_fifth(clock):
    queue = QueueSettings(max_pictures=1)
    admission = Admission(LimitSettings(), queue, CostModel(), clock=clock)
    clock.seconds = 1000.0
    for pixels, seconds in ((50, 0.5), (500, 10.0)):  # 100, then 50 pixels a second
        with admission.admit() as admitted:
            admitted.reserve_output(pixels, 1, "png")
            clock.seconds += seconds
    with admission.admit() as admitted:
        admitted.reserve_output(180, 1, "png")
        with pytest.raises(QueueFull) as refusal, admission.admit():
            pass
    assert refusal.value.seconds == pytest.approx(180 / (0.8 * 100 + 0.2 * 50))


def busy_admission(clock, workloads, *, device_count=1, **queue):
    """An admission with admitted requests; `workloads` are (client, seconds)."""
    costs = CostModel()
    costs.learn("m", pixels=1000, seconds=1.0)
    settings = QueueSettings(**{"max_wait_seconds": 4, "max_stretch": 8, **queue})
    admission = Admission(LimitSettings(), settings, costs, device_count, clock)
    held = ExitStack()
    for client, seconds in workloads:
        admitted = held.enter_context(admission.admit(client))
        admitted._work_seconds = seconds
    return admission, held


def retry_seconds_of(admission, client, pixels, deadline=1e9):
    with admission.admit(client) as admitted:
        try:
            admitted.reserve_work("m", pixels, deadline)
        except QueueFull as refused:
            return refused.seconds
    return None


def test_idle_server_admits_everything(clock):
    admission, _ = busy_admission(clock, [])
    assert retry_seconds_of(admission, "a", 10**9, deadline=1.0) is None


def test_queueing_time_is_limited(clock):
    admission, _ = busy_admission(clock, [("a", 3.0)])
    assert retry_seconds_of(admission, "b", 1000) is None
    admission, _ = busy_admission(clock, [(f"client {n}", 3.0) for n in range(9)])
    assert retry_seconds_of(admission, "b", 1000) is not None


def test_large_picture_may_wait_in_proportion_to_its_own_time(clock):
    """Behind seven others of the same size it takes eight times its own time: `max_stretch`."""
    admission, _ = busy_admission(clock, [(f"client {n}", 100.0) for n in range(7)])
    assert retry_seconds_of(admission, "b", 100_000) is None
    admission, _ = busy_admission(clock, [(f"client {n}", 100.0) for n in range(8)])
    assert retry_seconds_of(admission, "b", 100_000) is not None


def test_client_with_a_long_backlog_is_refused_while_another_is_admitted(clock):
    admission, _ = busy_admission(clock, [("greedy", 1.0) for _ in range(20)])
    assert retry_seconds_of(admission, "greedy", 1000) is not None
    assert retry_seconds_of(admission, "other", 1000) is None


@pytest.mark.parametrize(
    ("workloads", "device_count", "seconds"),
    [
        ([("a", 4.5)], 1, 0.5),
        ([("a", 20.0)], 1, 16.0),
        ([("a", 15.0), ("a", 5.0), ("b", 0.5)], 1, 16.5),
        ([("a", 20.0)], 2, 6.0),
    ],
)
def test_retry_after_is_the_time_until_the_request_may_wait_for_the_rest(
    clock, workloads, device_count, seconds
):
    """A picture of one second on one device may wait four seconds longer than it takes."""
    admission, held = busy_admission(clock, workloads, device_count=device_count, max_stretch=1)
    with held:
        assert retry_seconds_of(admission, "a", 1000) == pytest.approx(seconds, abs=1e-3)


def test_refusal_states_the_predicted_and_the_allowed_time(clock):
    admission, held = busy_admission(clock, [("a", 40.0)], device_count=2)
    message = r"would take 20\.5 seconds; at most 4\.5 are allowed"
    with held, admission.admit("a") as admitted, pytest.raises(QueueFull, match=message):
        admitted.reserve_work("m", 1000, 1e9)


def test_only_reserved_and_unfinished_work_remains(clock):
    admission, _ = busy_admission(clock, [])
    with admission.admit() as admitted:
        assert admitted.remaining_seconds == 0.0
        admitted.reserve_work("never run", 1000, 1e9)
        assert admitted.remaining_seconds == 0.0
        admitted.reserve_work("m", 1000, 1e9)
        assert admitted.remaining_seconds == pytest.approx(1.0)
        admitted.work_done(1.5)
        assert admitted.remaining_seconds == 0.0


def test_deadline_that_cannot_be_met_is_refused(clock):
    clock.seconds = 1000.0
    admission, _ = busy_admission(clock, [("a", 3.0)])
    assert retry_seconds_of(admission, "b", 1000, deadline=clock() + 1.5) is not None
    assert retry_seconds_of(admission, "b", 1000, deadline=clock() + 2.5) is None


def test_finished_work_frees_capacity(clock):
    admission, held = busy_admission(clock, [("a", 20.0)])
    with held:
        admitted = next(iter(admission._admitted))
        assert retry_seconds_of(admission, "a", 1000) is not None
        admitted.work_done(0.9)
        assert admitted.remaining_seconds == pytest.approx(2.0)
        assert retry_seconds_of(admission, "a", 1000) is None


@given(
    st.lists(
        st.tuples(st.sampled_from("abcdefghijkl"), st.floats(0.1, 60)), min_size=1, max_size=30
    ),
    st.sampled_from("abz"),
    st.integers(10, 20_000),
)
def test_retry_after_is_long_enough_and_not_much_too_long(new_clock, workloads, client, pixels):
    """The other clients are served in fair shares meanwhile, and no new request arrives."""
    clock = new_clock()
    admission, held = busy_admission(clock, workloads)
    seconds = retry_seconds_of(admission, client, pixels)
    if seconds is None:
        return
    assert seconds > 0

    def refused_after(passed_seconds):
        left = served_fairly(workloads, passed_seconds)
        later, _ = busy_admission(clock, left.items())
        return retry_seconds_of(later, client, pixels) is not None

    assert not refused_after(seconds + 1e-3)
    assert refused_after(0.98 * seconds - 1e-3)
    held.close()


def served_fairly(workloads, seconds):
    """The remaining work of each client after `seconds` of one equally shared device."""
    left = Counter()
    for client, work in workloads:
        left[client] += work
    while seconds > 1e-9 and any(left.values()):
        waiting = [client for client in left if left[client] > 1e-9]
        if not waiting:
            break
        step = min(seconds / len(waiting), min(left[client] for client in waiting))
        for client in waiting:
            left[client] -= step
        seconds -= step * len(waiting)
    return {client: max(0.0, work) for client, work in left.items()}


def test_several_devices_finish_sooner(clock):
    costs = CostModel()
    costs.learn("m", pixels=1000, seconds=1.0)
    queue = QueueSettings(max_wait_seconds=4)
    admission = Admission(LimitSettings(), queue, costs, device_count=4, clock=clock)
    with admission.admit("a") as busy:
        busy._work_seconds = 15.0
        assert retry_seconds_of(admission, "a", 1000) is None


def test_cost_follows_recent_batches():
    costs = CostModel()
    assert costs.seconds("m", 100) is None
    costs.learn("m", pixels=100, seconds=1.0)
    assert costs.seconds("m", 100) == pytest.approx(1.0)
    for _ in range(60):
        costs.learn("m", pixels=100, seconds=3.0)
    assert costs.seconds("m", 100) == pytest.approx(3.0, rel=0.01)
    assert costs.per_pixel() == {"m": pytest.approx(0.03, rel=0.01)}


def test_batch_without_pixels_or_measurable_time_is_no_measurement():
    costs = CostModel()
    costs.learn("m", pixels=0, seconds=1.0)
    costs.learn("m", pixels=1, seconds=0.0)
    assert costs.seconds("m", 1) is None
    costs.learn("m", pixels=1, seconds=0.5)
    assert costs.seconds("m", 4) == pytest.approx(2.0)


def test_slow_small_batch_hardly_changes_the_estimate_for_large_ones():
    costs = CostModel()
    costs.learn("m", pixels=1_000, seconds=1.0)
    costs.learn("m", pixels=99_100, seconds=0.1)
    assert costs.seconds("m", 1_000_000) == pytest.approx(10.0)


def test_one_client_cannot_take_every_slot(clock):
    settings = QueueSettings(max_pictures=5, max_pictures_per_client=2)
    admission = Admission(LimitSettings(), settings, CostModel(), clock=clock)
    with admission.admit("a"), admission.admit("a"):
        with pytest.raises(QueueFull, match="of this client"), admission.admit("a"):
            pass
        with admission.admit("b"):
            assert admission.in_flight == 3


def test_retry_after_is_one_second_without_measurements(admission):
    with (
        admission.admit(),
        admission.admit(),
        admission.admit(),
        pytest.raises(QueueFull) as refusal,
        admission.admit(),
    ):
        pass
    assert refusal.value.headers() == {"Retry-After": "1"}
