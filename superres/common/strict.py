"""Pydantic models that refuse unknown keys, and one-line texts for their errors."""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic_core import PydanticCustomError

UNKNOWN_KEY = "unknown_key"


class StrictModel(BaseModel):
    """Frozen and strictly typed; an unknown key is refused with the nearest known one."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_keys(cls, values: object) -> object:
        if isinstance(values, Mapping):
            for key in values:
                if key not in cls.model_fields:
                    missing = [name for name in cls.model_fields if name not in values]
                    hint = did_you_mean(str(key), missing)
                    hint = hint or did_you_mean(str(key), cls.model_fields)
                    raise PydanticCustomError(
                        UNKNOWN_KEY, "unknown key", {"key": str(key), "hint": hint}
                    )
        return values


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of an error text that suggests the nearest known name; empty if none is near."""
    by_folded_name = {each.casefold(): each for each in known}
    nearest = get_close_matches(name.casefold(), by_folded_name, n=1)
    return f"; did you mean {by_folded_name[nearest[0]]}?" if nearest else ""


def describe(error: ValidationError, noun: str) -> str:
    """One error as a sentence about its key; `noun` is what a key is, such as "recipe key".

    Unknown keys come first: a misspelt key is also reported as missing.
    """
    first = min(error.errors(), key=lambda each: each["type"] != UNKNOWN_KEY)
    key = ".".join(map(str, first["loc"]))
    if first["type"] == UNKNOWN_KEY:
        context: dict[str, Any] = first.get("ctx", {})
        full_key = ".".join(filter(None, (key, context["key"])))
        return f"{full_key} is not a {noun}{context['hint']}"
    if first["type"] == "missing":
        return f"{key} is missing"
    reason = first["msg"].removeprefix("Value error, ")
    return f"{key} is invalid: {reason}" if key else reason
