"""Pydantic models that refuse unknown keys, and one-line texts for their errors."""

import json
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from superres.common.names import did_you_mean


class StrictModel(BaseModel):
    """Frozen, strictly typed, without unknown keys. Use `parse` for values of YAML or JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, protected_namespaces=())

    @classmethod
    def parse(cls, values: object) -> Self:
        """Validate plain values as JSON is validated: lists fit tuples, strings fit paths.

        Raises ValidationError; see `describe`.
        """
        return cls.model_validate_json(json.dumps(values, default=str))


def describe(error: ValidationError, model: type[BaseModel], noun: str) -> str:
    """One error of validating `model`, as a sentence; `noun` is what a key is: "recipe key".

    Unknown keys come first, because a misspelt key is also reported as missing.
    """
    errors = error.errors()
    first = min(errors, key=lambda each: each["type"] != "extra_forbidden")
    path, models = _walk(model, first["loc"])
    key = ".".join(path)
    match first["type"]:
        case "extra_forbidden":
            parents = first["loc"][:-1]
            missing = [
                str(each["loc"][-1])
                for each in errors
                if each["type"] == "missing" and each["loc"][:-1] == parents
            ]
            unknown = str(first["loc"][-1])
            known = [name for each in models for name in each.model_fields]
            return f"{key} is not a {noun}" + (
                did_you_mean(unknown, missing) or did_you_mean(unknown, known)
            )
        case "missing":
            return f"{key} is missing"
    return f"{key} is invalid: {_reason(first)}" if key else _reason(first)


def _reason(fault: Mapping[str, Any]) -> str:
    """Pydantic's reason in plain words."""
    context = fault.get("ctx", {})
    match fault["type"]:
        case "literal_error" | "union_tag_invalid":
            expected = str(context.get("expected", context.get("expected_tags")))
            choices = [choice.strip(" '") for choice in expected.replace(" or ", ", ").split(",")]
            value = context.get("tag", fault["input"])
            hint = did_you_mean(str(value), choices)
            return f"{value!r} is not one of {', '.join(choices)}{hint}"
        case "string_pattern_mismatch":
            return f"{fault['input']!r} does not match {context['pattern']}"
        case "value_error":
            return str(context["error"])
    return str(fault["msg"]).replace("Input should", "it should")


def _walk(model: type[BaseModel], loc: Sequence[int | str]) -> tuple[list[str], list[type]]:
    """The keys of an error's location as the user wrote them, without the names of union members,
    and the models that the last key may belong to."""
    models: list[type[BaseModel]] = [model]
    path: list[str] = []
    for number, part in enumerate(loc, start=1):
        if number == len(loc):
            return [*path, str(part)], models
        inner = [
            found
            for each in models
            if part in each.model_fields
            for found in _models_in(each.model_fields[str(part)].annotation)
        ]
        is_member = not inner and isinstance(part, str) and part in _tags(models)
        if not is_member:
            path.append(str(part))
        models = inner or models
    return path, models


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in typing.get_args(annotation):
        yield from _models_in(argument)


def _tags(models: Sequence[type[BaseModel]]) -> set[str]:
    """The names by which members of a tagged union are told apart: their literal `name`."""
    annotations = [
        each.model_fields["name"].annotation for each in models if "name" in each.model_fields
    ]
    return {str(tag) for each in annotations for tag in typing.get_args(each)}
