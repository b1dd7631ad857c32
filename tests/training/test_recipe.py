"""Recipes are complete, strict and true about their networks."""

import pytest
import yaml

from superres.archs import build, facts
from superres.errors import UsageError
from training.recipe import load_recipe, parse_recipe, recipe_names

NAMES = [
    "compact_x2",
    "compact_x4",
    "esrgan_small_x4",
    "esrgan_x4",
    "srcnn_x4",
    "swinir_light_x4",
    "swinir_x4",
    "vdsr_x4",
]


def test_the_recipes_that_come_along() -> None:
    assert recipe_names() == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_bears_its_own_name_and_builds_its_network(name: str) -> None:
    recipe = load_recipe(name)
    network = facts(recipe.arch.name, recipe.arch.parameters)
    assert recipe.name == name
    assert network.scale == recipe.scale
    for profile in ("full", "finetune", "smoke"):
        assert recipe.stage(profile).patch % (network.window or network.size_multiple) == 0
    build(recipe.arch.name, recipe.arch.parameters)


def test_a_finetune_has_a_time_limit() -> None:
    for name in NAMES:
        limit = load_recipe(name).finetune.max_minutes
        assert (limit is not None) == (name not in ("esrgan_x4", "swinir_x4"))


@pytest.mark.parametrize(
    ("key", "place"), [("learning_rte", ()), ("stepz", ("full",)), ("nmae", ("arch",))]
)
def test_an_unknown_key_is_named(key: str, place: tuple[str, ...]) -> None:
    values = load_recipe("compact_x4").as_dict()
    inner = values
    for part in place:
        inner = inner[part]
    inner[key] = 1
    with pytest.raises(UsageError, match=rf"{'.'.join([*place, key])} is not a key"):
        parse_recipe(yaml.safe_dump(values), origin="mine")


def test_a_missing_key_is_named() -> None:
    values = load_recipe("compact_x4").as_dict()
    del values["smoke"]["patch"]
    with pytest.raises(UsageError, match=r"smoke\.patch is missing"):
        parse_recipe(yaml.safe_dump(values), origin="mine")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("scale", 5),
        ("ema_decay", 1.5),
        ("precision", "fp16"),
        ("losses", []),
        ("weight_decay", "much"),
    ],
)
def test_a_value_out_of_range_is_named(key: str, value: object) -> None:
    values = load_recipe("compact_x4").as_dict() | {key: value}
    with pytest.raises(UsageError, match=rf"{key} is wrong"):
        parse_recipe(yaml.safe_dump(values), origin="mine")


def test_what_is_not_yaml_is_refused() -> None:
    with pytest.raises(UsageError, match="is not YAML"):
        parse_recipe("a: [", origin="mine")


def test_an_unknown_recipe_lists_the_known_ones() -> None:
    with pytest.raises(UsageError, match="compact_x4"):
        load_recipe("compct_x4")
