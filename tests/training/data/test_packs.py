"""Crops are aligned, and batches are a function of seed and step."""

from pathlib import Path

import numpy as np
import pytest

from superres.common.errors import SharplineError
from training.data.packs.crops import CropSampler
from training.data.packs.packs import PACK_NAME, Pack


@pytest.fixture
def pack(dataset: Path) -> Pack:
    return Pack(dataset)


def test_a_batch_is_a_function_of_seed_and_step(pack: Pack) -> None:
    first = CropSampler(pack, patch=12, batch=4, seed=7)
    second = CropSampler(pack, patch=12, batch=4, seed=7)
    for step in (5, 0, 5):
        assert np.array_equal(first.batch(step).hr_bhwc_u8, second.batch(step).hr_bhwc_u8)
    other_seed = CropSampler(pack, patch=12, batch=4, seed=8).batch(5)
    assert not np.array_equal(other_seed.hr_bhwc_u8, first.batch(5).hr_bhwc_u8)
    assert not np.array_equal(first.batch(4).hr_bhwc_u8, first.batch(5).hr_bhwc_u8)


def test_crops_are_aligned_symmetries_of_the_pictures(pack: Pack) -> None:
    batch = CropSampler(pack, patch=12, batch=32, seed=1).batch(0)
    pictures = {pair.name: pair for pair in pack.pairs}
    for lr, hr, name in zip(batch.lr_bhwc_u8, batch.hr_bhwc_u8, batch.names, strict=True):
        assert (lr.shape, hr.shape) == ((12, 12, 3), (24, 24, 3))
        assert _find_crop(lr, np.asarray(pack.lr(pictures[name])), 1) == _find_crop(
            hr, np.asarray(pack.hr(pictures[name])), 2
        )


def test_crops_come_from_every_picture(pack: Pack) -> None:
    sampler = CropSampler(pack, patch=12, batch=64, seed=1)
    assert set(sampler.batch(0).names) == {pair.name for pair in pack.pairs}


def test_pictures_smaller_than_a_patch_are_skipped_or_rejected(pack: Pack) -> None:
    assert CropSampler(pack, patch=28, batch=1, seed=1).skipped == 0
    with pytest.raises(SharplineError, match="58 pixels"):
        CropSampler(pack, patch=29, batch=1, seed=1)


def test_a_truncated_pack_is_rejected(dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "packs").mkdir()
    for path in (dataset / "packs").iterdir():
        (tmp_path / "packs" / path.name).write_bytes(path.read_bytes())
    (tmp_path / PACK_NAME).write_bytes((tmp_path / PACK_NAME).read_bytes()[:-1])
    with pytest.raises(SharplineError, match="bytes instead of"):
        Pack(tmp_path)
    with pytest.raises(SharplineError, match="no readable training pack"):
        Pack(tmp_path / "nowhere")


def _find_crop(crop: np.ndarray, picture: np.ndarray, unit: int) -> set[tuple[int, int, int]]:
    """The symmetries and positions of the crop in the picture, in units of `unit` pixels."""
    side = crop.shape[0]
    positions = set()
    for turn in range(8):
        upright = crop if turn < 4 else crop[:, ::-1]
        upright = np.rot90(upright, -(turn % 4))
        for top in range(0, picture.shape[0] - side + 1, unit):
            for left in range(0, picture.shape[1] - side + 1, unit):
                if np.array_equal(picture[top : top + side, left : left + side], upright):
                    positions.add((turn, top // unit, left // unit))
    assert positions, "the crop is not in its picture"
    return positions
