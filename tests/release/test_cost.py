"""What answers cost is measured in turns, by a clock and a probe that a test can hold."""

from types import SimpleNamespace

import numpy as np
import pytest

from release.cost import SIDE, Meter, process_memory
from superres.image.codecs import Picture


class Model:
    """Takes the next of its seconds on a clock that stands otherwise."""

    def __init__(self, bundle, clock: list[float], log: list[str], seconds) -> None:
        self.bundle = bundle
        self.backend = SimpleNamespace(device="cpu")
        self._clock, self._log, self._seconds = clock, log, iter(seconds)

    def upscale(self, picture: Picture) -> Picture:
        self._log.append(self.bundle.info.name)
        self._clock[0] += next(self._seconds)
        assert (picture.height, picture.width) == (SIDE, 40)
        return picture


@pytest.fixture
def models(tiny_bundle):
    """Challenger and champion, the clock that they share, and who ran when."""
    clock, log = [0.0], []
    challenger = Model(tiny_bundle(name="new"), clock, log, [50, 2, 9, 3])
    champion = Model(tiny_bundle(name="old"), clock, log, [70, 4, 1, 1])
    return challenger, champion, clock, log


LR = Picture(rgb_hwc=np.zeros((150, 40, 3), np.uint8))


def test_medians_of_turns_without_the_first_answer(models) -> None:
    challenger, champion, clock, log = models
    added = iter([100, 300])
    meter = Meter(lambda: clock[0], lambda run: run() and next(added))
    found = meter.measure(challenger, champion, LR, rounds=3)
    assert log == ["old", "new"] * 4
    assert (found.challenger.seconds, found.champion.seconds) == (3, 1)
    weights = (champion.bundle.root / "weights.safetensors").stat().st_size
    assert found.champion.memory_bytes == 100 + weights
    assert found.challenger.memory_bytes == 300 + weights
    assert (found.pixels, found.rounds) == (SIDE * 40, 3)


def test_without_a_champion_or_a_probe_there_is_less_to_say(models) -> None:
    challenger, _, clock, _ = models

    def blind(run):
        run()

    found = Meter(lambda: clock[0], blind).measure(challenger, None, LR, rounds=3)
    assert found.champion is None
    assert found.challenger.memory_bytes is None
    assert found.challenger.seconds == 3


def test_the_process_knows_what_a_run_added(tmp_path) -> None:
    megabytes = 64

    def take() -> None:
        np.ones(megabytes * 1_000_000, np.uint8).sum()

    added = process_memory(take)
    if added is None:
        pytest.skip("this system does not tell what a process needs")
    assert added == pytest.approx(megabytes * 1e6, rel=0.25)


def test_a_system_without_a_high_water_mark_still_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    from pathlib import Path

    ran = []
    monkeypatch.setattr(Path, "write_text", lambda *_: (_ for _ in ()).throw(PermissionError()))
    assert process_memory(lambda: ran.append(1)) is None
    assert ran == [1]
