"""Online degradation is a function of (seed, step, index), on any device."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from superres.common.registry import PluginFailed
from superres.degrade import DEGRADATIONS, degrade, parse
from superres.degrade.degradation import Degradation
from superres.degrade.resample import Resize
from superres.degrade.steps import apply_to_picture
from training.loop.online_degradation import OnlineDegradation, run

WHOLE = slice(None)


def crops(count: int = 6, side: int = 24) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def lr_levels(
    mix: str, step: int, part: slice = WHOLE, scale: int = 2, seed: int = 1
) -> np.ndarray:
    """The LR crops (B, 3, h, w) as 8-bit levels."""
    hr_bhwc_u8 = crops()[part]
    drawn = OnlineDegradation(mix=parse(mix), scale=scale, seed=seed).draw(
        hr_bhwc_u8, step, 6, part
    )
    hr_bchw = torch.from_numpy(hr_bhwc_u8).permute(0, 3, 1, 2).float() / 255
    levels = run(drawn, hr_bchw, scale).numpy() * 255
    assert np.allclose(levels, np.round(levels), atol=1e-3)
    return np.round(levels).astype(int)


@pytest.mark.parametrize("mix", ["real_esrgan", "bsrgan", "{bicubic: 1, real_esrgan: 1, jpeg: 1}"])
def test_crops_depend_on_step_and_seed_only(mix: str) -> None:
    first = lr_levels(mix, step=3)
    assert first.shape == (6, 3, 12, 12)
    assert np.array_equal(first, lr_levels(mix, step=3))
    assert not np.array_equal(first, lr_levels(mix, step=4))
    assert not np.array_equal(first, lr_levels(mix, step=3, seed=2))


@pytest.mark.parametrize("mix", ["real_esrgan", "{bicubic: 1, real_esrgan: 1, gaussian_noise: 1}"])
def test_slices_of_a_batch_equal_the_whole_batch(mix: str) -> None:
    whole = lr_levels(mix, step=5)
    parts = [lr_levels(mix, step=5, part=slice(start, start + 3)) for start in (0, 3)]
    assert np.array_equal(np.concatenate(parts), whole)


def test_bicubic_equals_the_datasets_bicubic() -> None:
    expected = [degrade(hr, kind="bicubic", scale=2, seed=0).lr_hwc_u8 for hr in crops()]
    assert np.array_equal(lr_levels("bicubic", 1), np.stack(expected).transpose(0, 3, 1, 2))


def test_steps_on_a_tensor_equal_those_on_a_picture() -> None:
    (drawn,) = OnlineDegradation(mix=parse("motion"), scale=1, seed=1).draw(crops(), 2, 6, WHOLE)
    assert drawn.rows is not None
    expected = [apply_to_picture(hr, row) for hr, row in zip(crops(), drawn.rows, strict=True)]
    ours = lr_levels("motion", step=2, scale=1)
    assert np.abs(ours - np.stack(expected).transpose(0, 3, 1, 2)).max() <= 1


def test_a_mix_gives_each_crop_one_of_its_kinds() -> None:
    mix = OnlineDegradation(mix=parse("{bicubic: 1, bsrgan: 1}"), scale=2, seed=1)
    kinds = [mix.draw(crops(), step, 6, WHOLE) for step in range(20)]
    indices = [sorted(index for kind in drawn for index in kind.indices) for drawn in kinds]
    assert all(each == list(range(6)) for each in indices)
    on_device = sum(len(kind.indices) for drawn in kinds for kind in drawn if kind.rows)
    assert 30 < on_device < 90


def test_cpu_kinds_are_applied_when_drawn() -> None:
    (drawn,) = OnlineDegradation(mix=parse("old_photo"), scale=1, seed=1).draw(
        crops(2), 0, 2, WHOLE
    )
    assert drawn.rows is None
    assert drawn.lr_bhwc_u8 is not None
    assert drawn.lr_bhwc_u8.shape == (2, 24, 24, 3)


@pytest.mark.parametrize(
    ("draw_rows", "reason"),
    [
        (lambda size, scale, seeds, shared: [[Resize(height=1, width=1, mode="area")]] * 6, "1, 1"),
        (lambda size, scale, seeds, shared: [["blur"]] * 6, "AttributeError"),
        (lambda size, scale, seeds, shared: {}["missing"], "KeyError: 'missing'"),
    ],
)
def test_wrong_steps_of_a_plugin_are_named(
    draw_rows: Any, reason: str, plug_in: Callable[..., None]
) -> None:
    """A crop of one pixel would otherwise be repeated over the whole LR crop."""
    entry = Degradation(
        name="acme", degrade=DEGRADATIONS.get("bicubic").degrade, draw_rows=draw_rows
    )
    plug_in(DEGRADATIONS, entry)
    with pytest.raises(PluginFailed, match=rf"degradation 'acme' of acme 1\.0 failed: .*{reason}"):
        lr_levels("acme", step=1)
