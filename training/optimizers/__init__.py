"""The optimizers of generator and discriminator.

An optimizer is one module with an `Optimizer`, listed below or announced by an installed package.
May import superres; the package itself imports no torch.
"""

from superres.common.registry import EntryRegistry
from training.optimizers.optimizer import Optimizer

OPTIMIZERS = EntryRegistry(
    group="sharpline.optimizers",
    noun="optimizer",
    entry_type=Optimizer,
    built_in={name: f"training.optimizers.{name}:OPTIMIZER" for name in ("adam", "adamw")},
)
