"""Training pictures as raw uint8 in one memory-mapped file, and crops drawn from it.

A pack holds, picture by picture, the HR pixels and then the LR pixels, each (H, W, 3); its index
says where. A batch is a function of (seed, step) alone, so the order of the data needs no state of
its own: to go on at step k is to ask for batch k.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from superres.errors import SharplineError
from superres.files import write_json
from superres.image import read
from superres.manifest import ManifestRow

PACK_NAME, INDEX_NAME = "packs/train.bin", "packs/train.json"

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedPair:
    """Where one pair lies; sizes are the LR picture's, offsets are bytes into the pack."""

    name: str
    height: int
    width: int
    hr_offset: int
    lr_offset: int


def write_pack(dataset: Path, rows: Sequence[ManifestRow]) -> str:
    """Pack the pairs of `rows`, whose PNG files lie under `dataset`; return the pack's sha256."""
    path = dataset / PACK_NAME
    path.parent.mkdir(parents=True)
    digest, offset, index = hashlib.sha256(), 0, []
    with path.open("wb") as file:
        for row in rows:
            hr_hwc, lr_hwc = (read(dataset / name).rgb_hwc for name in (row.hr_path, row.lr_path))
            index.append(
                {
                    "name": row.name,
                    "height": lr_hwc.shape[0],
                    "width": lr_hwc.shape[1],
                    "hr_offset": offset,
                    "lr_offset": offset + hr_hwc.size,
                }
            )
            offset += hr_hwc.size + lr_hwc.size
            for pixels in (hr_hwc, lr_hwc):
                data = np.ascontiguousarray(pixels).tobytes()
                digest.update(data)
                file.write(data)
    write_json(dataset / INDEX_NAME, {"scale": rows[0].scale, "bytes": offset, "pairs": index})
    return digest.hexdigest()


class Pack:
    """A pack opened for reading; pixels stay on disk until they are asked for."""

    def __init__(self, dataset: Path) -> None:
        try:
            index = json.loads((dataset / INDEX_NAME).read_bytes())
            self._bytes = np.memmap(dataset / PACK_NAME, dtype=np.uint8, mode="r")
        except (OSError, ValueError) as error:
            raise SharplineError(
                f"{dataset} has no readable training pack; build the dataset again"
            ) from error
        if self._bytes.size != index["bytes"]:
            raise SharplineError(
                f"{dataset / PACK_NAME} has {self._bytes.size} bytes instead of "
                f"{index['bytes']}; build the dataset again"
            )
        self.scale: int = index["scale"]
        self.pairs = tuple(PackedPair(**entry) for entry in index["pairs"])

    def hr(self, pair: PackedPair) -> Pixels:
        """The HR picture (H * scale, W * scale, 3), not copied."""
        height, width = pair.height * self.scale, pair.width * self.scale
        return self._picture(pair.hr_offset, height, width)

    def lr(self, pair: PackedPair) -> Pixels:
        """The LR picture (H, W, 3), not copied."""
        return self._picture(pair.lr_offset, pair.height, pair.width)

    def _picture(self, offset: int, height: int, width: int) -> Pixels:
        return self._bytes[offset : offset + height * width * 3].reshape(height, width, 3)


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Aligned crops: (B, p, p, 3) and (B, p * scale, p * scale, 3)."""

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
                f"more, as patch: {patch} at x{pack.scale} asks for"
            )
        positions = [(pair.height - patch + 1) * (pair.width - patch + 1) for pair in self._pairs]
        self._ends = np.cumsum(positions)

    def batch(self, step: int) -> Batch:
        """The batch of a step, the same whenever it is asked for."""
        rng = np.random.default_rng([self._seed, step])
        places = rng.integers(0, self._ends[-1], size=self._batch)
        turns = rng.integers(0, 8, size=self._batch)
        patch, scale = self._patch, self._pack.scale
        lr_bhwc = np.empty((self._batch, patch, patch, 3), np.uint8)
        hr_bhwc = np.empty((self._batch, patch * scale, patch * scale, 3), np.uint8)
        names = []
        for slot, (place, turn) in enumerate(zip(places, turns, strict=True)):
            index = int(np.searchsorted(self._ends, place, side="right"))
            pair = self._pairs[index]
            before = int(self._ends[index - 1]) if index else 0
            top, left = divmod(int(place) - before, pair.width - patch + 1)
            lr_bhwc[slot] = _turned(_crop(self._pack.lr(pair), top, left, patch), int(turn))
            hr_bhwc[slot] = _turned(
                _crop(self._pack.hr(pair), top * scale, left * scale, patch * scale), int(turn)
            )
            names.append(pair.name)
        return Batch(lr_bhwc_u8=lr_bhwc, hr_bhwc_u8=hr_bhwc, names=tuple(names))


def _crop(hwc: Pixels, top: int, left: int, side: int) -> Pixels:
    return hwc[top : top + side, left : left + side]


def _turned(square_hwc: Pixels, turn: int) -> Pixels:
    """One of the eight symmetries of a square: 0 to 3 quarter turns, then mirrored or not."""
    turned = np.rot90(square_hwc, turn % 4)
    return turned[:, ::-1] if turn >= 4 else turned
