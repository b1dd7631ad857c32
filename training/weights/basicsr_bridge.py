"""The one import of basicsr, and what it takes to import it beside today's torch and torchvision.

torchvision's wheel does not import beside a torch that was built without CUDA: its compiled
operators fail to load, and it then registers shapes for operators that do not exist. basicsr 1.4.2
imports a torchvision module that has since been renamed. Both are mended here, and only where they
are broken; timm and spandrel import torchvision too, so call `mend_torchvision` before those.
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

LAST_SIDE = 4  # of the VGG discriminator's last features

# torch forgets an operator's schema when its library object goes away.
_kept: list[torch.library.Library] = []


@cache
def load_basicsr() -> ModuleType:
    """basicsr, ready to be used; raises MissingExtra where it is not installed."""
    if importlib.util.find_spec("basicsr") is None:
        raise MissingExtra("basicsr", "train")
    mend_torchvision()
    with warnings.catch_warnings():
        # Names that its dependencies have deprecated; they are theirs to mend.
        warnings.simplefilter("ignore", DeprecationWarning)
        import basicsr

    return basicsr


@cache
def mend_torchvision() -> None:
    """Make `import torchvision` succeed where its operators cannot be loaded; using one of them
    then fails at the call. A torchvision that works is left alone."""
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        raise MissingExtra("torchvision", "train")
    if not _operators_load(Path(spec.origin).parent):
        library = torch.library.Library("torchvision", "DEF")
        for schema in SCHEMAS:
            library.define(schema)
        _kept.append(library)
    old, new = RENAMED
    if importlib.util.find_spec(old) is None:
        sys.modules[old] = importlib.import_module(new)


def discriminator(name: str, parameters: Mapping[str, int | bool]) -> nn.Module:
    """A freshly initialised discriminator of RGB pictures: `unet` (UNetDiscriminatorSN) or `vgg`
    (VGGStyleDiscriminator). Raises UsageError for parameters that it does not take."""
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
            # It is only ever asked in training, which looks at the batch alone; without running
            # statistics a batch that is no number leaves nothing behind.
            module.track_running_stats = False
            module.running_mean = module.running_var = module.num_batches_tracked = None
            # It flattens its last features with `view`, which in channels-last order it cannot.
            module.register_forward_hook(_in_order)
    return network


def _in_order(module: nn.Module, arguments: object, output: torch.Tensor) -> torch.Tensor | None:
    small = output.shape[-1] <= LAST_SIDE
    return output.contiguous() if small else None


def discriminator_sides(name: str, parameters: Mapping[str, int | bool]) -> tuple[int | None, int]:
    """The side of HR crops that a discriminator needs (None: any), and what it is a multiple of."""
    return (int(parameters.get("input_size", 128)), 1) if name == "vgg" else (None, 8)


def _operators_load(package: Path) -> bool:
    try:
        for path in package.glob("_C*.so"):
            torch.ops.load_library(str(path))
    except OSError:
        return False
    return hasattr(torch.ops.torchvision, "nms")
