"""Blur kernels (point spread functions) of lenses, camera motion and resamplers.

Each is a frozen dataclass whose `weights()` are (size, size) float64 with the sum 1; x runs along
columns, y along rows, angles are in radians, lengths in pixels.
"""

from dataclasses import dataclass
from math import pi

import numpy as np
import numpy.typing as npt

Weights = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Gaussian:
    """An anisotropic Gaussian, rotated by `rotation`.

    `shift` moves its centre right and down, to correct for decimation by an even factor.
    """

    size: int
    sigma_x: float
    sigma_y: float
    rotation: float = 0.0
    shift: float = 0.0

    def weights(self) -> Weights:
        return _normalised(
            np.exp(
                -0.5 * _ellipse(self.size, self.sigma_x, self.sigma_y, self.rotation, self.shift)
            )
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Generalized:
    """A generalized Gaussian (Pascal et al. 2013); Gaussian at shape 1, heavy-tailed below."""

    size: int
    sigma_x: float
    sigma_y: float
    rotation: float
    shape: float

    def weights(self) -> Weights:
        ellipse = _ellipse(self.size, self.sigma_x, self.sigma_y, self.rotation)
        return _normalised(np.exp(-0.5 * ellipse**self.shape))


@dataclass(frozen=True, slots=True, kw_only=True)
class Plateau:
    """1 / (1 + r^(2 shape)): flat in the centre, flatter for a larger shape."""

    size: int
    sigma_x: float
    sigma_y: float
    rotation: float
    shape: float

    def weights(self) -> Weights:
        ellipse = _ellipse(self.size, self.sigma_x, self.sigma_y, self.rotation)
        return _normalised(1 / (1 + ellipse**self.shape))


@dataclass(frozen=True, slots=True, kw_only=True)
class Sinc:
    """A circular low-pass with ringing (Wang et al. 2021, equation 6); cutoff in radians, up to pi.

    Cutoff 0 is the identity kernel.
    """

    size: int
    cutoff: float

    def weights(self) -> Weights:
        x, y = _grid(self.size)
        radius = np.hypot(x, y)
        if self.cutoff == 0:
            return (radius == 0).astype(np.float64)
        radii, where = np.unique(radius, return_inverse=True)
        far = np.maximum(radii, 1e-9)
        rings = self.cutoff * bessel_j1(self.cutoff * far) / (2 * pi * far)
        rings[radii == 0] = self.cutoff**2 / (4 * pi)
        return _normalised(rings[where].reshape(radius.shape))


@dataclass(frozen=True, slots=True, kw_only=True)
class Defocus:
    """Defocus: a disc of this radius, its edge blurred by a Gaussian of sigma `softness`."""

    radius: float
    softness: float

    def weights(self) -> Weights:
        reach = int(np.ceil(self.radius + 3 * self.softness)) + 1
        x, y = _grid(2 * reach + 1)
        disc = np.clip(self.radius + 0.5 - np.hypot(x, y), 0, 1)
        soft = Gaussian(size=2 * reach + 1, sigma_x=self.softness, sigma_y=self.softness).weights()
        spectrum = np.fft.rfft2(disc) * np.fft.rfft2(np.fft.ifftshift(soft))
        return _normalised(np.maximum(np.fft.irfft2(spectrum, s=disc.shape), 0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Motion:
    """Camera shake (Boracchi and Foi 2012): the trajectory of a point during the exposure.

    `length` is the trajectory's in pixels, `unrest` from 0 (a straight pan) to 1 (strong tremor).
    """

    length: float
    unrest: float
    seed: int

    STEPS = 400

    def weights(self) -> Weights:
        x, y = self._trajectory()
        reach = int(np.ceil(max(np.abs(x).max(), np.abs(y).max()))) + 1
        weights = np.zeros((2 * reach + 1, 2 * reach + 1))
        left, top = np.floor(x).astype(int), np.floor(y).astype(int)
        for down in (0, 1):
            for right in (0, 1):
                share = np.abs(1 - down - (y - top)) * np.abs(1 - right - (x - left))
                np.add.at(weights, (reach + top + down, reach + left + right), share)
        return _normalised(weights)

    def _trajectory(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """The point's positions over time, centred on their bounding box."""
        rng = np.random.default_rng(self.seed)
        heading = np.exp(1j * rng.uniform(0, 2 * pi))
        tremor = rng.normal(size=self.STEPS) + 1j * rng.normal(size=self.STEPS)
        jerks = rng.random(self.STEPS) < self.unrest * 2 / self.STEPS
        velocity, position, trajectory = heading, 0j, []
        for step in range(self.STEPS):
            # Inertia, random tremor, a pull back to the origin, and occasional jerks.
            velocity += self.unrest * (0.09 * tremor[step] - 0.1 * position / self.STEPS**1.5)
            if jerks[step]:
                velocity *= np.exp(1j * (pi + rng.uniform(-1, 1)))
            velocity /= abs(velocity)
            position += velocity
            trajectory.append(position)
        points = np.array(trajectory) * self.length / self.STEPS
        points -= (points.real.max() + points.real.min()) / 2
        points -= 1j * (points.imag.max() + points.imag.min()) / 2
        return points.real, points.imag


Kernel = Gaussian | Generalized | Plateau | Sinc | Defocus | Motion


def bessel_j1(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Bessel's J1 for 0 <= x <= 60 by its periodic integral, exact to 1e-12."""
    angles = (np.arange(128) + 0.5) * pi / 128
    return np.cos(angles - x[..., None] * np.sin(angles)).mean(axis=-1)


def _grid(size: int) -> tuple[Weights, Weights]:
    positions = np.arange(size, dtype=np.float64) - (size - 1) / 2
    return np.tile(positions, (size, 1)), np.tile(positions[:, None], (1, size))


def _ellipse(
    size: int, sigma_x: float, sigma_y: float, rotation: float, shift: float = 0.0
) -> Weights:
    """Squared distance from the centre in standard deviations, along axes rotated by `rotation`."""
    x, y = _grid(size)
    x, y = x - shift, y - shift
    along = np.cos(rotation) * x + np.sin(rotation) * y
    across = -np.sin(rotation) * x + np.cos(rotation) * y
    return (along / sigma_x) ** 2 + (across / sigma_y) ** 2


def _normalised(weights: Weights) -> Weights:
    return weights / weights.sum()
