"""The losses of a recipe: a weighted sum of named terms on float32 pictures in [0, 1].

A loss is one module with a `Loss`, listed below or announced by an installed package. May import
superres; the package itself imports no torch.
"""

from superres.common.registry import EntryRegistry
from training.losses.loss import Loss

LOSSES = EntryRegistry(
    group="sharpline.losses",
    noun="loss",
    entry_type=Loss,
    built_in={
        name: f"training.losses.{name}:LOSS"
        for name in ("l1", "charbonnier", "mse", "fft", "perceptual", "gan", "ldl")
    },
)
