"""The entry that a degradation's module registers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from superres.common.registry import check_fields
from superres.degrade.result import Degraded, Pixels
from superres.degrade.steps import Step, apply_to_picture, as_json
from superres.image.resize import imresize

# Besides the shrinking; `superres.analysis.model_selection` detects them.
DAMAGES = ("compressed", "noisy", "blurred")

Rng = np.random.Generator
Size = tuple[int, int]  # height, width
Rows = list[list[Step]]

Degrade = Callable[[Pixels, int, Rng], Degraded]
DrawRows = Callable[[Size, int, Sequence[int], int], Rows | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Degradation:
    """A degradation. `degrade` makes the LR picture from an HR picture (H, W, 3) uint8 whose sides
    are multiples of the scale, the scale and a generator.

    For online training, `draw_rows` takes the size of the HR crops, the scale, a seed per crop and
    a seed of the batch, and returns the steps of each crop, of the same kinds and sizes, to run on
    the device. None, as the function or its result: crops are degraded by `degrade`, on the CPU.

    `damages` are those of DAMAGES that a model trained on it learns to undo.
    """

    name: str
    degrade: Degrade
    draw_rows: DrawRows | None = None
    damages: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        drawn = () if self.draw_rows is None else ("draw_rows",)
        check_fields(self, functions=("degrade", *drawn), subsets={"damages": DAMAGES})


def of_steps(
    name: str, draw: Callable[[Size, int, Rng, Rng], list[Step]], damages: set[str]
) -> Degradation:
    """A degradation whose steps include the downscaling.

    `draw` takes the HR picture's size, the scale and two generators. The structure (sizes, order,
    kinds of noise) must be drawn from the second, shared one: crops with the same seed of it run
    through their steps as one batch.
    """

    def degrade(hr_hwc_u8: Pixels, scale: int, rng: Rng) -> Degraded:
        own, shared = rng.spawn(2)
        height, width = hr_hwc_u8.shape[:2]
        return _run_steps(hr_hwc_u8, draw((height, width), scale, own, shared))

    def draw_rows(size: Size, scale: int, seeds: Sequence[int], shared_seed: int) -> Rows:
        return [
            draw(size, scale, np.random.default_rng(seed), np.random.default_rng(shared_seed))
            for seed in seeds
        ]

    return Degradation(name=name, degrade=degrade, draw_rows=draw_rows, damages=frozenset(damages))


def after_downscaling(
    name: str, draw: Callable[[Rng], list[Step]], damages: set[str]
) -> Degradation:
    """A degradation of the bicubically downscaled picture, by steps of fixed kinds."""

    def degrade(hr_hwc_u8: Pixels, scale: int, rng: Rng) -> Degraded:
        return _run_steps(downscaled(hr_hwc_u8, scale), draw(rng))

    def draw_rows(size: Size, scale: int, seeds: Sequence[int], shared_seed: int) -> Rows | None:
        # The bicubic downscaling of larger scales runs on the CPU only.
        return None if scale > 1 else [draw(np.random.default_rng(seed)) for seed in seeds]

    return Degradation(name=name, degrade=degrade, draw_rows=draw_rows, damages=frozenset(damages))


def downscaled(hr_hwc_u8: Pixels, scale: int) -> Pixels:
    """The bicubically downscaled picture."""
    height, width = hr_hwc_u8.shape[:2]
    return imresize(hr_hwc_u8, size=(height // scale, width // scale))


def _run_steps(rgb_hwc_u8: Pixels, steps: list[Step]) -> Degraded:
    return Degraded(
        lr_hwc_u8=apply_to_picture(rgb_hwc_u8, steps), parameters={"steps": as_json(steps)}
    )
