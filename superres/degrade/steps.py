"""A degradation as a row of steps: drawn first, then run on a CPU or on a device.

Drawing takes no pixels and running no random generator, so the steps of a pair are all there is to
know of it. Run on both sides, one row gives the same picture within BOUND after each step, and also
after all of them where no last bit tips a rounding on the way.
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

# Between numpy and torch, in float32: the most that any value in [0, 1] differs after one step
# other than JPEG. JPEG rounds, so a last bit can become one step of its quantiser there, which
# shows all over a block: in a few of a hundred pictures, as bench/degradation.py tells.
BOUND = 2e-5


def apply(batch_bchw: Array, rows: Sequence[Sequence[Step]]) -> Array:
    """Run each picture (B, 3, H, W) in [0, 1] through its own row of steps.

    The rows are of one form: the same kinds of step and the same sizes, so that the whole batch
    goes through each at once. Raises ValueError where they are not.
    """
    for steps in zip(*rows, strict=True):
        if len({type(step) for step in steps}) > 1:
            raise ValueError("the pictures of one batch go through the same kinds of step")
        batch_bchw = steps[0].run(batch_bchw, steps)
    return namespace(batch_bchw).clip(batch_bchw, 0, 1)


def apply_to_picture(rgb_hwc_u8: Pixels, steps: Sequence[Step]) -> Pixels:
    """One picture (H, W, 3) uint8 through its steps, in float32 on the CPU."""
    batch = np.moveaxis(rgb_hwc_u8, -1, 0)[None].astype(np.float32) / np.float32(255)
    levels = np.floor(apply(batch, [steps])[0] * 255 + 0.5).astype(np.uint8)
    return np.ascontiguousarray(np.moveaxis(levels, 0, -1))


def as_json(steps: Sequence[Step]) -> list[dict[str, Any]]:
    """The steps as plain values, each with its name and, in a blur, its kernel's."""
    return [_plain(step) for step in steps]


def _plain(step: Step) -> dict[str, Any]:
    values = asdict(step)
    if isinstance(step, Blur):
        return {"step": "blur", "kernel": type(step.kernel).__name__.lower(), **values["kernel"]}
    return {"step": type(step).__name__.lower(), **values}
