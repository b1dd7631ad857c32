"""Enlarge picture files, with one model or with one selected per picture."""

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

UNREGISTERED = "local"  # the version of a bundle that is in no registry

LoadUpscaler = Callable[[Bundle], Upscaler]
# Returns the upscaler for a picture and the reason for the choice.
Pick = Callable[[Picture], tuple[Upscaler, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class EnhancedFile:
    """A written output, the model that made it and why it was selected."""

    file: PlannedFile
    model: str
    reason: str


def enhance_all(
    files: Sequence[PlannedFile], pick: Pick, *, quality: int, label: str, passports: bool = True
) -> tuple[list[EnhancedFile], dict[str, str]]:
    """Enlarge files; returns the written ones and, by file, the reasons of failures.

    One bad picture does not stop the rest. With `passports` each output carries a passport.
    """
    written: list[EnhancedFile] = []
    failed: dict[str, str] = {}
    for file in track(files, label):
        try:
            picture = read(file.source)
            # Fail on alpha that the format cannot hold before minutes of work, not after.
            check_format_holds(picture, SUFFIX_FORMATS[file.target.suffix.lower()])
            upscaler, reason = pick(picture)
            output = upscaler.upscale(picture)
            if passports:
                output = replace(output, passport=_passport(file.source, upscaler.bundle))
            write(file.target, output, quality=quality)
            written.append(EnhancedFile(file=file, model=upscaler.bundle.info.name, reason=reason))
        except SharplineError as error:
            failed[str(file.source)] = str(error)
    return written, failed


def _passport(source: Path, bundle: Bundle) -> str:
    """The output's passport: the input's chain and one more step."""
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
        self._request = request
        self._load = load
        self._clock = clock
        self._loaded: dict[str, Upscaler] = {}
        self._candidates = list(self._make_candidates())

    def __call__(self, picture: Picture) -> tuple[Upscaler, str]:
        choice = self.choice(picture)
        return self._upscaler(choice.model), choice.reason

    def choice(self, picture: Picture) -> ModelChoice:
        """The model for a picture. Raises NoModelFits."""
        return select_model(examine(picture.rgb_hwc), self._request, self._candidates)

    def _make_candidates(self) -> Iterator[Candidate]:
        for name, bundle in self._bundles.items():
            # Speed only matters with a deadline, and measuring it means loading every model.
            timed = self._request.deadline_seconds is not None
            fits = self._request.scale in (None, bundle.info.scale)
            seconds = self._seconds_per_megapixel(name) if timed and fits else None
            yield Candidate.of(bundle.info, seconds)

    def _seconds_per_megapixel(self, name: str) -> float:
        """Seconds per megapixel of input, from the second of two runs of the smallest tile."""
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
