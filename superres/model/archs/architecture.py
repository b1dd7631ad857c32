"""What Sharpline knows about a network: the entry that a network's module registers."""

import inspect
import math
import typing
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError, create_model

from superres.common.errors import SharplineError
from superres.common.registry import check_fields
from superres.common.strict import StrictModel, describe

if TYPE_CHECKING:
    from torch import Tensor, nn

Parameters = Mapping[str, Any]
State = Mapping[str, "Tensor"]

# Raised by constructors, torch's included, for parameters that do not fit together.
PARAMETER_ERRORS = (TypeError, ValueError, RuntimeError, ArithmeticError)


class UnknownArch(SharplineError):
    """The name is not a registered network, or the parameters are invalid."""


class UnsupportedVariant(ValueError):
    """A state dict of a network's family that the network cannot represent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchFacts:
    """A network's properties for tiling; lengths are in low-resolution pixels.

    `receptive_field` is the one-sided reach of an output pixel, None if attention or pooling makes
    it unbounded in practice; input sides must be multiples of `size_multiple`, and tiles of a
    window-attention network must start on multiples of `window`.
    """

    scale: int
    receptive_field: int | None
    size_multiple: int = 1
    window: int | None = None

    def __post_init__(self) -> None:
        for name, least in (
            ("scale", 1),
            ("size_multiple", 1),
            ("receptive_field", 0),
            ("window", 1),
        ):
            value = getattr(self, name)
            if value is None and name in ("receptive_field", "window"):
                continue
            if not isinstance(value, int) or value < least:
                raise ValueError(f"`{name}` of a network must be an integer of at least {least}")

    @property
    def grid(self) -> int:
        """Sides of inputs and positions of tiles are multiples of this."""
        return math.lcm(self.size_multiple, self.window or 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class SpandrelLayout:
    """A key layout that spandrel detects. `id` is that of spandrel's architecture; `convert` takes
    spandrel's network and returns parameters and state dict of ours, or raises UnsupportedVariant.
    """

    id: str
    convert: Callable[[Any], tuple[dict[str, Any], dict[str, "Tensor"]]]


def unchanged(network: "nn.Module") -> "nn.Module":
    """The network itself: the deploy form of a network that has no other."""
    return network


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A network: maps RGB in [0, 1], (B, 3, H, W), to (B, 3, H * scale, W * scale).

    The annotated arguments of the constructor of `network` are its parameter schema. `facts` gives
    the properties for complete, valid parameters.

    Weight files: `detect` returns the parameters of a state dict with this network's own keys, None
    for any other; `spandrel` describes layouts that spandrel detects. Fine-tuning at another scale
    newly initialises the tensors that `scale_parameters` affect; no weight depends on
    `weightless_parameters`.

    Deploy form, by functions that may change the network in place and must keep its output up to
    the order of float sums: `reparameterise` (merged branches) is applied by every backend,
    `concat_free` (no copies into concatenated tensors) on CUDA, where `compiled_blocks`, the
    classes of the repeated blocks, are compiled.
    """

    name: str
    network: "type[nn.Module]"
    facts: Callable[[Parameters], ArchFacts]
    detect: Callable[[State], dict[str, Any] | None] | None = None
    spandrel: SpandrelLayout | None = None
    scale_parameters: frozenset[str] = frozenset()
    weightless_parameters: frozenset[str] = frozenset()
    reparameterise: "Callable[[nn.Module], nn.Module]" = unchanged
    concat_free: "Callable[[nn.Module], nn.Module]" = unchanged
    compiled_blocks: "tuple[type[nn.Module], ...]" = ()

    def __post_init__(self) -> None:
        from torch import nn

        detected = () if self.detect is None else ("detect",)
        check_fields(
            self,
            functions=("facts", "reparameterise", "concat_free", *detected),
            classes={"network": nn.Module},
        )
        parameters = self.schema.model_fields  # an unusable constructor is refused at once
        check_fields(
            self, subsets={"scale_parameters": parameters, "weightless_parameters": parameters}
        )

    @cached_property
    def schema(self) -> type[StrictModel]:
        """The parameters as a strict model, from the constructor's annotations and defaults."""
        hints = typing.get_type_hints(self.network.__init__, include_extras=True)
        fields: dict[str, Any] = {}
        for name, parameter in inspect.signature(self.network).parameters.items():
            if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
                raise TypeError(f"argument {name!r} of the constructor cannot be given by name")
            if name.startswith("_") or name == "model_config":
                raise TypeError(f"the constructor has an argument with the reserved name {name!r}")
            default = ... if parameter.default is parameter.empty else parameter.default
            fields[name] = (hints.get(name, Any), default)
        with warnings.catch_warnings():
            # Parameters may have names of pydantic's methods, which are not called on them.
            warnings.filterwarnings("ignore", message="Field name .* shadows", category=UserWarning)
            return create_model(
                f"{self.network.__name__}Parameters", __base__=StrictModel, **fields
            )

    def complete(self, parameters: Parameters) -> dict[str, Any]:
        """The parameters with defaults; raises UnknownArch naming the one that is invalid."""
        try:
            checked = self.schema.parse(dict(parameters))
        except ValidationError as error:
            raise self._invalid(describe(error, self.schema, "parameter")) from error
        return {name: checked.__dict__[name] for name in self.schema.model_fields}

    def facts_for(self, parameters: Parameters) -> ArchFacts:
        """The properties for some parameters; raises UnknownArch."""
        try:
            facts = self.facts(self.complete(parameters))
        except PARAMETER_ERRORS as error:
            raise self._invalid(str(error)) from error
        if not isinstance(facts, ArchFacts):
            raise TypeError(f"`facts` returned {type(facts).__name__}, not ArchFacts")
        return facts

    def build(self, parameters: Parameters) -> "nn.Module":
        """A newly initialised network; raises UnknownArch for invalid parameters."""
        try:
            return self.network(**self.complete(parameters))
        except PARAMETER_ERRORS as error:
            raise self._invalid(str(error)) from error

    def _invalid(self, reason: str) -> UnknownArch:
        return UnknownArch(f"network {self.name!r} does not take these parameters: {reason}")
