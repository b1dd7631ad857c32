"""Online degradation: HR crops are degraded to LR crops during training.

The degradation of a crop is a function of (seed, step, index in the batch), so it has no state and
does not depend on the world size.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from superres.degrade import DEGRADATIONS, Mix, degrade
from superres.degrade.degradation import Rows
from superres.degrade.steps import apply

# Keeps these random numbers independent of those for the crop positions.
SEED_SALT = 0x64656772


@dataclass(frozen=True, slots=True, kw_only=True)
class DegradationGroup:
    """The crops of a batch (by index) with the same kind: degradation steps to run on the device,
    or LR crops (b, h, w, 3) if the kind runs on the CPU only."""

    kind: str
    indices: tuple[int, ...]
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
        """Draw the degradations for a slice of a step's batch; apply them with `run`.

        Kinds that run on the CPU only are applied here, so call it from the prefetch thread.
        """
        drawn = np.random.SeedSequence([self.seed, step, SEED_SALT])
        shared, *seeds = (int(value) >> 1 for value in drawn.generate_state(batch + 1, np.uint64))
        seeds = seeds[part]
        kinds = [self.mix.choose(seed) for seed in seeds]
        return tuple(
            self._group(
                kind,
                hr_bhwc_u8,
                seeds,
                shared,
                [index for index, drawn_kind in enumerate(kinds) if drawn_kind == kind],
            )
            for kind in dict.fromkeys(kinds)
        )

    def _group(
        self,
        kind: str,
        hr_bhwc_u8: npt.NDArray[np.uint8],
        seeds: Sequence[int],
        shared: int,
        indices: Sequence[int],
    ) -> DegradationGroup:
        draw_rows = DEGRADATIONS.get(kind).draw_rows
        rows = lr_bhwc_u8 = None
        if draw_rows is not None:
            size = (hr_bhwc_u8.shape[1], hr_bhwc_u8.shape[2])
            with DEGRADATIONS.failures_of(kind):
                rows = draw_rows(size, self.scale, [seeds[index] for index in indices], shared)
        if rows is None:
            lr_bhwc_u8 = np.stack(
                [
                    degrade(
                        hr_bhwc_u8[index], kind=kind, scale=self.scale, seed=seeds[index]
                    ).lr_hwc_u8
                    for index in indices
                ]
            )
        return DegradationGroup(kind=kind, indices=tuple(indices), rows=rows, lr_bhwc_u8=lr_bhwc_u8)


def run(groups: Sequence[DegradationGroup], hr_bchw: Tensor, scale: int) -> Tensor:
    """Degrade HR crops in [0, 1] on their device; the LR crops are rounded to 8-bit levels."""
    count, channels, height, width = hr_bchw.shape
    lr_bchw = hr_bchw.new_empty((count, channels, height // scale, width // scale))
    for group in groups:
        indices = list(group.indices)
        if group.rows is not None:
            with DEGRADATIONS.failures_of(group.kind):
                degraded = torch.floor(apply(hr_bchw[indices], group.rows) * 255 + 0.5) / 255
                if degraded.shape[1:] != lr_bchw.shape[1:]:
                    raise ValueError(
                        f"its steps give crops of {tuple(degraded.shape[2:])} (height, width), not "
                        f"{tuple(lr_bchw.shape[2:])}"
                    )
        else:
            assert group.lr_bhwc_u8 is not None, "a group has steps or crops"
            crops = torch.from_numpy(group.lr_bhwc_u8).to(hr_bchw.device)
            degraded = crops.permute(0, 3, 1, 2).to(hr_bchw.dtype) / 255
        lr_bchw[indices] = degraded
    return lr_bchw
