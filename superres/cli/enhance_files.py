"""Pictures enlarged into files, by one model or by the one that fits each."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from superres.analysis.degradation_features import examine
from superres.analysis.model_selection import Candidate, ModelChoice, SelectionRequest, select_model
from superres.common.console import track
from superres.common.errors import SharplineError
from superres.image.codecs import (
    SUFFIX_FORMATS,
    Picture,
    check_format_holds,
    read,
    write,
)
from superres.image.passport import Step, earlier_passport, extended
from superres.image.targets import PlannedFile
from superres.model.bundle import Bundle
from superres.model.upscaler import Upscaler

UNREGISTERED = "local"  # the version of a bundle that no registry has numbered

LoadUpscaler = Callable[[Bundle], Upscaler]
# What enlarges a picture, and why it is that one.
Pick = Callable[[Picture], tuple[Upscaler, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class EnhancedFile:
    """An answer that was written, by which model and why that one."""

    file: PlannedFile
    model: str
    reason: str


def enhance_all(
    files: Sequence[PlannedFile], pick: Pick, *, quality: int, label: str, passports: bool = True
) -> tuple[list[EnhancedFile], dict[str, str]]:
    """Answers written, and by file why others were not; one bad picture does not stop the rest.

    With `passports` each file says which model made it.
    """
    done: list[EnhancedFile] = []
    failed: dict[str, str] = {}
    for file in track(files, label):
        try:
            picture = read(file.source)
            # Alpha that the target cannot hold is found out before minutes of work, not after.
            check_format_holds(picture, SUFFIX_FORMATS[file.target.suffix.lower()])
            upscaler, reason = pick(picture)
            answer = upscaler.upscale(picture)
            if passports:
                answer = replace(answer, passport=_passport(file.source, upscaler.bundle))
            write(file.target, answer, quality=quality)
            done.append(EnhancedFile(file=file, model=upscaler.bundle.info.name, reason=reason))
        except SharplineError as error:
            failed[str(file.source)] = str(error)
    return done, failed


def _passport(source: Path, bundle: Bundle) -> str:
    """The answer's passport, which goes on where the input's ended."""
    info = bundle.info
    step = Step(
        model=info.name, version=UNREGISTERED, bundle=bundle.id, did=(f"enlarged x{info.scale}",)
    )
    return extended(earlier_passport(source.read_bytes()), step).text()


class AutoSelector:
    """Selects a model for each picture (`model_selection`) and loads each model once."""

    def __init__(
        self,
        bundles: Sequence[Bundle],
        request: SelectionRequest,
        load: LoadUpscaler,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._bundles = {bundle.info.name: bundle for bundle in bundles}
        self._wanted = request
        self._load = load
        self._clock = clock
        self._loaded: dict[str, Upscaler] = {}
        self._candidates = list(self._make_candidates())

    def __call__(self, picture: Picture) -> tuple[Upscaler, str]:
        choice = self.choice(picture)
        return self._upscaler(choice.model), choice.reason

    def choice(self, picture: Picture) -> ModelChoice:
        """The model for a picture. Raises NoModelFits."""
        return select_model(examine(picture.rgb_hwc), self._wanted, self._candidates)

    def _make_candidates(self) -> Iterator[Candidate]:
        for name, bundle in self._bundles.items():
            # Only a deadline makes speed matter, and measuring it means loading every model.
            timed = self._wanted.deadline_seconds is not None
            fits = self._wanted.scale in (None, bundle.info.scale)
            seconds = self._seconds_per_megapixel(name) if timed and fits else None
            yield Candidate.of(bundle.info, seconds)

    def _seconds_per_megapixel(self, name: str) -> float:
        """Of input, from the second of two runs of the smallest tile."""
        upscaler = self._upscaler(name)
        halo = upscaler.geometry.halo
        height, width = min(upscaler.geometry.buckets)
        tile = np.zeros((1, height, width, 3), np.uint8)
        upscaler.forward(tile)
        began = self._clock()
        upscaler.forward(tile)
        seconds = self._clock() - began
        return seconds / ((height - 2 * halo) * (width - 2 * halo) / 1e6)

    def _upscaler(self, name: str) -> Upscaler:
        if name not in self._loaded:
            self._loaded[name] = self._load(self._bundles[name])
        return self._loaded[name]
