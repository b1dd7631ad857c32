"""Degradation while training: HR crops become LR crops anew in every step.

What each crop gets is a function of (seed, step, place in the batch), so it needs no state, and it
is the same however many processes share the batch.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from superres.degrade import Mix, bsrgan, degrade, real_esrgan
from superres.degrade.blur import defocus, motion
from superres.degrade.noise import gaussian, iso, poisson
from superres.degrade.steps import Step, apply

# Keeps these seeds apart from those that crops are drawn with.
ONLINE_KINDS = 0x64656772

Rows = list[list[Step]]
_DrawRows = Callable[[tuple[int, int], int, Sequence[int], int], Rows]
_DrawSteps = Callable[[np.random.Generator], Sequence[Step]]


def _alike(draw: _DrawSteps) -> _DrawRows:
    """Rows of a degradation whose steps have one form whatever is drawn."""
    return lambda size, scale, seeds, shared: [
        list(draw(np.random.default_rng(seed))) for seed in seeds
    ]


SHRINKING: dict[str, _DrawRows] = {
    "bsrgan": bsrgan.draw_batch,
    "real_esrgan": real_esrgan.draw_batch,
}
AT_SIZE: dict[str, _DrawRows] = {
    "defocus": _alike(defocus),
    "motion": _alike(motion),
    "gaussian_noise": _alike(gaussian),
    "poisson_noise": _alike(poisson),
    "iso_noise": _alike(iso),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class DegradationGroup:
    """The crops of a batch (by place) that get one kind: steps for the device, or the LR crops
    (b, h, w, 3) where the kind is made by the CPU alone."""

    places: tuple[int, ...]
    rows: Rows | None
    lr_bhwc_u8: npt.NDArray[np.uint8] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class OnlineDegradation:
    """A recipe's mix of degradations at a scale."""

    mix: Mix
    scale: int
    seed: int

    def draw(
        self, hr_bhwc_u8: npt.NDArray[np.uint8], step: int, batch: int, part: slice
    ) -> tuple[DegradationGroup, ...]:
        """What the crops of a part of a step's batch get; run it with `run`.

        Kinds without a form for the device are done here, so call it beside the training.
        """
        drawn = np.random.SeedSequence([self.seed, step, ONLINE_KINDS])
        shared, *seeds = (int(word) >> 1 for word in drawn.generate_state(batch + 1, np.uint64))
        seeds = seeds[part]
        kinds = [self.mix.choose(seed) for seed in seeds]
        return tuple(
            self._one(
                kind, hr_bhwc_u8, seeds, shared, [at for at, its in enumerate(kinds) if its == kind]
            )
            for kind in dict.fromkeys(kinds)
        )

    def _one(
        self,
        kind: str,
        hr_bhwc_u8: npt.NDArray[np.uint8],
        seeds: Sequence[int],
        shared: int,
        places: Sequence[int],
    ) -> DegradationGroup:
        draw = SHRINKING.get(kind) or (AT_SIZE.get(kind) if self.scale == 1 else None)
        rows = lr_bhwc_u8 = None
        if draw is not None:
            height, width = hr_bhwc_u8.shape[1:3]
            rows = draw((height, width), self.scale, [seeds[at] for at in places], shared)
        else:
            lr_bhwc_u8 = np.stack(
                [
                    degrade(hr_bhwc_u8[at], kind=kind, scale=self.scale, seed=seeds[at]).lr_hwc_u8
                    for at in places
                ]
            )
        return DegradationGroup(places=tuple(places), rows=rows, lr_bhwc_u8=lr_bhwc_u8)


def run(kinds: Sequence[DegradationGroup], hr_bchw: Tensor, scale: int) -> Tensor:
    """The LR crops of HR crops in [0, 1], on their device, in whole 8-bit levels."""
    count, channels, height, width = hr_bchw.shape
    lr_bchw = hr_bchw.new_empty((count, channels, height // scale, width // scale))
    for kind in kinds:
        places = list(kind.places)
        if kind.rows is not None:
            made = torch.floor(apply(hr_bchw[places], kind.rows) * 255 + 0.5) / 255
        else:
            assert kind.lr_bhwc_u8 is not None, "a kind has steps or crops"
            crops = torch.from_numpy(kind.lr_bhwc_u8).to(hr_bchw.device)
            made = crops.permute(0, 3, 1, 2).to(hr_bchw.dtype) / 255
        lr_bchw[places] = made
    return lr_bchw
