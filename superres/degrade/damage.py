"""Physical damage of a print: scratches, dust, hairs and folds.

Lengths are in units of 1/512 of the shorter side, so that the damage scales with the resolution of
the scan; the width of a line has a lower bound in pixels.
"""

import numpy as np
import numpy.typing as npt

from superres.image.resize import imresize

Plane = npt.NDArray[np.float64]

SHORTER_SIDE_UNITS = 512


class Damage:
    """The damage layers of a print: coverage of each pixel (h, w) from 0 to 1.

    `bare` is where the picture layer is gone, `soiled` where dirt covers it, `shade` the change of
    brightness on both sides of a fold.
    """

    def __init__(self, height: int, width: int) -> None:
        self.height, self.width = height, width
        self.bare: Plane = np.zeros((height, width))
        self.soiled: Plane = np.zeros((height, width))
        self.shade: Plane = np.zeros((height, width))

    @property
    def unit(self) -> float:
        """Pixels per unit of length."""
        return min(self.height, self.width) / SHORTER_SIDE_UNITS

    def mask(self) -> npt.NDArray[np.uint8]:
        """255 where damage covers at least an eighth of a pixel, else 0."""
        return (np.maximum(self.bare, self.soiled) >= 0.125).astype(np.uint8) * np.uint8(255)


def scratch(damage: Damage, rng: np.random.Generator) -> None:
    """A long, thin, nearly straight line of varying width, with gaps; sometimes several."""
    length = damage.height * rng.uniform(0.15, 1.0)
    heading = rng.normal(np.pi / 2, 0.25) if rng.random() < 0.6 else rng.uniform(0, np.pi)
    bend = rng.normal(0, 0.15) / length
    start = rng.uniform(-0.1, 0.9, 2) * (damage.width, damage.height)
    # A scratch that removed no emulsion is only visible by the dirt in it.
    layer, depth = (damage.bare, 1.0) if rng.random() < 0.85 else (damage.soiled, 0.65)
    for _ in range(1 if rng.random() < 0.7 else int(rng.integers(2, 5))):
        along = np.arange(0, length, 0.5)
        turned = heading + bend * along
        position = np.cumsum(np.exp(1j * turned)) * 0.5
        pressure = _smooth_noise(rng, len(along), 40)
        thickness = max(0.35, damage.unit * rng.uniform(0.3, 0.9))
        opacity = depth * np.clip(rng.uniform(0.5, 1.0) + 0.5 * pressure, 0, 1)
        _stroke(
            layer,
            start[0] + position.real,
            start[1] + position.imag,
            thickness * np.clip(1 + 0.4 * pressure, 0.5, 2),
            opacity,
        )
        start = start + rng.normal(0, 5 * max(damage.unit, 0.5), 2)


def speck(damage: Damage, rng: np.random.Generator) -> None:
    """A grain of dust: a small ragged blob."""
    layer = damage.bare if rng.random() < 0.6 else damage.soiled
    size = max(0.6, damage.unit * np.exp(rng.normal(0.3, 0.6)))
    parts = int(rng.integers(1, 6))
    centre = rng.uniform(0, 1, 2) * (damage.width, damage.height)
    positions = centre + rng.normal(0, 0.7 * size, (parts, 2))
    _stroke(
        layer,
        positions[:, 0],
        positions[:, 1],
        np.minimum(size * rng.uniform(0.4, 1, parts), 12),
        np.full(parts, rng.uniform(0.6, 1)),
    )


def hair(damage: Damage, rng: np.random.Generator) -> None:
    """A curled fibre."""
    layer = damage.bare if rng.random() < 0.5 else damage.soiled
    steps = int(max(12, damage.unit * rng.uniform(20, 90)) / 0.5)
    curl = (
        np.cumsum(_smooth_noise(rng, steps, 12)) * rng.uniform(0.02, 0.07) / max(damage.unit, 0.4)
    )
    position = np.cumsum(np.exp(1j * (rng.uniform(0, 2 * np.pi) + curl))) * 0.5
    start = rng.uniform(0, 1, 2) * (damage.width, damage.height)
    taper = np.sin(np.linspace(0.25, np.pi - 0.25, steps)) ** 0.5
    _stroke(
        layer,
        start[0] + position.real,
        start[1] + position.imag,
        max(0.45, damage.unit * rng.uniform(0.4, 0.8)) * taper,
        np.full(steps, rng.uniform(0.5, 0.9)),
    )


def fold(damage: Damage, rng: np.random.Generator) -> None:
    """A crease from edge to edge: shading on both sides, cracks and flakes along the ridge."""
    angle = (
        rng.choice([0, np.pi / 2]) + rng.normal(0, 0.12)
        if rng.random() < 0.7
        else (rng.uniform(0, np.pi))
    )
    centre = rng.uniform(0.2, 0.8, 2) * (damage.width, damage.height)
    rows, columns = np.mgrid[: damage.height, : damage.width]
    along = (columns - centre[0]) * np.cos(angle) + (rows - centre[1]) * np.sin(angle)
    reach = int(np.hypot(damage.height, damage.width)) + 2
    position = along + reach
    unit = max(damage.unit, 0.5)

    def noise_along(every: float) -> Plane:
        return np.interp(position, np.arange(2 * reach), _smooth_noise(rng, 2 * reach, every))

    across = (
        (rows - centre[1]) * np.cos(angle)
        - (columns - centre[0]) * np.sin(angle)
        + unit * (1.5 * noise_along(60 * unit) + 0.6 * noise_along(4 * unit))
    )
    relief = rng.uniform(0.05, 0.16) * rng.choice([-1, 1])
    spread = unit * rng.uniform(4, 12)
    damage.shade += relief * np.sign(across) * np.exp(-np.abs(across) / spread)
    wear = np.clip(
        rng.uniform(-0.2, 0.8) + 0.8 * noise_along(25 * unit) + 0.5 * noise_along(3 * unit), 0, 1
    )
    ridge = np.clip(unit * (0.4 + 1.6 * wear) + 0.5 - np.abs(across), 0, 1) * np.sqrt(wear)
    np.maximum(damage.bare, ridge, out=damage.bare)
    for _ in range(int(rng.integers(0, 14))):
        _flake(damage, rng, centre, angle, unit)


def value_noise(height: int, width: int, cells: int, rng: np.random.Generator) -> Plane:
    """Value noise (h, w) in [0, 1] with about `cells` cells along the shorter side."""
    shorter = min(height, width)
    rows, columns = (max(2, round(cells * side / shorter)) for side in (height, width))
    coarse = imresize(rng.random((rows, columns)), size=(height, width))
    return np.clip(coarse, 0, 1)


def border_falloff(height: int, width: int, reach: float) -> Plane:
    """1 at the border, falling off over `reach` of the shorter side."""
    rows = np.minimum(np.arange(height), np.arange(height)[::-1])[:, None]
    columns = np.minimum(np.arange(width), np.arange(width)[::-1])[None]
    return np.exp(-np.minimum(rows, columns) / (reach * min(height, width)))


def _flake(
    damage: Damage, rng: np.random.Generator, centre: Plane, angle: float, unit: float
) -> None:
    """A flake of missing emulsion beside a crease."""
    longest = max(damage.height, damage.width)
    along, across = rng.uniform(-0.7, 0.7) * longest, unit * rng.normal(0, 2)
    x = centre[0] + along * np.cos(angle) - across * np.sin(angle)
    y = centre[1] + along * np.sin(angle) + across * np.cos(angle)
    parts = int(rng.integers(4, 10))
    spots = rng.normal(0, unit * rng.uniform(0.8, 2.5), (parts, 2))
    _stroke(
        damage.bare,
        x + spots[:, 0],
        y + spots[:, 1],
        np.minimum(unit * rng.uniform(0.5, 2.2, parts), 12),
        np.ones(parts),
    )


def _stroke(layer: Plane, x: Plane, y: Plane, radius: Plane, opacity: Plane) -> None:
    """Draw antialiased discs at the positions; overlapping discs take the maximum."""
    height, width = layer.shape
    reach = int(np.ceil(radius.max() + 0.5))
    around = np.arange(-reach, reach + 1)
    row = np.round(y).astype(int) + around[:, None, None]
    column = np.round(x).astype(int) + around[:, None]
    covered = opacity * np.clip(radius + 0.5 - np.hypot(column - x, row - y), 0, 1)
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    row, column = np.broadcast_arrays(row, column)
    np.maximum.at(layer, (row[inside], column[inside]), covered[inside])


def _smooth_noise(rng: np.random.Generator, count: int, every: float) -> Plane:
    """Normal noise with one knot per `every` samples, linearly interpolated."""
    knots = rng.normal(size=int(count / every) + 2)
    return np.interp(np.arange(count) / every, np.arange(len(knots)), knots)
