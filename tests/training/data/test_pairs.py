"""The same pictures and recipe give the same dataset; left-out pictures are reported."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from superres.analysis.degradation_features import FEATURES
from superres.common.errors import SharplineError, UsageError
from superres.dataset.manifest import read_info, read_manifest
from superres.degrade import DEGRADATIONS, degrade
from superres.degrade.degradation import Degradation
from superres.image.codecs import Picture, encode, read, write
from training.data.packs.packs import Pack
from training.data.pairs.build import build, build_shard, seal
from training.data.shards.plan import PairRecipe, make_plan, read_plan
from training.data.sources.resolve import find_pictures, sample_pictures

RECIPE = PairRecipe(scale=2, degradation="bicubic_jpeg")

Plan = Callable[..., Path]
FilesOf = Callable[[Path], dict[str, bytes]]
Add = Callable[..., str]


@pytest.fixture
def plan(pictures: Path, add: Add, tmp_path: Path) -> Plan:
    """A function that makes a plan of the pictures, or of a given folder."""

    def make(
        folder: Path = pictures, recipe: PairRecipe = RECIPE, root: str = "root", **options: Any
    ) -> Path:
        found = find_pictures([add(folder)], split_every=3)
        return make_plan(found, recipe, tmp_path / root, **options)

    return make


def test_sharded_and_unsharded_builds_give_the_same_bytes(plan: Plan, files_of: FilesOf) -> None:
    unsharded = build(plan(root="whole"))
    sharded = plan(root="sharded", pictures_per_shard=1)
    for index in reversed(range(read_plan(sharded).shards)):
        build_shard(sharded, index)
    assert files_of(seal(sharded).path) == files_of(unsharded.path)


def test_a_rebuild_is_unchanged(plan: Plan) -> None:
    first = build(plan())
    before = {path: path.stat().st_mtime_ns for path in first.path.rglob("*")}
    repeated = build(plan())
    assert (first.unchanged, repeated.unchanged) == (False, True)
    assert repeated.info == first.info
    assert {path: path.stat().st_mtime_ns for path in repeated.path.rglob("*")} == before


def test_sealing_again_returns_the_same_result(plan: Plan) -> None:
    path = plan()
    first = build(path)
    assert seal(path) == first


def test_the_id_does_not_depend_on_the_pictures_paths(
    plan: Plan, pictures: Path, tmp_path: Path
) -> None:
    moved = tmp_path / "elsewhere" / "garden"
    moved.mkdir(parents=True)
    for path in pictures.iterdir():
        (moved / path.name).write_bytes(path.read_bytes())
    assert read_plan(plan()).id == read_plan(plan(moved)).id


@pytest.mark.parametrize("change", ["content", "scale", "degradation", "split"])
def test_every_change_of_the_pairs_changes_the_id(
    change: str, plan: Plan, pictures: Path, tmp_path: Path
) -> None:
    before = read_plan(plan()).id
    if change == "content":
        folder = tmp_path / "garden"
        for path in pictures.iterdir():
            write(folder / path.name, read(path))
        write(folder / "00.png", Picture(rgb_hwc=255 - read(pictures / "00.png").rgb_hwc))
        after = read_plan(plan(folder)).id
    elif change == "split":
        found = find_pictures([str(pictures)], split_every=2)
        after = read_plan(make_plan(found, RECIPE, tmp_path / "other")).id
    else:
        other = {
            "scale": PairRecipe(scale=3, degradation="bicubic_jpeg"),
            "degradation": PairRecipe(scale=2, degradation="bicubic"),
        }[change]
        after = read_plan(plan(recipe=other)).id
    assert after != before


def test_a_pair_matches_its_manifest_row(plan: Plan) -> None:
    built = build(plan())
    rows = read_manifest(built.path)
    assert {(row.split, row.name) for row in rows} == {
        ("train", f"garden-{index:02d}") for index in (1, 2, 3, 4)
    } | {("validation", f"garden-{index:02d}") for index in (0, 5)}
    for row in rows:
        hr, lr = read(built.path / row.hr_path), read(built.path / row.lr_path)
        repeated = degrade(hr.rgb_hwc, kind=row.degradation, scale=row.scale, seed=row.seed)
        assert (hr.width, hr.height) == (row.width, row.height)
        assert np.array_equal(repeated.lr_hwc_u8, lr.rgb_hwc)
        assert repeated.parameters == json.loads(row.parameters)
    assert set(built.info.reference) == set(FEATURES)


def test_the_pack_holds_the_training_pictures(plan: Plan) -> None:
    built = build(plan())
    pack = Pack(built.path)
    rows = {row.name: row for row in read_manifest(built.path) if row.split == "train"}
    assert {pair.name for pair in pack.pairs} == set(rows)
    for pair in pack.pairs:
        row = rows[pair.name]
        assert np.array_equal(pack.hr(pair), read(built.path / row.hr_path).rgb_hwc)
        assert np.array_equal(pack.lr(pair), read(built.path / row.lr_path).rgb_hwc)


def test_sides_are_cropped_to_the_scale(plan: Plan) -> None:
    rows = read_manifest(build(plan(recipe=PairRecipe(scale=3, degradation="bicubic"))).path)
    assert {(row.width, row.height) for row in rows} == {(72, 54)}


def test_left_out_pictures_are_reported_with_their_reasons(add: Add, tmp_path: Path) -> None:
    folder = tmp_path / "mixed"
    rng = np.random.default_rng(1)

    def noise(height: int = 64, width: int = 64) -> np.ndarray:
        return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)

    write(folder / "good.png", Picture(rgb_hwc=noise()))
    write(folder / "grey.png", Picture(rgb_hwc=noise()[..., :1].repeat(3, axis=2), grey=True))
    write(folder / "deep.png", Picture(rgb_hwc=noise().astype(np.uint16) * 257))
    for name, alpha in (("opaque", 255), ("glass", 9)):
        write(
            folder / f"{name}.png",
            Picture(rgb_hwc=noise(), alpha_hw=np.full((64, 64), alpha, np.uint8)),
        )
    write(folder / "tiny.png", Picture(rgb_hwc=noise(20, 200)))
    (folder / "text.png").write_text("not a picture at all, only text")
    encoded = encode(Picture(rgb_hwc=noise()), "png")
    (folder / "cut.png").write_bytes(encoded[: len(encoded) // 2])
    (folder / "same.png").write_bytes((folder / "good.png").read_bytes())
    info = build(make_plan(find_pictures([add(folder)]), RECIPE, tmp_path / "root")).info
    reasons = {entry.name.removeprefix("mixed-"): entry.reason for entry in info.left_out}
    assert set(reasons) == {"glass", "tiny", "text", "cut", "same"}
    assert "transparent" in reasons["glass"]
    assert "too small" in reasons["tiny"]
    assert "not a supported picture" in reasons["text"]
    assert "damaged" in reasons["cut"]
    assert "the same picture as mixed-good" in reasons["same"]
    assert info.splits == {"train": 4, "validation": 0}


def test_a_training_picture_close_to_a_held_out_one_is_left_out(
    tmp_path: Path, pictures: Path, add: Add
) -> None:
    folder = tmp_path / "album"
    for index in range(4):
        write(folder / f"{index}.png", read(pictures / f"{index:02d}.png"))
    copy = encode(read(pictures / "01.png"), "jpeg", quality=70)
    (folder / "4.jpg").write_bytes(copy)
    found = find_pictures([add(folder)], split_every=4)
    assert [picture.name for picture in found if picture.split == "validation"] == ["album-1"]
    info = build(make_plan(found, RECIPE, tmp_path / "root")).info
    assert [entry.name for entry in info.left_out] == ["album-4"]
    assert "validation" in info.left_out[0].reason


def test_a_plan_without_usable_pictures_is_an_error(plan: Plan, tmp_path: Path) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"0" * 40)
    with pytest.raises(SharplineError, match="bad-a"):
        plan(tmp_path / "bad")


def test_sealing_names_the_shard_that_is_missing(plan: Plan) -> None:
    path = plan(pictures_per_shard=2)
    build_shard(path, 0)
    build_shard(path, 2)
    with pytest.raises(SharplineError, match="shard 1 of 3"):
        seal(path)
    assert not (path.parents[2] / read_plan(path).id).exists()


def test_a_failed_shard_leaves_no_files_and_can_be_rebuilt(
    plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = plan()
    from training.data.shards import shards

    def full_disk(*_: object) -> None:
        raise SharplineError("cannot write: no space left")

    with monkeypatch.context() as patched:
        patched.setattr(shards, "write_bytes", full_disk)
        with pytest.raises(SharplineError, match="no space left"):
            build_shard(path, 0)
    assert not [
        found
        for found in path.parent.rglob("*")
        if found.name != "plan.json" and found.is_file() and found.suffix != ".lock"
    ]
    assert build(path).info.splits == {"train": 4, "validation": 2}


def test_a_shard_out_of_range_is_rejected(plan: Plan) -> None:
    with pytest.raises(UsageError, match="shards 0 to 0"):
        build_shard(plan(), 1)


def test_pictures_that_change_after_planning_are_detected(
    tmp_path: Path, pictures: Path, add: Add
) -> None:
    folder = tmp_path / "live"
    for path in pictures.iterdir():
        write(folder / path.name, read(path))
    path = make_plan(find_pictures([add(folder)]), RECIPE, tmp_path / "root")
    write(folder / "03.png", Picture(rgb_hwc=np.zeros((64, 64, 3), np.uint8)))
    with pytest.raises(SharplineError, match="has changed since the plan"):
        build(path)


def test_an_unknown_degradation_lists_the_known_ones(plan: Plan) -> None:
    with pytest.raises(UsageError, match="bicubic_jpeg"):
        plan(recipe=PairRecipe(scale=2, degradation="bicubik"))


def test_an_invalid_plan_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text("{}")
    with pytest.raises(SharplineError, match="is not a plan"):
        read_plan(tmp_path / "plan.json")


def test_sample_builds_and_its_left_out_list_is_empty(tmp_path: Path) -> None:
    built = build(
        make_plan(sample_pictures(), PairRecipe(scale=4, degradation="bicubic_jpeg"), tmp_path)
    )
    assert built.info.splits == {"train": 4, "validation": 4}
    assert built.info.left_out == []
    assert read_info(built.path) == built.info


def test_the_version_of_a_degradations_package_is_part_of_the_id(
    plan: Plan, plug_in: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another version may give other pixels; a shard is built with the version of the plan."""
    entry = Degradation(name="acme", degrade=DEGRADATIONS.get("bicubic_jpeg").degrade)
    recipe = PairRecipe(scale=2, degradation="{acme: 1, bicubic: 1}")
    plug_in(DEGRADATIONS, entry)
    first = plan(recipe=recipe)
    assert read_plan(first).packages == {"acme": "acme 1.0"}
    assert read_plan(plan(recipe=recipe)).id == read_plan(first).id
    monkeypatch.setattr(DEGRADATIONS, "package", lambda name: "acme 1.1")
    assert read_plan(plan(recipe=recipe)).id != read_plan(first).id
    for action in (lambda: build(first), lambda: build_shard(first, 0)):
        with pytest.raises(SharplineError, match=r"'acme' of acme 1\.0, here it is of acme 1\.1"):
            action()
