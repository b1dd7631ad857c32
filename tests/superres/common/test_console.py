"""Progress of a transfer: a bar on a terminal, sparse lines in a log."""

import sys

import pytest

from superres.common import console
from superres.common.console import format_bytes, track_bytes


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (2040, "2.04 kB"),
        (448993893, "449 MB"),
        (3.5e15, "3500 TB"),
    ],
)
def test_bytes_are_formatted_with_three_digits(size: int, text: str) -> None:
    assert format_bytes(size) == text


def test_a_log_gets_sparse_lines_and_one_at_the_end(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = iter([0.0, 1.0, 11.0, 12.0, 13.0])
    monkeypatch.setattr(console.time, "monotonic", lambda: next(seconds))
    with track_bytes("fetching a.zip", 5000, 1000) as count:
        for _ in range(4):
            count(1000)
    assert capsys.readouterr().err.splitlines() == [
        "fetching a.zip: 3 kB of 5 kB",
        "fetching a.zip: 5 kB of 5 kB",
    ]


def test_a_terminal_gets_a_progress_bar(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with track_bytes("fetching a.zip", 5000, 1000) as count:
        count(4000)
    assert "5.0/5.0 kB" in capsys.readouterr().err
