"""Training pictures as raw uint8 in one memory-mapped file.

A pack holds, picture by picture, the HR pixels and then the LR pixels, each (H, W, 3); its index
says where.
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
            # A plain view of the map: slicing np.memmap itself costs more than copying a crop.
            self._bytes = np.asarray(np.memmap(dataset / PACK_NAME, dtype=np.uint8, mode="r"))
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
