"""One model on a device: proven before it serves, closed after its last request.

A bundle is loaded, warmed up shape by shape, and must repeat the golden answer that it gave when it
was made, within the bounds that it states.
"""

import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Protocol, TypeVar

import numpy as np

from serving.scheduler import Tile
from superres.backends import Backend
from superres.bundle import Bundle
from superres.errors import SharplineError
from superres.image import Picture
from superres.upscale import Upscaler

Result = TypeVar("Result")
BackendLoader = Callable[[Bundle], Backend]

ROUNDING_LEVELS = 1.0  # the golden answer and ours are each rounded to whole levels
GOLDEN_SHARE = 99.9  # per cent of values that a precision bound speaks of


class WrongAnswer(SharplineError):
    """A model does not repeat the answer that it gave when it was made."""


class OnDevice(Protocol):
    """Runs a function on the thread that owns the device."""

    def __call__(self, errand: Callable[[], Result], /) -> Result: ...


class LoadedModel:
    """A proven bundle on a backend; closed once it is retired and nobody uses it."""

    def __init__(self, bundle: Bundle, backend: Backend) -> None:
        self.bundle = bundle
        self.name = bundle.info.name
        self.upscaler = Upscaler(bundle, backend)
        self._lock = threading.Lock()
        self._users = 0
        self._retired = False

    def forward(self, tiles_bhwc: Tile) -> Tile:
        return self.upscaler.forward(tiles_bhwc)

    @contextmanager
    def in_use(self) -> Generator[None]:
        """Keep the model open, even if another takes its place meanwhile."""
        with self._lock:
            self._users += 1
        try:
            yield
        finally:
            self._leave()

    def retire(self) -> None:
        """Close as soon as the last user has gone."""
        with self._lock:
            self._retired = True
            close = self._users == 0
        if close:
            self.upscaler.backend.close()

    def _leave(self) -> None:
        with self._lock:
            self._users -= 1
            close = self._retired and self._users == 0
        if close:
            self.upscaler.backend.close()


def prove(bundle: Bundle, load: BackendLoader, on_device: OnDevice) -> LoadedModel:
    """Load a bundle, warm it up and replay its golden pair; batches of others go in between.

    Raises WrongAnswer, or whatever loading and running it raise.
    """
    backend = load(bundle)
    try:
        for bucket in bundle.info.tile_buckets:
            on_device(lambda shape=bucket: backend.warm_up([shape]))
        model = LoadedModel(bundle, backend)
        golden_input, golden_output = bundle.golden()
        answer = on_device(lambda: model.upscaler.upscale(golden_input))
        require_golden(answer, golden_output, bundle, backend.precision)
    except BaseException:
        backend.close()
        raise
    return model


def require_golden(answer: Picture, golden: Picture, bundle: Bundle, precision: str) -> None:
    """Raise WrongAnswer where the answer is further from the golden one than the bundle states."""
    if answer.rgb_hwc.shape != golden.rgb_hwc.shape:
        raise WrongAnswer(
            f"the golden answer has shape {golden.rgb_hwc.shape}, this one {answer.rgb_hwc.shape}"
        )
    bounds = bundle.info.bounds
    allowed = bounds.seam_levels + bounds.precision_levels.get(precision, 0.0) + ROUNDING_LEVELS
    levels = 255.0 / np.iinfo(golden.rgb_hwc.dtype).max
    off = np.abs(answer.rgb_hwc.astype(np.float64) - golden.rgb_hwc.astype(np.float64)) * levels
    worst = float(np.percentile(off, GOLDEN_SHARE))
    if not worst <= allowed:
        raise WrongAnswer(
            f"the golden answer is missed by {worst:.2f} levels, {allowed:.2f} are "
            f"allowed; the weights or this machine's {precision} arithmetic are bad"
        )
