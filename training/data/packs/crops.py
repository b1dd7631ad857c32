"""Random crops of a pack: a batch is a function of (seed, step) alone.

So the sampler has no state to save: training resumes at step k with batch k.
"""

from dataclasses import dataclass

import numpy as np

from superres.common.errors import SharplineError
from superres.image.dihedral import SYMMETRIES, write_symmetry
from training.data.packs.packs import Pack, Pixels


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Aligned crops: (B, p, p, 3) and (B, p * scale, p * scale, 3), and their pictures' names."""

    lr_bhwc_u8: Pixels
    hr_bhwc_u8: Pixels
    names: tuple[str, ...]


class CropSampler:
    """Random crops with flips and quarter turns, uniform over all crop positions of the pack.

    `patch` is in LR pixels. Pictures smaller than a patch are skipped and counted in `skipped`.
    Raises SharplineError where no picture is left.
    """

    def __init__(self, pack: Pack, *, patch: int, batch: int, seed: int) -> None:
        self._pack, self._patch, self._batch, self._seed = pack, patch, batch, seed
        self._pairs = [pair for pair in pack.pairs if min(pair.height, pair.width) >= patch]
        self.skipped = len(pack.pairs) - len(self._pairs)
        if not self._pairs:
            raise SharplineError(
                f"no training picture is at least {patch * pack.scale} pixels a side, as patches: "
                f"side {patch} at x{pack.scale} needs; use a smaller side or larger pictures"
            )
        positions = [(pair.height - patch + 1) * (pair.width - patch + 1) for pair in self._pairs]
        self._ends = np.cumsum(positions)

    def batch(self, step: int, part: slice = slice(None)) -> Batch:
        """The batch of a step; or the slice `part` of it, where processes share the batch."""
        rng = np.random.default_rng([self._seed, step])
        positions = rng.integers(0, self._ends[-1], size=self._batch)
        turns = rng.integers(0, SYMMETRIES, size=self._batch)
        patch, scale = self._patch, self._pack.scale
        positions, turns = positions[part], turns[part]
        count = len(positions)
        lr_bhwc = np.empty((count, patch, patch, 3), np.uint8)
        hr_bhwc = np.empty((count, patch * scale, patch * scale, 3), np.uint8)
        indices = np.searchsorted(self._ends, positions, side="right")
        offsets = positions - np.where(indices > 0, self._ends[indices - 1], 0)
        names = []
        draws = zip(indices.tolist(), offsets.tolist(), turns.tolist(), strict=True)
        for row, (index, position, turn) in enumerate(draws):
            pair = self._pairs[index]
            top, left = divmod(position, pair.width - patch + 1)
            lr_hwc, hr_hwc = self._pack.lr(pair), self._pack.hr(pair)
            write_symmetry(_crop(lr_hwc, top, left, patch), turn, lr_bhwc[row])
            hr_crop_hwc = _crop(hr_hwc, top * scale, left * scale, patch * scale)
            write_symmetry(hr_crop_hwc, turn, hr_bhwc[row])
            names.append(pair.name)
        return Batch(lr_bhwc_u8=lr_bhwc, hr_bhwc_u8=hr_bhwc, names=tuple(names))


def _crop(hwc: Pixels, top: int, left: int, side: int) -> Pixels:
    return hwc[top : top + side, left : left + side]
