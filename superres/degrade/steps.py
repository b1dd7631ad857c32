"""A degradation as a sequence of steps: drawn first, then run on a CPU or a device.

Drawing needs no pixels and running no random generator, so the steps fully determine the
degradation. numpy and torch agree within BOUND after each step other than JPEG, and after a whole
sequence unless a difference in the last bit changes a rounding.
"""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from superres.degrade.arrays import Array, namespace
from superres.degrade.blur import Blur
from superres.degrade.jpeg import Jpeg
from superres.degrade.noise import CameraNoise, GaussianNoise, PoissonNoise
from superres.degrade.resample import Resize
from superres.degrade.result import Pixels

Step = Blur | Resize | GaussianNoise | PoissonNoise | CameraNoise | Jpeg

# The largest difference between numpy and torch, in float32, of any value in [0, 1] after one step
# other than JPEG. JPEG rounds, so a last bit can become one quantisation step, which changes a
# whole block: in a few of a hundred pictures, as measured by bench/degradation.py.
BOUND = 2e-5


def apply(batch_bchw: Array, rows: Sequence[Sequence[Step]]) -> Array:
    """Run each picture (B, 3, H, W) in [0, 1] through its own sequence of steps.

    All sequences must have the same kinds of step and the same sizes, so that each step runs on the
    whole batch; else raises ValueError.
    """
    for steps in zip(*rows, strict=True):
        if len({type(step) for step in steps}) > 1:
            raise ValueError("all pictures of a batch must have the same kinds of step")
        batch_bchw = steps[0].run(batch_bchw, steps)
    return namespace(batch_bchw).clip(batch_bchw, 0, 1)


def apply_to_picture(rgb_hwc_u8: Pixels, steps: Sequence[Step]) -> Pixels:
    """Run one picture (H, W, 3) uint8 through its steps, in float32 on the CPU."""
    batch = np.moveaxis(rgb_hwc_u8, -1, 0)[None].astype(np.float32) / np.float32(255)
    levels = np.floor(apply(batch, [steps])[0] * 255 + 0.5).astype(np.uint8)
    return np.ascontiguousarray(np.moveaxis(levels, 0, -1))


def as_json(steps: Sequence[Step]) -> list[dict[str, Any]]:
    """The steps as JSON values, each with its name; a blur also has its kernel's name."""
    return [_plain(step) for step in steps]


def _plain(step: Step) -> dict[str, Any]:
    values = asdict(step)
    if isinstance(step, Blur):
        return {"step": "blur", "kernel": type(step.kernel).__name__.lower(), **values["kernel"]}
    return {"step": type(step).__name__.lower(), **values}
