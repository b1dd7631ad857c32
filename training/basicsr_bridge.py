"""The only import of basicsr, with the patches that make it work with current torch releases.

torchvision's wheel fails to import with a torch that was built without CUDA: its compiled operators
do not load, and it then registers shapes for operators that do not exist. basicsr 1.4.2 imports a
torchvision module that has since been renamed. Both are patched here, only if needed; timm and
spandrel import torchvision too, so call `patch_torchvision` before importing them.
"""

import importlib
import importlib.util
import sys
import warnings
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import ModuleType

import torch
from torch import nn

from superres.common.errors import MissingExtra, UsageError

RENAMED = ("torchvision.transforms.functional_tensor", "torchvision.transforms._functional_tensor")
SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)

LAST_SIDE = 4  # of the VGG discriminator's last feature map

# torch removes an operator's schema when its library object is collected.
_libraries: list[torch.library.Library] = []


@cache
def load_basicsr() -> ModuleType:
    """Import basicsr with all patches; raises MissingExtra if it is not installed."""
    if importlib.util.find_spec("basicsr") is None:
        raise MissingExtra("basicsr", "train")
    patch_torchvision()
    with warnings.catch_warnings():
        # basicsr uses deprecated names of its dependencies.
        warnings.simplefilter("ignore", DeprecationWarning)
        import basicsr

    return basicsr


@cache
def patch_torchvision() -> None:
    """Make `import torchvision` succeed if its operators cannot be loaded; calling one of them
    then raises. A working torchvision is not patched."""
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        raise MissingExtra("torchvision", "train")
    if not _operators_load(Path(spec.origin).parent):
        library = torch.library.Library("torchvision", "DEF")
        for schema in SCHEMAS:
            library.define(schema)
        _libraries.append(library)
    old, new = RENAMED
    if importlib.util.find_spec(old) is None:
        sys.modules[old] = importlib.import_module(new)


def discriminator(name: str, parameters: Mapping[str, int | bool]) -> nn.Module:
    """A newly initialised discriminator of RGB pictures: `unet` (UNetDiscriminatorSN) or `vgg`
    (VGGStyleDiscriminator). Raises UsageError for unknown or invalid parameters."""
    load_basicsr()
    from basicsr.archs.discriminator_arch import UNetDiscriminatorSN, VGGStyleDiscriminator

    try:
        network = {"unet": UNetDiscriminatorSN, "vgg": VGGStyleDiscriminator}[name](
            **{"num_in_ch": 3, **parameters}
        )
    except (TypeError, AssertionError) as error:
        raise UsageError(f"discriminator {name!r} does not take {parameters}: {error}") from error
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            # The discriminator only runs in training mode, which uses batch statistics; without
            # running statistics a non-finite batch leaves no trace.
            module.track_running_stats = False
            module.running_mean = module.running_var = module.num_batches_tracked = None
            # basicsr flattens the last features with `view`, which fails for channels-last.
            module.register_forward_hook(_make_contiguous)
    return network


def _make_contiguous(
    module: nn.Module, arguments: object, output: torch.Tensor
) -> torch.Tensor | None:
    small = output.shape[-1] <= LAST_SIDE
    return output.contiguous() if small else None


def discriminator_sides(name: str, parameters: Mapping[str, int | bool]) -> tuple[int | None, int]:
    """The required side of HR crops (None: any), and the number it must be a multiple of."""
    return (int(parameters.get("input_size", 128)), 1) if name == "vgg" else (None, 8)


def _operators_load(package: Path) -> bool:
    try:
        for path in package.glob("_C*.so"):
            torch.ops.load_library(str(path))
    except OSError:
        return False
    return hasattr(torch.ops.torchvision, "nms")
