"""The dataset of the training benchmarks."""

from pathlib import Path

from training.data.pairs.build import build
from training.data.shards.plan import PairRecipe, make_plan
from training.data.sources.resolve import find_pictures


def build_sample(scale: int, state: Path) -> Path:
    """Build pairs of the embedded pictures in a state folder; return the dataset's folder."""
    recipe = PairRecipe(scale=scale, degradation="bicubic" if scale > 1 else "gaussian_noise")
    return build(make_plan(find_pictures(["sample"], scale=scale), recipe, state)).path
