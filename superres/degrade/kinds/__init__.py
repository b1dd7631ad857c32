"""The degradations, each one module with a `Degradation`; packages may announce more.

May import the steps in `superres.degrade`, image and common.
"""

from superres.common.registry import EntryRegistry
from superres.degrade.degradation import Degradation

DEGRADATIONS = EntryRegistry(
    group="sharpline.degradations",
    noun="degradation",
    entry_type=Degradation,
    built_in={
        name: f"superres.degrade.kinds.{name}:DEGRADATION"
        for name in (
            "bicubic",
            "bicubic_jpeg",
            "bsrgan",
            "real_esrgan",
            "jpeg",
            "defocus",
            "motion",
            "gaussian_noise",
            "poisson_noise",
            "iso_noise",
            "old_photo",
        )
    },
)
