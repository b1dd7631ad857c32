import pytest

from serving.admission import Admission
from serving.costs import Costs
from serving.errors import AnswerTooLarge, Draining, QueueFull
from serving.settings import LimitSettings, QueueSettings
from superres.image import FormatCannotHold, TooManyBytes


class Clock:
    seconds = 0.0

    def __call__(self):
        return self.seconds


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def admission(clock):
    return Admission(
        LimitSettings(max_bytes=100, max_answer_pixels=10**9),
        QueueSettings(max_pictures=3, max_bytes=150, max_answer_pixels=1000),
        Costs(),
        clock=clock,
    )


def test_place_is_given_back_even_when_the_work_fails(admission):
    def fail():
        with admission.enter():
            assert admission.in_flight == 1
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert admission.in_flight == 0


def test_full_house_refuses(admission):
    with admission.enter(), admission.enter(), admission.enter():
        with pytest.raises(QueueFull), admission.enter():
            pass
        assert admission.in_flight == 3
    with admission.enter():
        assert admission.in_flight == 1


def test_draining_refuses_newcomers_and_keeps_who_is_in(admission):
    with admission.enter() as entry:
        admission.drain()
        assert admission.draining
        entry.hold_bytes(50)
        with pytest.raises(Draining), admission.enter():
            pass


def test_body_over_the_limit_is_refused(admission):
    with admission.enter() as entry:
        entry.hold_bytes(60)
        entry.hold_bytes(40)
        with pytest.raises(TooManyBytes, match="100 bytes"):
            entry.hold_bytes(1)


def test_bytes_of_all_bodies_have_a_limit_that_one_alone_never_meets(admission):
    with admission.enter() as first, admission.enter() as second:
        first.hold_bytes(100)
        second.hold_bytes(50)
        with pytest.raises(QueueFull, match="uploads"):
            second.hold_bytes(10)
    with admission.enter() as third:
        third.hold_bytes(100)


def test_answer_pixels_of_all_have_a_limit_but_one_picture_alone_may_pass_it(admission):
    with admission.enter() as huge:
        huge.hold_answer(100, 100, "png")
        with admission.enter() as second, pytest.raises(QueueFull, match="answers"):
            second.hold_answer(10, 10, "png")
    with admission.enter() as first, admission.enter() as second:
        first.hold_answer(20, 20, "png")
        second.hold_answer(20, 30, "png")


def test_answer_over_its_own_limit_is_refused(admission):
    with admission.enter() as entry, pytest.raises(AnswerTooLarge, match="40,000x30,000"):
        entry.hold_answer(40_000, 30_000, "png")


@pytest.mark.parametrize(("format", "longest"), [("webp", 16_383), ("jpeg", 65_500)])
def test_answer_that_the_format_cannot_hold_is_refused_before_the_work(admission, format, longest):
    with admission.enter() as entry:
        entry.hold_answer(longest, 1, format)
        with pytest.raises(FormatCannotHold, match="choose png"):
            entry.hold_answer(1, longest + 1, format)


def test_retry_after_follows_the_speed_that_was_seen(admission, clock):
    with admission.enter() as entry:
        entry.hold_answer(10, 50, "png")
        clock.seconds += 10  # 50 pixels a second
    with admission.enter() as first, admission.enter() as second:
        first.hold_answer(10, 40, "png")
        second.hold_answer(10, 60, "png")
        with admission.enter() as third:
            with pytest.raises(QueueFull) as full, admission.enter():
                pass
            assert full.value.seconds == pytest.approx(1000 / 3 / 50)
            with pytest.raises(QueueFull) as full:
                third.hold_answer(20, 10, "png")
            assert full.value.headers() == {"Retry-After": "4"}


def test_retry_after_is_one_second_where_nothing_is_known_yet(admission):
    with (
        admission.enter(),
        admission.enter(),
        admission.enter(),
        pytest.raises(QueueFull) as full,
        admission.enter(),
    ):
        pass
    assert full.value.headers() == {"Retry-After": "1"}
