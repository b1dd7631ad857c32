"""Random crops of a pack: a batch is a function of (seed, step) alone.

So the order of the data needs no state of its own: to go on at step k is to ask for batch k.
"""

from dataclasses import dataclass

import numpy as np

from superres.common.errors import SharplineError
from superres.image.dihedral import SYMMETRIES, write_symmetry
from training.data.packs.packs import Pack, Pixels


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Aligned crops: (B, p, p, 3) and (B, p * scale, p * scale, 3), and each one's picture."""

    lr_bhwc_u8: Pixels
    hr_bhwc_u8: Pixels
    names: tuple[str, ...]


class CropSampler:
    """Random crops with flips and quarter turns, every crop position of the pack equally likely.

    `patch` is in LR pixels. Pictures smaller than a patch cannot be drawn from: `skipped` counts
    them. Raises SharplineError where that leaves none.
    """

    def __init__(self, pack: Pack, *, patch: int, batch: int, seed: int) -> None:
        self._pack, self._patch, self._batch, self._seed = pack, patch, batch, seed
        self._pairs = [pair for pair in pack.pairs if min(pair.height, pair.width) >= patch]
        self.skipped = len(pack.pairs) - len(self._pairs)
        if not self._pairs:
            raise SharplineError(
                f"no training picture is {patch * pack.scale} pixels a side or "
                f"more, as patches: side {patch} at x{pack.scale} asks for; give a smaller side or "
                "larger pictures"
            )
        positions = [(pair.height - patch + 1) * (pair.width - patch + 1) for pair in self._pairs]
        self._ends = np.cumsum(positions)

    def batch(self, step: int, part: slice = slice(None)) -> Batch:
        """The batch of a step, the same whenever it is asked for; or only a part of it, where
        several processes share the batch."""
        rng = np.random.default_rng([self._seed, step])
        places = rng.integers(0, self._ends[-1], size=self._batch)
        turns = rng.integers(0, SYMMETRIES, size=self._batch)
        patch, scale = self._patch, self._pack.scale
        places, turns = places[part], turns[part]
        count = len(places)
        lr_bhwc = np.empty((count, patch, patch, 3), np.uint8)
        hr_bhwc = np.empty((count, patch * scale, patch * scale, 3), np.uint8)
        indices = np.searchsorted(self._ends, places, side="right")
        inside = places - np.where(indices > 0, self._ends[indices - 1], 0)
        names = []
        draws = zip(indices.tolist(), inside.tolist(), turns.tolist(), strict=True)
        for slot, (index, position, turn) in enumerate(draws):
            pair = self._pairs[index]
            top, left = divmod(position, pair.width - patch + 1)
            lr_hwc, hr_hwc = self._pack.lr(pair), self._pack.hr(pair)
            write_symmetry(_crop(lr_hwc, top, left, patch), turn, lr_bhwc[slot])
            hr_crop_hwc = _crop(hr_hwc, top * scale, left * scale, patch * scale)
            write_symmetry(hr_crop_hwc, turn, hr_bhwc[slot])
            names.append(pair.name)
        return Batch(lr_bhwc_u8=lr_bhwc, hr_bhwc_u8=hr_bhwc, names=tuple(names))


def _crop(hwc: Pixels, top: int, left: int, side: int) -> Pixels:
    return hwc[top : top + side, left : left + side]
