"""A step sequence gives the same picture in numpy and in torch; noise has the stated strength."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from superres.degrade import DEGRADATIONS
from superres.degrade.arrays import normals, uniforms
from superres.degrade.blur import Blur
from superres.degrade.jpeg import Jpeg
from superres.degrade.kernels import Gaussian, Motion
from superres.degrade.noise import CameraNoise, GaussianNoise, PoissonNoise, poisson_counts
from superres.degrade.resample import Resize, resized
from superres.degrade.steps import BOUND, Step, apply
from training.basicsr_bridge import load_basicsr

MIXING = ((0.9, 0.1, 0.0), (-0.2, 0.5, 0.3), (0.0, 0.2, 0.7))
SINGLE_STEPS = [
    Blur(kernel=Gaussian(size=15, sigma_x=2.5, sigma_y=0.8, rotation=1.0)),
    Blur(kernel=Motion(length=12, unrest=0.7, seed=4)),
    Resize(height=29, width=71, mode="area"),
    Resize(height=70, width=33, mode="bilinear"),
    Resize(height=31, width=90, mode="bicubic"),
    GaussianNoise(sigma_levels=20, grey=False, seed=11),
    GaussianNoise(sigma_levels=9, grey=True, seed=12),
    GaussianNoise(sigma_levels=15, grey=False, seed=13, mixing=MIXING),
    PoissonNoise(strength=2.0, grey=False, seed=14),
    PoissonNoise(strength=1.0, grey=True, seed=15),
    CameraNoise(shot=0.01, read=0.0004, seed=16),
]
DRAWS = [DEGRADATIONS.get(name).draw_rows for name in ("real_esrgan", "bsrgan")]


@pytest.fixture(scope="module")
def batch_bchw() -> np.ndarray:
    """Two pictures of smooth colour with edges, in whole 8-bit levels."""
    rows, columns = np.mgrid[:64, :80]
    waves = [np.sin(rows / a) * np.cos(columns / b) for a, b in ((5, 9), (11, 7), (8, 23))]
    picture = 0.5 + 0.4 * np.stack(waves) + 0.1 * (columns > 40)
    batch = np.clip(np.stack((picture, picture[::-1, ::-1])), 0, 1)
    return (np.round(batch * 255) / 255).astype(np.float32)


def run_on_torch(batch_bchw: np.ndarray, rows: list[list[Step]]) -> np.ndarray:
    output = apply(torch.asarray(batch_bchw), rows)
    assert isinstance(output, torch.Tensor)
    assert output.dtype == torch.float32
    return output.numpy()


@pytest.mark.parametrize("step", SINGLE_STEPS, ids=lambda step: type(step).__name__)
def test_each_step_is_the_same_in_numpy_and_torch(step: Step, batch_bchw: np.ndarray) -> None:
    rows = [[step], [step]]
    numpy_result, torch_result = apply(batch_bchw, rows), run_on_torch(batch_bchw, rows)
    assert numpy_result.dtype == np.float32
    assert np.abs(numpy_result - torch_result).max() <= BOUND


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
def test_jpeg_is_the_same_in_numpy_and_torch(subsampling, batch_bchw: np.ndarray) -> None:
    rows = [[Jpeg(quality=quality, subsampling=subsampling)] for quality in (25, 80)]
    assert np.mean(apply(batch_bchw, rows) != run_on_torch(batch_bchw, rows)) < 0.002


def level_differences(draw, batch_bchw: np.ndarray, device: str) -> np.ndarray:
    """Differences of torch and numpy after whole sequences, (32, values) in 8-bit levels."""
    differences = []
    for shared_seed in range(16):
        rows = draw((64, 80), 2, [2 * shared_seed, 2 * shared_seed + 1], shared_seed)
        torch_result = apply(torch.asarray(batch_bchw, device=device), rows).cpu().numpy()
        differences.append(np.abs(apply(batch_bchw, rows) - torch_result).reshape(2, -1) * 255)
    return np.concatenate(differences)


@pytest.mark.parametrize("draw", DRAWS)
def test_step_sequences_are_the_same_in_numpy_and_torch(draw, batch_bchw: np.ndarray) -> None:
    """Except for a few pictures, in which a last bit changed a rounding before JPEG."""
    differences = level_differences(draw, batch_bchw, "cpu")
    assert np.mean(differences > 0.5) < 0.01
    assert differences.mean() < 0.02
    assert np.mean((differences > 0.5).any(axis=1)) < 0.15


@pytest.mark.parametrize("draw", DRAWS)
def test_a_batch_equals_its_pictures_run_alone(draw, batch_bchw: np.ndarray) -> None:
    for shared_seed in range(4):
        rows = draw((64, 80), 4, [5, 6], shared_seed)
        together = apply(batch_bchw, rows)
        assert together.shape == (2, 3, 16, 20)
        for index, row in enumerate(rows):
            alone = apply(batch_bchw[index : index + 1], [row])[0]
            assert np.mean(np.abs(together[index] - alone) > 0.5 / 255) < 0.01
        assert rows[0] != rows[1]


def test_sequences_of_different_structure_are_refused(batch_bchw: np.ndarray) -> None:
    with pytest.raises(ValueError, match="same kinds of step"):
        apply(batch_bchw, [[Jpeg(quality=50)], [SINGLE_STEPS[0]]])
    with pytest.raises(ValueError, match="same size and mode"):
        apply(batch_bchw, [[SINGLE_STEPS[2]], [SINGLE_STEPS[3]]])
    with pytest.raises(ValueError, match="same subsampling"):
        apply(batch_bchw, [[Jpeg(quality=50)], [Jpeg(quality=50, subsampling="4:4:4")]])


@pytest.mark.gpu
@pytest.mark.parametrize("draw", DRAWS)
def test_step_sequences_are_the_same_on_a_gpu(draw, batch_bchw: np.ndarray) -> None:
    assert np.mean(level_differences(draw, batch_bchw, "cuda") > 0.5) < 0.02


@pytest.mark.parametrize("mode", ["area", "bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(20, 31), (64, 37), (100, 160), (9, 12)])
def test_resizing_equals_torchs_interpolate(mode, size, batch_bchw: np.ndarray) -> None:
    align = {} if mode == "area" else {"align_corners": False}
    expected = torch.nn.functional.interpolate(torch.asarray(batch_bchw), size, mode=mode, **align)
    assert_allclose(resized(batch_bchw, size, mode), expected.numpy(), atol=3e-6)


def test_decimation_after_the_shifted_blur_does_not_shift_the_picture() -> None:
    """BSRGAN's decimation takes every n-th sample; the kernel's shift corrects the position."""
    ramp = np.broadcast_to(np.arange(64) / 64, (1, 3, 64, 64)).astype(np.float64)
    kernel = Gaussian(size=25, sigma_x=1.0, sigma_y=1.0, shift=0.5)
    output = apply(ramp, [[Blur(kernel=kernel), Resize(height=32, width=32, mode="nearest")]])
    inside = slice(8, -8)
    assert_allclose(output[0, 0, 16, inside], ((np.arange(32) * 2 + 0.5) / 64)[inside], atol=1e-6)


def test_noise_fields_have_the_same_bits_and_are_normal_and_independent() -> None:
    single, double = torch.zeros(1, dtype=torch.float32), np.zeros(1)
    for numpy_result, torch_result in zip(
        uniforms((50, 60), [1, 2], np.zeros(1, np.float32)),
        uniforms((50, 60), [1, 2], single),
        strict=True,
    ):
        assert_array_equal(numpy_result, torch_result.numpy())
    field = normals((300, 301), [7, 8], double)
    assert abs(field.mean()) < 0.01
    assert abs(field.std() - 1) < 0.01
    assert abs((field**4).mean() - 3) < 0.1
    neighbours = (field[:, 1:] * field[:, :-1], field[..., 1:] * field[..., :-1])
    assert max(abs(product.mean()) for product in (*neighbours, field[0] * field[1])) < 0.01


@pytest.mark.parametrize("mean", [0.05, 1.0, 3.9, 4.1, 30.0, 250.0])
def test_poisson_counts_have_the_moments_of_the_poisson_distribution(mean: float) -> None:
    shape, like = (400, 500), np.zeros(1)
    means = np.full((1, *shape), mean)
    counts = poisson_counts(means, normals(shape, [3], like), uniforms(shape, [4], like)[0])
    assert counts.min() >= 0
    assert abs(counts.mean() / mean - 1) < 0.02
    assert abs(counts.var() / mean - 1) < 0.03
    skewness = ((counts - mean) ** 3).mean() / mean**1.5
    assert abs(skewness - mean**-0.5) < 0.1 * max(1, mean**-0.5)


@pytest.mark.parametrize("grey", [False, True])
def test_noise_equals_basicsrs_in_strength_and_correlation(grey: bool) -> None:
    load_basicsr()
    from basicsr.data import degradations

    rng = np.random.default_rng(0)
    tint = np.array([0.05, 0.0, -0.05])
    shades = np.clip(rng.normal(0.5, 0.1, (128, 128, 1)) + tint, 0.2, 0.8)
    hwc = (np.round(shades * 255) / 255).astype(np.float32)
    batch, bgr = np.moveaxis(hwc, -1, 0)[None], np.ascontiguousarray(hwc[..., ::-1])
    state = np.random.get_state()
    np.random.seed(0)
    try:
        theirs = [
            degradations.generate_gaussian_noise(bgr, 12.0, grey),
            degradations.generate_poisson_noise(bgr, 0.8, grey),
        ]
    finally:
        np.random.set_state(state)
    steps = (
        GaussianNoise(sigma_levels=12.0, grey=grey, seed=5),
        PoissonNoise(strength=0.8, grey=grey, seed=6),
    )
    for step, expected in zip(steps, theirs, strict=True):
        noise = np.moveaxis(apply(batch, [[step]])[0] - batch[0], 0, -1)
        assert abs(noise.std() / expected.std() - 1) < 0.03
        assert abs(noise.mean() - expected.mean()) < 0.002
        channels = np.corrcoef(noise.reshape(-1, 3).T)
        assert_allclose(channels, np.corrcoef(expected.reshape(-1, 3).T), atol=0.05)
        assert (np.abs(noise[..., 0] - noise[..., 2]).max() < 1e-6) == grey


def test_camera_noise_has_the_stated_variance_in_linear_light() -> None:
    grey = np.full((1, 3, 128, 128), 0.5)
    light = ((0.5 + 0.055) / 1.055) ** 2.4
    step = CameraNoise(shot=0.004, read=0.0003, seed=9)
    output = apply(grey, [[step]])
    variance = (((output + 0.055) / 1.055) ** 2.4).var()
    assert abs(variance / (0.004 * light + 0.0003) - 1) < 0.05
    quieter = apply(grey, [[replace(step, shot=0.001, read=0.0001)]])
    assert quieter.std() < 0.7 * output.std()
