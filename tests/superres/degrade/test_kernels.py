"""Kernels equal basicsr's and scipy's; defocus and camera shake have the right shapes."""

from math import pi
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from superres.degrade.blur import filtered
from superres.degrade.kernels import (
    Defocus,
    Gaussian,
    Generalized,
    Kernel,
    Motion,
    Plateau,
    Sinc,
    bessel_j1,
)
from superres.degrade.kinds.real_esrgan import FIRST, draw_kernel
from training.basicsr_bridge import load_basicsr

SHAPES = [(0.3, 0.3, 0.0), (3.0, 0.4, 0.7), (1.2, 2.5, -2.9)]


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    load_basicsr()
    from basicsr.data import degradations

    return degradations


@pytest.mark.parametrize("size", [7, 13, 21])
@pytest.mark.parametrize(("sigma_x", "sigma_y", "rotation"), SHAPES)
def test_kernels_equal_basicsrs(reference, size, sigma_x, sigma_y, rotation) -> None:
    parameters = {"size": size, "sigma_x": sigma_x, "sigma_y": sigma_y, "rotation": rotation}
    arguments = (size, sigma_x, sigma_y, rotation)
    assert_allclose(
        Gaussian(**parameters).weights(),
        reference.bivariate_Gaussian(*arguments, isotropic=False),
        atol=1e-12,
    )
    for shape in (0.5, 1.0, 3.7):
        assert_allclose(
            Generalized(**parameters, shape=shape).weights(),
            reference.bivariate_generalized_Gaussian(*arguments, shape, isotropic=False),
            atol=1e-12,
        )
        assert_allclose(
            Plateau(**parameters, shape=shape).weights(),
            reference.bivariate_plateau(*arguments, shape, isotropic=False),
            atol=1e-12,
        )


@pytest.mark.parametrize("size", [7, 21])
@pytest.mark.parametrize("cutoff", [pi / 5, 1.7, pi])
def test_sinc_equals_basicsrs(reference, size: int, cutoff: float) -> None:
    with np.errstate(divide="ignore", invalid="ignore"):
        expected = reference.circular_lowpass_kernel(cutoff, size)
    assert_allclose(Sinc(size=size, cutoff=cutoff).weights(), expected, atol=1e-12)


def test_bessel_equals_scipys() -> None:
    from scipy.special import j1

    x = np.linspace(0, 60, 500)
    assert_allclose(bessel_j1(x), j1(x), atol=1e-12)


@given(st.integers(0, 2**31))
def test_every_drawn_kernel_sums_to_one(seed: int) -> None:
    weights = draw_kernel(np.random.default_rng(seed), FIRST.sigmas).weights()
    assert weights.shape[0] == weights.shape[1]
    assert 7 <= len(weights) <= 21
    assert abs(weights.sum() - 1) < 1e-9


def test_a_sinc_with_cutoff_0_is_the_identity() -> None:
    assert Sinc(size=9, cutoff=0).weights()[4, 4] == 1 == Sinc(size=9, cutoff=0).weights().sum()


def test_defocus_is_a_disc_of_its_radius() -> None:
    weights = Defocus(radius=4.0, softness=0.3).weights()
    middle = len(weights) // 2
    assert abs(weights[middle, middle] - 1 / (pi * 4**2)) < 0.1 / (pi * 4**2)
    assert abs(weights[middle, middle + 2] - weights[middle, middle]) < 1e-4
    assert weights[middle, middle + 6] < 1e-6
    assert_allclose(weights, weights.T, atol=1e-12)


def test_a_pan_is_a_straight_line_and_a_shake_is_not() -> None:
    def narrowness(unrest: float) -> float:
        return float(
            np.mean(
                [
                    _axes_ratio(Motion(length=24, unrest=unrest, seed=seed).weights())
                    for seed in range(20)
                ]
            )
        )

    assert narrowness(0.0) < 0.1
    assert narrowness(1.0) > 2 * narrowness(0.0)


@given(st.floats(2, 40), st.floats(0, 1), st.integers(0, 999))
def test_a_shake_kernel_is_bounded_by_its_length(length: float, unrest: float, seed: int) -> None:
    weights = Motion(length=length, unrest=unrest, seed=seed).weights()
    assert len(weights) % 2 == 1
    assert abs(weights.sum() - 1) < 1e-9
    rows, columns = np.nonzero(weights)
    assert np.hypot(np.ptp(rows), np.ptp(columns)) < length + 4


@pytest.mark.parametrize(
    "kernel",
    [
        Gaussian(size=9, sigma_x=2.0, sigma_y=0.7, rotation=0.5),
        Motion(length=9, unrest=0.8, seed=3),
        Sinc(size=13, cutoff=1.2),
    ],
)
def test_filtering_is_convolution_with_reflected_borders(kernel: Kernel) -> None:
    from scipy.ndimage import convolve

    picture = np.random.default_rng(0).random((1, 3, 30, 41))
    weights = kernel.weights()
    for channel, result in zip(picture[0], filtered(picture, [weights])[0], strict=True):
        assert_allclose(result, convolve(channel, weights, mode="mirror"), atol=1e-12)


def test_a_picture_smaller_than_its_kernel_is_filtered_too() -> None:
    flat = np.full((1, 3, 2, 1), 0.4)
    weights = Gaussian(size=21, sigma_x=3, sigma_y=3).weights()
    assert_allclose(filtered(flat, [weights]), flat, atol=1e-12)


def _axes_ratio(weights: np.ndarray) -> float:
    """The short axis of a kernel's weight distribution over its long one."""
    rows, columns = np.indices(weights.shape)
    spread = np.cov(np.stack((rows.ravel(), columns.ravel())), aweights=weights.ravel())
    short, long = np.sqrt(np.linalg.eigvalsh(spread))
    return float(short / long)
