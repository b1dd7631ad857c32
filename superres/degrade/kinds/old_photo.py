"""The `old_photo` degradation: fading, yellowing, grain, and physical damage with a mask.

Global changes (fading, yellowing, grain, softness, silver mirroring) keep the scene visible; the
mask marks where the scene is lost (scratches, dust, hairs, folds).
"""

from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

from superres.degrade.blur import filtered
from superres.degrade.damage import (
    Damage,
    border_falloff,
    fold,
    hair,
    scratch,
    speck,
    value_noise,
)
from superres.degrade.degradation import Degradation, downscaled
from superres.degrade.kernels import Gaussian
from superres.degrade.noise import LUMA, draw_seed
from superres.degrade.result import Degraded, Pixels

Rgb = npt.NDArray[np.float64]

MIN_LIGHT = 0.01  # reflectance of a print's black
YELLOW = (0.04, 0.15, 0.42)  # absorption of each channel by fully yellowed paper
SHEEN = (0.60, 0.66, 0.74)  # colour of silver mirroring
PAPER = (0.95, 0.94, 0.91)
DIRT = (0.10, 0.09, 0.08)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ageing:
    """The parameters of one aged print. Amounts run from 0 (as new) to 1; marks are counts.

    `grain_levels` is a deviation in 8-bit levels, `softness` a sigma in pixels; `seed` determines
    everything else, such as the positions of the marks.
    """

    monochrome: bool
    fading: float
    yellowing: float
    silvering: float
    grain_levels: float
    softness: float
    scratches: int
    specks: int
    hairs: int
    folds: int
    seed: int


def aged_photo(rgb_hwc_u8: Pixels, rng: np.random.Generator) -> Degraded:
    """Age a picture (h, w, 3); the result's `damage_hw_u8` marks where the scene is lost."""
    ageing = draw(rng)
    aged_u8, mask_hw_u8 = age(rgb_hwc_u8, ageing)
    return Degraded(lr_hwc_u8=aged_u8, parameters=asdict(ageing), damage_hw_u8=mask_hw_u8)


def draw(rng: np.random.Generator) -> Ageing:
    """Draw the parameters; half of the prints are black and white, and only those mirror silver."""
    monochrome = bool(rng.random() < 0.5)
    return Ageing(
        monochrome=monochrome,
        fading=float(rng.beta(2, 2)),
        yellowing=float(rng.beta(2, 2)),
        silvering=float(rng.uniform(0.2, 0.9)) if monochrome and rng.random() < 0.4 else 0.0,
        grain_levels=float(rng.uniform(1, 12)),
        softness=float(rng.uniform(0.2, 1.3)),
        scratches=int(rng.poisson(4)) if rng.random() < 0.8 else 0,
        specks=int(rng.poisson(rng.uniform(5, 80))),
        hairs=int(rng.poisson(2)),
        folds=int(rng.integers(1, 4)) if rng.random() < 0.5 else 0,
        seed=draw_seed(rng),
    )


def age(rgb_hwc_u8: Pixels, ageing: Ageing) -> tuple[Pixels, npt.NDArray[np.uint8]]:
    """The aged picture (h, w, 3) and the mask (h, w) of where the scene is lost."""
    rng = np.random.default_rng(ageing.seed)
    rgb = _soft(rgb_hwc_u8 / 255.0, ageing.softness)
    rgb = _faded_silver(rgb, ageing) if ageing.monochrome else _faded_dyes(rgb, ageing, rng)
    rgb = _grained(rgb, ageing, rng)
    rgb = _silver_mirrored(rgb, ageing, rng)
    damage = _draw_damage(rgb.shape[:2], ageing, rng)
    rgb = rgb * (1 + damage.shade[..., None])
    rgb += damage.bare[..., None] * (_paper(rgb.shape[:2], rng) - rgb)
    # Bare paper yellows too; dirt is on top.
    rgb = _yellowed(rgb, ageing, rng)
    rgb += damage.soiled[..., None] * (np.array(DIRT) - rgb)
    return np.floor(np.clip(rgb, 0, 1) * 255 + 0.5).astype(np.uint8), damage.mask()


def _soft(rgb: Rgb, sigma: float) -> Rgb:
    kernel = Gaussian(size=2 * int(np.ceil(3 * sigma)) + 1, sigma_x=sigma, sigma_y=sigma)
    batch = filtered(np.moveaxis(rgb, -1, 0)[None], [kernel.weights()])
    return np.clip(np.moveaxis(batch[0], 0, -1), 0, 1)


def _faded_dyes(rgb: Rgb, ageing: Ageing, rng: np.random.Generator) -> Rgb:
    """Each dye loses density at its own rate, cyan (the red channel) fastest."""
    density = -np.log10(np.maximum(rgb, MIN_LIGHT))
    rate = rng.uniform((0.6, 0.3, 0.35), (0.8, 0.55, 0.6))
    return 10 ** -(density * (1 - ageing.fading * rate))


def _faded_silver(rgb: Rgb, ageing: Ageing) -> Rgb:
    """Black and white that turns brown as its silver fades."""
    luma = np.maximum(rgb @ np.array(LUMA), MIN_LIGHT)[..., None]
    density = -np.log10(luma) * (1 - 0.55 * ageing.fading)
    warmth = ageing.fading * np.array([-0.16, 0.0, 0.18])
    return 10 ** -(density * (1 + warmth))


def _grained(rgb: Rgb, ageing: Ageing, rng: np.random.Generator) -> Rgb:
    """Grain, strongest in the midtones, with clumps slightly larger than a pixel."""
    height, width = rgb.shape[:2]
    field = rng.normal(size=(1, 1, height, width))
    sigma = rng.uniform(0.4, 0.9)
    kernel = Gaussian(size=5, sigma_x=sigma, sigma_y=sigma).weights()
    clumps = filtered(field, [kernel])[0, 0] / np.sqrt((kernel**2).sum())
    strength = ageing.grain_levels / 255 * (0.35 + 2.6 * rgb * (1 - rgb))
    return rgb + strength * clumps[..., None]


def _silver_mirrored(rgb: Rgb, ageing: Ageing, rng: np.random.Generator) -> Rgb:
    """Silver mirroring: a bluish sheen over the shadows, strongest at the edges."""
    height, width = rgb.shape[:2]
    patches = np.clip(1.6 * value_noise(height, width, 6, rng) - 0.2, 0, 1)
    shadows = np.clip(1 - 1.6 * rgb.mean(axis=-1), 0, 1)
    sheen = ageing.silvering * border_falloff(height, width, 0.16) * patches * shadows
    return rgb + sheen[..., None] * (np.array(SHEEN) - rgb)


def _yellowed(rgb: Rgb, ageing: Ageing, rng: np.random.Generator) -> Rgb:
    """Uneven yellowing, strongest at the edges."""
    height, width = rgb.shape[:2]
    uneven = (
        0.65 + 0.3 * value_noise(height, width, 3, rng) + 0.35 * border_falloff(height, width, 0.12)
    )
    return rgb * (1 - ageing.yellowing * uneven[..., None] * np.array(YELLOW))


def _paper(shape: tuple[int, ...], rng: np.random.Generator) -> Rgb:
    """The colour of bare paper, with fibre noise."""
    return np.array(PAPER) + rng.normal(0, 0.02, shape)[..., None]


def _draw_damage(shape: tuple[int, ...], ageing: Ageing, rng: np.random.Generator) -> Damage:
    damage = Damage(shape[0], shape[1])
    for mark, count in (
        (fold, ageing.folds),
        (scratch, ageing.scratches),
        (speck, ageing.specks),
        (hair, ageing.hairs),
    ):
        for _ in range(count):
            mark(damage, rng)
    return damage


def _degrade(hr_hwc_u8: Pixels, scale: int, rng: np.random.Generator) -> Degraded:
    return aged_photo(downscaled(hr_hwc_u8, scale), rng)


DEGRADATION = Degradation(
    name="old_photo", degrade=_degrade, damages=frozenset({"noisy", "blurred"})
)
