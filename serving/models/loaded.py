"""One model on every device: proven before it serves, closed after its last request.

A bundle is loaded, warmed up shape by shape, and must repeat the golden answer that it gave when it
was made, within the bounds that it states.
"""

import threading
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np

from serving.batching.tiles import Tile
from superres.common.errors import SharplineError
from superres.image.codecs import Picture
from superres.model.backends import Backend, DeviceOutOfMemory
from superres.model.bundle import Bundle
from superres.model.tiling import in_parts
from superres.model.upscaler import Upscaler

Result = TypeVar("Result")
BackendLoader = Callable[[Bundle, str], Backend]  # the string names a device

ROUNDING_LEVELS = 1.0  # the golden answer and ours are each rounded to whole levels
GOLDEN_SHARE = 99.9  # per cent of values that a precision bound speaks of


class GoldenMismatch(SharplineError):
    """A model does not repeat the answer that it gave when it was made."""


class RunOnDevice(Protocol):
    """Runs a function on the thread that owns the device of that number."""

    def __call__(self, device_index: int, task: Callable[[], Result], /) -> Result: ...


class LoadedModel:
    """A proven bundle, one backend per device; closed once it is retired and nobody uses it."""

    def __init__(self, bundle: Bundle, backends: Sequence[Backend]) -> None:
        self.bundle = bundle
        self.name = bundle.info.name
        self.upscaler = Upscaler(bundle, backends[0])
        self._backends = tuple(backends)
        self._lock = threading.Lock()
        self._users = 0
        self._retired = False

    def forward(self, tiles_bhwc: Tile, device_index: int = 0) -> Tile:
        return self._backends[device_index].forward(tiles_bhwc)

    def forward_in_parts(self, tile_hwc: Tile, device_index: int = 0) -> Tile:
        """One tile through the largest smaller bucket that the device's memory holds."""
        height, width = tile_hwc.shape[:2]
        smaller = [
            bucket
            for bucket in self.bundle.info.tile_buckets
            if bucket[0] <= height and bucket[1] <= width and bucket != (height, width)
        ]
        backend = self._backends[device_index]
        for bucket in sorted(smaller, key=lambda sides: -sides[0] * sides[1]):
            try:
                return in_parts(
                    tile_hwc,
                    self.upscaler.geometry,
                    bucket,
                    lambda part_hwc: backend.forward(part_hwc[None])[0],
                )
            except DeviceOutOfMemory:
                continue
        raise DeviceOutOfMemory(f"not even the smallest tile of {self.name} fits into memory")

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
            self._close()

    def _leave(self) -> None:
        with self._lock:
            self._users -= 1
            close = self._retired and self._users == 0
        if close:
            self._close()

    def _close(self) -> None:
        for backend in self._backends:
            backend.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedModel:
    """A model that repeated its golden answer, and how long that took."""

    model: LoadedModel
    pixels: int  # LR, as given to the network
    seconds: float


def load_verified(
    bundle: Bundle, load: BackendLoader, on_device: RunOnDevice, devices: Sequence[str]
) -> VerifiedModel:
    """Load a bundle, warm it up and replay its golden pair on every device.

    Batches of others go in between. Raises WrongAnswer, or whatever loading and running it raise.
    """
    backends: list[Backend] = []
    try:
        golden_input, golden_output = bundle.golden()
        seconds = pixels = 0
        for device_index, device in enumerate(devices):
            backend = load(bundle, device)
            backends.append(backend)
            for bucket in bundle.info.tile_buckets:
                on_device(device_index, lambda b=backend, shape=bucket: b.warm_up([shape]))
            upscaler = Upscaler(bundle, backend)
            answer, seconds = on_device(device_index, lambda up=upscaler: _timed(up, golden_input))
            require_golden(answer, golden_output, bundle, backend.precision)
            tile_plan, _ = upscaler.split(golden_input)
            pixels = len(tile_plan.boxes) * tile_plan.bucket[0] * tile_plan.bucket[1]
    except BaseException:
        for backend in backends:
            backend.close()
        raise
    return VerifiedModel(model=LoadedModel(bundle, backends), pixels=pixels, seconds=seconds)


def _timed(upscaler: Upscaler, picture: Picture) -> tuple[Picture, float]:
    began_seconds = time.perf_counter()
    answer = upscaler.upscale(picture)
    return answer, time.perf_counter() - began_seconds


def require_golden(answer: Picture, golden: Picture, bundle: Bundle, precision: str) -> None:
    """Raise WrongAnswer where the answer is further from the golden one than the bundle states."""
    if answer.rgb_hwc.shape != golden.rgb_hwc.shape:
        raise GoldenMismatch(
            f"the golden answer has shape {golden.rgb_hwc.shape}, this one {answer.rgb_hwc.shape}"
        )
    bounds = bundle.info.bounds
    allowed = bounds.seam_levels + bounds.precision_levels.get(precision, 0.0) + ROUNDING_LEVELS
    levels = 255.0 / np.iinfo(golden.rgb_hwc.dtype).max
    off = np.abs(answer.rgb_hwc.astype(np.float64) - golden.rgb_hwc.astype(np.float64)) * levels
    worst = float(np.percentile(off, GOLDEN_SHARE))
    if not worst <= allowed:
        raise GoldenMismatch(
            f"the golden answer is missed by {worst:.2f} levels, {allowed:.2f} are "
            f"allowed; the weights or this machine's {precision} arithmetic are bad"
        )
