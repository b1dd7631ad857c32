"""Lines of progress: an activity is named again as long as it goes on."""

import threading

import pytest

from sharpline.local import progress
from sharpline.local.progress import reported


@pytest.fixture
def interval(monkeypatch):
    monkeypatch.setattr(progress, "INTERVAL_SECONDS", 0.01)


def test_an_activity_is_logged_again_until_it_ends(interval):
    lines, third = [], threading.Event()

    def log(line):
        lines.append(line)
        if len(lines) == 3:
            third.set()

    with reported(log, "starting MLflow"):
        assert third.wait(30)
    assert lines[0] == "starting MLflow"
    assert all(line.startswith("starting MLflow: ") and line.endswith(" s") for line in lines[1:])


def test_no_reporter_is_left_after_a_failure(interval):
    def fail():
        assert threading.active_count() == before + 1
        raise ValueError("no disk")

    before = threading.active_count()
    with pytest.raises(ValueError, match="no disk"), reported(lambda _: None, "starting"):
        fail()
    assert threading.active_count() == before
