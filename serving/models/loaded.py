"""One model on every device: verified before it serves, closed after its last request.

A bundle is loaded, warmed up for each tile shape and must reproduce its golden output within the
bounds that it states.
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
from superres.model.tiling import run_in_parts
from superres.model.upscaler import Upscaler

Result = TypeVar("Result")
BackendLoader = Callable[[Bundle, str], Backend]  # bundle and device

ROUNDING_LEVELS = 1.0  # both outputs are rounded to whole levels
GOLDEN_PERCENTILE = 99.9  # of the differences; the one that a precision bound limits


class GoldenMismatch(SharplineError):
    """A model does not reproduce its golden output."""


class RunOnDevice(Protocol):
    """Runs a function on the thread of that device's engine."""

    def __call__(self, device_index: int, task: Callable[[], Result], /) -> Result: ...


class LoadedModel:
    """A verified bundle with one backend per device; closed once retired and unused."""

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
        """Run one tile in the largest smaller bucket that fits into the device's memory."""
        height, width = tile_hwc.shape[:2]
        smaller = [
            bucket
            for bucket in self.bundle.info.tile_buckets
            if bucket[0] <= height and bucket[1] <= width and bucket != (height, width)
        ]
        backend = self._backends[device_index]
        for bucket in sorted(smaller, key=lambda sides: -sides[0] * sides[1]):
            try:
                return run_in_parts(
                    tile_hwc,
                    self.upscaler.geometry,
                    bucket,
                    lambda part_hwc: backend.forward(part_hwc[None])[0],
                )
            except DeviceOutOfMemory:
                continue
        raise DeviceOutOfMemory(f"the smallest tile of {self.name} does not fit into memory")

    @contextmanager
    def in_use(self) -> Generator[None]:
        """Keep the model open, even if it is replaced meanwhile."""
        with self._lock:
            self._users += 1
        try:
            yield
        finally:
            self._release()

    def retire(self) -> None:
        """Close the model once it has no users."""
        with self._lock:
            self._retired = True
            close = self._users == 0
        if close:
            self._close()

    def _release(self) -> None:
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
    """A model that reproduced its golden output, and how long that took."""

    model: LoadedModel
    pixels: int  # LR, as given to the network
    seconds: float


def load_verified(
    bundle: Bundle, load: BackendLoader, on_device: RunOnDevice, devices: Sequence[str]
) -> VerifiedModel:
    """Load a bundle, warm it up and check its golden output on every device.

    Other batches run in between. Raises GoldenMismatch, or what loading and running it raise.
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
            output, seconds = on_device(device_index, lambda up=upscaler: _timed(up, golden_input))
            require_golden(output, golden_output, bundle, backend.precision)
            tile_plan, _ = upscaler.split(golden_input)
            pixels = len(tile_plan.boxes) * tile_plan.bucket[0] * tile_plan.bucket[1]
    except BaseException:
        for backend in backends:
            backend.close()
        raise
    return VerifiedModel(model=LoadedModel(bundle, backends), pixels=pixels, seconds=seconds)


def _timed(upscaler: Upscaler, picture: Picture) -> tuple[Picture, float]:
    began_seconds = time.perf_counter()
    output = upscaler.upscale(picture)
    return output, time.perf_counter() - began_seconds


def require_golden(output: Picture, golden: Picture, bundle: Bundle, precision: str) -> None:
    """Raise GoldenMismatch if the output exceeds the bundle's bounds around the golden output."""
    if output.rgb_hwc.shape != golden.rgb_hwc.shape:
        raise GoldenMismatch(
            f"the golden output has shape {golden.rgb_hwc.shape}, the model's has "
            f"{output.rgb_hwc.shape}"
        )
    bounds = bundle.info.bounds
    allowed = bounds.seam_levels + bounds.precision_levels.get(precision, 0.0) + ROUNDING_LEVELS
    levels = 255.0 / np.iinfo(golden.rgb_hwc.dtype).max
    differences = (
        np.abs(output.rgb_hwc.astype(np.float64) - golden.rgb_hwc.astype(np.float64)) * levels
    )
    worst = float(np.percentile(differences, GOLDEN_PERCENTILE))
    if not worst <= allowed:
        raise GoldenMismatch(
            f"the output differs from the golden output by {worst:.2f} levels, {allowed:.2f} are "
            f"allowed; the weights or this machine's {precision} arithmetic are faulty"
        )
