"""Recipes are complete, strictly validated and match their networks."""

from pathlib import Path

import pytest
import yaml

from superres.common.errors import UsageError
from superres.model.archs import build, facts
from training.recipe import load_recipe, parse_recipe, recipe_names

NAMES = [
    "compact_real_x4",
    "compact_x2",
    "compact_x4",
    "deblur",
    "denoise",
    "esrgan_gan_x4",
    "esrgan_small_x4",
    "esrgan_x4",
    "old_photo",
    "realesrgan_x4",
    "span_fast_x4",
    "span_real_x4",
    "span_x2",
    "span_x4",
    "srcnn_x2",
    "srcnn_x4",
    "swinir_light_x2",
    "swinir_light_x4",
    "swinir_x2",
    "swinir_x4",
    "vdsr_x2",
    "vdsr_x4",
]
# Networks that learn nothing in a minute on two cores; their fine-tunes have no time limit.
LARGE = {"esrgan_gan_x4", "esrgan_x4", "realesrgan_x4", "swinir_x2", "swinir_x4"}
PUBLISHED_SCHEDULES = LARGE | {"swinir_light_x2"}
SPAN = {"span_fast_x4", "span_real_x4", "span_x2", "span_x4"}


def test_the_bundled_recipes() -> None:
    assert recipe_names() == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_has_its_file_name_and_builds_its_network(name: str) -> None:
    recipe = load_recipe(name)
    network = facts(recipe.arch.name, recipe.arch.parameters)
    assert recipe.name == name
    assert network.scale == recipe.scale
    for profile in ("full", "finetune", "smoke"):
        for patch in recipe.stage(profile).patches:
            assert patch.side % (network.window or network.size_multiple) == 0
    build(recipe.arch.name, recipe.arch.parameters)


def test_a_finetune_has_a_time_limit() -> None:
    for name in NAMES:
        limit = load_recipe(name).finetune.max_minutes
        assert (limit is not None) == (name not in LARGE)


def test_full_stages_stop_early_unless_they_need_the_end_of_their_schedule() -> None:
    """The schedules of papers, and SPAN's, gain most while the learning rate falls."""
    for name in NAMES:
        recipe = load_recipe(name)
        assert (recipe.full.early_stop is None) == (name in PUBLISHED_SCHEDULES | SPAN)
        assert recipe.full.steps <= 100_000 or name in PUBLISHED_SCHEDULES


@pytest.mark.parametrize(
    ("key", "parents"), [("learning_rte", ()), ("stepz", ("full",)), ("nmae", ("arch",))]
)
def test_an_unknown_key_is_named(key: str, parents: tuple[str, ...]) -> None:
    values = load_recipe("compact_x4").as_dict()
    inner = values
    for part in parents:
        inner = inner[part]
    inner[key] = 1
    with pytest.raises(UsageError, match=rf"{'.'.join([*parents, key])} is not a recipe key"):
        parse_recipe(yaml.safe_dump(values), origin="mine")


def test_a_misspelt_key_is_reported_before_the_missing_one() -> None:
    values = load_recipe("compact_x4").as_dict()
    values["full"]["learning_rte"] = values["full"].pop("learning_rate")
    with pytest.raises(UsageError, match=r"full\.learning_rte is not a recipe key.*learning_rate"):
        parse_recipe(yaml.safe_dump(values), origin="mine")


@pytest.mark.parametrize("content", [b"", b"words", b"\xd8\x00\xff"])
def test_a_file_that_is_not_a_recipe_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=r"not a mapping of keys|cannot be read as text"):
        load_recipe(str(path))


def test_a_missing_key_is_named() -> None:
    values = load_recipe("compact_x4").as_dict()
    del values["smoke"]["patches"]
    with pytest.raises(UsageError, match=r"smoke\.patches is missing"):
        parse_recipe(yaml.safe_dump(values), origin="mine")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("scale", 5),
        ("ema_decay", 1.5),
        ("precision", "fp16"),
        ("losses", []),
        ("optimizer", "much"),
    ],
)
def test_a_value_out_of_range_is_named(key: str, value: object) -> None:
    values = load_recipe("compact_x4").as_dict() | {key: value}
    with pytest.raises(UsageError, match=rf"{key} is invalid"):
        parse_recipe(yaml.safe_dump(values), origin="mine")


def test_invalid_yaml_is_refused() -> None:
    with pytest.raises(UsageError, match="is not YAML"):
        parse_recipe("a: [", origin="mine")


def test_an_unknown_recipe_lists_the_known_ones() -> None:
    with pytest.raises(UsageError, match="compact_x4"):
        load_recipe("compct_x4")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"losses": [{"name": "gan", "weight": 0.1, "kind": "vanilla"}]}, "require each other"),
        ({"losses": [{"name": "l1", "weight": 1.0}] * 2}, "only once"),
        ({"losses": [{"name": "l3", "weight": 1.0}]}, r"losses\.0 is invalid.*'l3'"),
        ({"degradation": {"bicubik": 1.0}}, r"degradation is invalid: no degradation 'bicubik'"),
        ({"scale": 1}, "restoration if `scale` is 1"),
        ({"cuda_graphs": True}, "needs `compile: true`"),
        ({"schedule": {"name": "multistep", "milestones": [1.5], "factor": 0.5}}, "less than 1"),
    ],
)
def test_inconsistent_keys_are_named(changes: dict[str, object], message: str) -> None:
    values = load_recipe("compact_x4").as_dict() | changes
    with pytest.raises(UsageError, match=message):
        parse_recipe(yaml.safe_dump(values), origin="mine")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patches": [{"since": 0.5, "side": 16}]}, "smoke is invalid: .* must be 0.0"),
        ({"patches": [{"since": 0.0, "side": 16}] * 2}, "ascending order of `since`"),
        ({"warmup_steps": 20}, "`warmup_steps` must be less than `steps`"),
        ({"micro_batch": 5}, "`micro_batch` must be at most `batch`"),
        ({"early_stop": {"patience": 0, "min_gain": 0.1}}, r"smoke\.early_stop\.patience"),
    ],
)
def test_an_inconsistent_stage_is_named(changes: dict[str, object], message: str) -> None:
    values = load_recipe("compact_x4").as_dict()
    values["smoke"] |= changes
    with pytest.raises(UsageError, match=message):
        parse_recipe(yaml.safe_dump(values), origin="mine")


def test_patches_grow_with_the_stage() -> None:
    values = load_recipe("compact_x4").as_dict()
    values["full"]["patches"] = [{"since": 0.0, "side": 32}, {"since": 0.5, "side": 48}]
    stage = parse_recipe(yaml.safe_dump(values), origin="mine").full
    assert [stage.patch(share) for share in (0.0, 0.49, 0.5, 0.99)] == [32, 32, 48, 48]


def test_a_degradation_may_be_text_or_a_mapping() -> None:
    values = load_recipe("compact_x4").as_dict()
    as_text = values | {"degradation": "{bsrgan: 1, bicubic: 1}"}
    as_mapping = values | {"degradation": {"bicubic": 1.0, "bsrgan": 1.0}}
    mixes = [parse_recipe(yaml.safe_dump(each), origin="m").mix() for each in (as_text, as_mapping)]
    assert mixes[0] == mixes[1]
    assert load_recipe("compact_x4").mix() is None
