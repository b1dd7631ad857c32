"""Inference time and memory are measured in rounds, here with a fake clock and memory probe."""

import os
from types import SimpleNamespace

import numpy as np
import pytest

from release.cost import SIDE, Meter, process_memory
from superres.image.codecs import Picture


class Model:
    """Each run advances the fake clock by the next of its seconds."""

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
    """Challenger and champion, their shared clock, and the log of runs."""
    clock, log = [0.0], []
    challenger = Model(tiny_bundle(name="new"), clock, log, [50, 2, 9, 3])
    champion = Model(tiny_bundle(name="old"), clock, log, [70, 4, 1, 1])
    return challenger, champion, clock, log


LR = Picture(rgb_hwc=np.zeros((150, 40, 3), np.uint8))


def test_seconds_are_medians_of_rounds_without_the_first_run(models) -> None:
    challenger, champion, clock, log = models
    added = iter([100, 300])
    meter = Meter(lambda: clock[0], lambda run: run() and next(added))
    costs = meter.measure(challenger, champion, LR, rounds=3)
    assert log == ["old", "new"] * 4
    assert (costs.challenger.seconds, costs.champion.seconds) == (3, 1)
    weights = (champion.bundle.root / "weights.safetensors").stat().st_size
    assert costs.champion.memory_bytes == 100 + weights
    assert costs.challenger.memory_bytes == 300 + weights
    assert (costs.pixels, costs.rounds) == (SIDE * 40, 3)


def test_without_a_champion_or_a_probe_those_costs_are_none(models) -> None:
    challenger, _, clock, _ = models

    def no_probe(run):
        run()

    costs = Meter(lambda: clock[0], no_probe).measure(challenger, None, LR, rounds=3)
    assert costs.champion is None
    assert costs.challenger.memory_bytes is None
    assert costs.challenger.seconds == 3


def test_without_a_given_probe_the_process_is_measured(models) -> None:
    challenger, _, clock, _ = models
    costs = Meter(lambda: clock[0]).measure(challenger, None, LR, rounds=3)
    weights = (challenger.bundle.root / "weights.safetensors").stat().st_size
    assert costs.challenger.memory_bytes is None or costs.challenger.memory_bytes >= weights


def test_process_memory_measures_what_a_run_adds(tmp_path) -> None:
    megabytes = 64

    def allocate() -> None:
        np.ones(megabytes * 1_000_000, np.uint8).sum()

    if not os.access("/proc/self/clear_refs", os.W_OK):
        pytest.skip("this system does not report the memory of a process")
    added = process_memory(allocate)
    assert added == pytest.approx(megabytes * 1e6, rel=0.25)


def test_without_a_high_water_mark_the_function_still_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    from pathlib import Path

    ran = []
    monkeypatch.setattr(Path, "write_text", lambda *_: (_ for _ in ()).throw(PermissionError()))
    assert process_memory(lambda: ran.append(1)) is None
    assert ran == [1]
