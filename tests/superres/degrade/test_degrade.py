"""A degradation is a function of pixels, kind, scale and seed."""

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from superres.common.errors import UsageError
from superres.common.registry import PluginFailed
from superres.degrade import DEGRADATIONS, Degraded, degrade
from superres.degrade.degradation import Degradation
from superres.degrade.kinds.bicubic_jpeg import QUALITIES
from superres.degrade.steps import apply_to_picture
from superres.image.resize import imresize

# First 16 hex digits of the sha256 of the pixels, and the quality, at seed 20 + scale. Dataset ids
# and trained models depend on these bytes: a change here changes the content of every dataset.
PINNED = {
    2: ("5dcffcdae5b261e9", "52978f44047a1981", 53),
    3: ("26976ea32ed64530", "c26cf20d146c6d22", 31),
    4: ("7f78ba96b471f3c3", "2cd1c2ad45259a7b", 41),
    8: ("112f36a547f5dda9", "1e552c510e75aefc", 50),
}


@pytest.fixture
def hr_hwc_u8() -> np.ndarray:
    rows, columns = np.mgrid[:96, :120]
    waves = 127 + 100 * np.sin(rows / 7)[..., None] * np.cos(columns[..., None] / (5, 8, 11))
    return waves.astype(np.uint8)


@pytest.mark.parametrize("scale", PINNED)
def test_bicubic_kinds_give_the_pinned_bytes(scale: int) -> None:
    rows, columns = np.mgrid[:96, :144]
    planes = (
        (rows * 3 + columns * 5) // 4 % 256,
        (rows * columns) // 37 % 256,
        (rows // 8 * 40 + columns // 12 * 17) % 256,
    )
    hr_hwc_u8 = np.stack(planes, axis=-1).astype(np.uint8)
    bicubic, compressed, quality = PINNED[scale]
    for kind, digest, parameters in (
        ("bicubic", bicubic, {}),
        ("bicubic_jpeg", compressed, {"jpeg_quality": quality}),
    ):
        degraded = degrade(hr_hwc_u8, kind=kind, scale=scale, seed=20 + scale)
        assert hashlib.sha256(degraded.lr_hwc_u8.tobytes()).hexdigest()[:16] == digest
        assert degraded.parameters == parameters
        assert degraded.damage_hw_u8 is None


def test_bicubic_is_the_resampler_alone(hr_hwc_u8: np.ndarray) -> None:
    for scale in (2, 3, 4, 8):
        degraded = degrade(hr_hwc_u8, kind="bicubic", scale=scale, seed=1)
        assert_array_equal(degraded.lr_hwc_u8, imresize(hr_hwc_u8, scale=1 / scale))
        assert degraded.parameters == {}


@pytest.mark.parametrize("kind", DEGRADATIONS.built_in)
def test_a_seed_determines_the_result(kind: str, hr_hwc_u8: np.ndarray) -> None:
    first = degrade(hr_hwc_u8, kind=kind, scale=2, seed=3)
    again = degrade(hr_hwc_u8, kind=kind, scale=2, seed=3)
    assert_array_equal(first.lr_hwc_u8, again.lr_hwc_u8)
    assert first.parameters == again.parameters
    if kind != "bicubic":
        other = degrade(hr_hwc_u8, kind=kind, scale=2, seed=5)
        assert other.parameters != first.parameters
        assert not np.array_equal(other.lr_hwc_u8, first.lr_hwc_u8)


@pytest.mark.parametrize("kind", DEGRADATIONS.built_in)
@pytest.mark.parametrize("scale", [1, 3, 4, 8])
def test_every_kind_works_at_every_scale(kind: str, scale: int, hr_hwc_u8: np.ndarray) -> None:
    for seed in range(3):
        degraded = degrade(hr_hwc_u8, kind=kind, scale=scale, seed=seed)
        assert degraded.lr_hwc_u8.shape == (96 // scale, 120 // scale, 3)
        assert degraded.lr_hwc_u8.dtype == np.uint8
        assert json.loads(json.dumps(degraded.parameters)) == degraded.parameters


@pytest.mark.parametrize("kind", DEGRADATIONS.built_in)
def test_the_picture_is_not_shifted(kind: str) -> None:
    """A picture of two colours: each half keeps its colour under every degradation."""
    # Textured, because shot noise grows where a picture has few distinct values.
    hr_hwc_u8 = np.random.default_rng(0).integers(-30, 31, (96, 192, 3))
    hr_hwc_u8[:, :96] += (60, 90, 130)
    hr_hwc_u8[:, 96:] += (200, 150, 90)
    hr_hwc_u8 = hr_hwc_u8.astype(np.uint8)
    for seed in range(6):
        lr = degrade(hr_hwc_u8, kind=kind, scale=2, seed=seed).lr_hwc_u8.astype(float)
        left, right = np.median(lr[:, :16], axis=(0, 1)), np.median(lr[:, -16:], axis=(0, 1))
        assert right.mean() > left.mean() + 20
        if kind != "old_photo":  # which changes the colours on purpose
            assert np.abs(left - (60, 90, 130)).max() < 30
            assert np.abs(right - (200, 150, 90)).max() < 30


def test_jpeg_qualities_cover_their_range_and_leave_damage(hr_hwc_u8: np.ndarray) -> None:
    clean = degrade(hr_hwc_u8, kind="bicubic", scale=2, seed=0).lr_hwc_u8
    qualities = set()
    for seed in range(60):
        degraded = degrade(hr_hwc_u8, kind="bicubic_jpeg", scale=2, seed=seed)
        qualities.add(degraded.parameters["jpeg_quality"])
        assert degraded.lr_hwc_u8.shape == clean.shape
        assert 0 < np.abs(degraded.lr_hwc_u8.astype(int) - clean).mean() < 15
    assert QUALITIES[0] <= min(qualities) < 36
    assert 54 < max(qualities) <= QUALITIES[1]


def test_an_unknown_kind_lists_the_known_ones(hr_hwc_u8: np.ndarray) -> None:
    with pytest.raises(
        UsageError, match=r"'jpg'; did you mean jpeg\? Available: bicubic, bicubic_jpeg"
    ):
        degrade(hr_hwc_u8, kind="jpg", scale=2, seed=0)


def test_sides_must_fit_the_scale(hr_hwc_u8: np.ndarray) -> None:
    with pytest.raises(ValueError, match="not divisible by 4"):
        degrade(hr_hwc_u8[:95], kind="bicubic", scale=4, seed=0)


def test_an_empty_step_sequence_changes_nothing(hr_hwc_u8: np.ndarray) -> None:
    assert_array_equal(apply_to_picture(hr_hwc_u8, []), hr_hwc_u8)


def test_degrading_imports_neither_torch_nor_scipy_nor_opencv() -> None:
    script = """
import sys
import numpy as np
from superres.degrade import DEGRADATIONS, degrade
for kind in DEGRADATIONS.names():
    degrade(np.zeros((32, 32, 3), np.uint8), kind=kind, scale=2, seed=1)
heavy = {"torch", "scipy", "cv2", "skimage"} & set(sys.modules)
raise SystemExit(str(heavy) if heavy else 0)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=240)
    assert done.returncode == 0, done.stderr.decode()


@pytest.mark.parametrize(
    ("returned", "reason"),
    [
        (np.zeros((48, 60, 3), np.uint8), "returned ndarray, not Degraded"),
        (Degraded(lr_hwc_u8=np.zeros((1, 1, 3), np.uint8), parameters={}), r"shape \(1, 1, 3\)"),
        (Degraded(lr_hwc_u8=np.zeros((48, 60, 3)), parameters={}), "float64"),
        (
            Degraded(
                lr_hwc_u8=np.zeros((48, 60, 3), np.uint8),
                parameters={},
                damage_hw_u8=np.zeros((2, 2), np.uint8),
            ),
            "damage_hw_u8",
        ),
        (
            Degraded(lr_hwc_u8=np.zeros((48, 60, 3), np.uint8), parameters={"x": np.float32(1)}),
            "not JSON serializable",
        ),
    ],
)
def test_a_wrong_result_of_a_plugin_is_refused(
    returned: object, reason: str, hr_hwc_u8: np.ndarray, plug_in: Callable[..., None]
) -> None:
    plug_in(DEGRADATIONS, Degradation(name="wrong", degrade=lambda hr, scale, rng: returned))
    with pytest.raises(PluginFailed, match=rf"degradation 'wrong' of acme 1.0 failed: .*{reason}"):
        degrade(hr_hwc_u8, kind="wrong", scale=2, seed=1)


def test_fields_of_an_entry_are_checked() -> None:
    with pytest.raises(TypeError, match="`degrade` must be a function"):
        Degradation(name="x", degrade=None)
    with pytest.raises(TypeError, match="`damages` must be a frozenset of blurred, compressed"):
        Degradation(name="x", degrade=len, damages=frozenset({"tired"}))
