"""Builds give the same bytes on one process or many, and a kill loses at most one shard."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from superres.common.errors import SharplineError, UsageError
from superres.dataset.manifest import read_manifest
from superres.image.codecs import Picture, write
from training.data.packs.packs import Pack
from training.data.pairs.build import build, build_shard, seal
from training.data.shards.fingerprints import FINGERPRINTS_NAME
from training.data.shards.plan import PairRecipe, make_plan, read_plan
from training.data.sources.picture import SourcePicture
from training.data.workers import WorkerDied, WorkerTask, run_tasks

RECIPE = PairRecipe(scale=2, degradation="bicubic_jpeg")

FilesOf = Callable[[Path], dict[str, bytes]]
StartBuild = Callable[[Path], "subprocess.Popen[bytes]"]


def noise(seed: int, height: int = 40, width: int = 48) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 4, width // 4, 3), np.uint8)
    return coarse.repeat(4, axis=0).repeat(4, axis=1)


def source(path: Path, split: str = "train", **more: object) -> SourcePicture:
    values = {"name": path.stem, "source": "noise", "licence": "CC0-1.0", "author": "nobody"}
    return SourcePicture(**{**values, **more}, path=path, split=split)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def album(tmp_path_factory: pytest.TempPathFactory) -> list[SourcePicture]:
    """Twelve unrelated pictures, every fourth of them held out."""
    folder = tmp_path_factory.mktemp("album")
    pictures = []
    for seed in range(12):
        path = folder / f"{seed:02d}.png"
        write(path, Picture(rgb_hwc=noise(seed)))
        pictures.append(source(path, "train" if seed % 4 else "validation"))
    return pictures


@pytest.fixture(scope="module")
def built_dataset(album: Sequence[SourcePicture], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The dataset of the album, built by one process in one shard."""
    root = tmp_path_factory.mktemp("root")
    return build(make_plan(album, RECIPE, root, pictures_per_shard=100)).path


def test_many_processes_and_small_shards_give_the_same_bytes(
    album: Sequence[SourcePicture], built_dataset: Path, tmp_path: Path, files_of: FilesOf
) -> None:
    plan = make_plan(album[::-1], RECIPE, tmp_path, pictures_per_shard=1)
    built = build(plan, workers=2)
    assert built.path.name == built_dataset.name
    assert files_of(built.path) == files_of(built_dataset)


def test_shards_of_another_size_are_not_reused(
    album: Sequence[SourcePicture], built_dataset: Path, tmp_path: Path, files_of: FilesOf
) -> None:
    build_shard(make_plan(album, RECIPE, tmp_path, pictures_per_shard=5), 0)
    plan = make_plan(album, RECIPE, tmp_path, pictures_per_shard=3)
    with pytest.raises(SharplineError, match="shard 0 of 4"):
        seal(plan)
    assert files_of(build(plan).path) == files_of(built_dataset)


def test_leftovers_of_a_killed_process_are_removed(
    album: Sequence[SourcePicture], tmp_path: Path
) -> None:
    plan = make_plan(album, RECIPE, tmp_path)
    for abandoned in (
        plan.parent / "shards" / ".000000-000008.abc.partial",
        tmp_path / f".{read_plan(plan).id}.abc.partial",
    ):
        abandoned.mkdir(parents=True)
        (abandoned / "half").write_text("a picture")
    build(plan)
    assert [path.name for path in tmp_path.iterdir() if path.name != ".plans"] == [
        read_plan(plan).id
    ]
    assert sorted(path.name for path in plan.parent.iterdir()) == ["plan.json", "seal.lock"]


def test_sealing_detects_a_damaged_shard(album: Sequence[SourcePicture], tmp_path: Path) -> None:
    plan = make_plan(album, RECIPE, tmp_path, pictures_per_shard=100)
    build_shard(plan, 0)
    raw = plan.parent / "shards" / "000000-000012" / "train.bin"
    raw.write_bytes(raw.read_bytes()[:-1] + b"\0")
    with pytest.raises(SharplineError, match="damaged"):
        seal(plan)


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(b"PK\3\4 cut")])
def test_sealing_detects_lost_fingerprints(
    album: Sequence[SourcePicture], tmp_path: Path, damage: Callable[[Path], object]
) -> None:
    plan = make_plan(album, RECIPE, tmp_path, pictures_per_shard=100)
    build_shard(plan, 0)
    damage(plan.parent / "shards" / "000000-000012" / FINGERPRINTS_NAME)
    with pytest.raises(SharplineError, match="000000-000012 is damaged; delete it and build again"):
        seal(plan)


def kill_itself(marker: Path, last: bool) -> int:
    if not last:
        marker.write_text("here")
        os.kill(os.getpid(), signal.SIGKILL)
    return 1


def test_a_killed_worker_raises_with_the_tasks_name(tmp_path: Path) -> None:
    tasks = [WorkerTask(f"shard {index}", (tmp_path / "marker", index > 0)) for index in range(2)]
    with pytest.raises(WorkerDied, match="worked on shard 0"):
        list(run_tasks(kill_itself, tasks, workers=2))
    assert (tmp_path / "marker").exists()


BUILD = """
import sys
from pathlib import Path
from training.data.pairs.build import build

if __name__ == "__main__":
    build(Path(sys.argv[1]), workers=2)
"""


@pytest.fixture
def start_build(tmp_path: Path) -> StartBuild:
    """Start the build of a plan in its own process, with two workers."""
    script = tmp_path / "build.py"
    script.write_text(BUILD)
    return lambda plan: subprocess.Popen(
        [sys.executable, str(script), str(plan)], stderr=subprocess.DEVNULL
    )


def kill(process: "subprocess.Popen[bytes]", shards: Path) -> int:
    """Kill a build, check that its shards are complete, and return its exit code."""
    process.kill()
    code = process.wait()
    for shard in shards.glob("0*"):
        assert (shard / "rows.json").is_file()
    return code


def test_kill_9_at_any_moment_ends_with_the_same_dataset(
    album: Sequence[SourcePicture],
    built_dataset: Path,
    tmp_path: Path,
    soak: bool,
    files_of: FilesOf,
    start_build: StartBuild,
) -> None:
    rng = random.Random(7)
    returncodes = []
    for round_ in range(20 if soak else 3):
        plan = make_plan(album, RECIPE, tmp_path / str(round_), pictures_per_shard=2)
        shards = plan.parent / "shards"
        process = start_build(plan)
        # Shards to wait for before the kill: 6 kills during sealing, 7 after it.
        shards_before_kill = rng.randint(0, 7) if soak else (1, 4, 6)[round_]
        while process.poll() is None and len(list(shards.glob("0*"))) < min(shards_before_kill, 6):
            time.sleep(0.002)
        if shards_before_kill == 6:
            staging = f".{read_plan(plan).id}.*"
            while process.poll() is None and not list((tmp_path / str(round_)).glob(staging)):
                time.sleep(0.002)
        returncodes.append(kill(process, shards))
        final = tmp_path / str(round_) / built_dataset.name
        assert not final.exists() or files_of(final) == files_of(built_dataset)
        assert files_of(build(plan).path) == files_of(built_dataset)
    assert set(returncodes) <= {0, -signal.SIGKILL}, "a build failed by itself"
    assert -signal.SIGKILL in returncodes, "no build was killed"


def test_a_build_that_is_killed_repeatedly_ends_with_the_same_dataset(
    album: Sequence[SourcePicture],
    built_dataset: Path,
    tmp_path: Path,
    soak: bool,
    files_of: FilesOf,
    start_build: StartBuild,
) -> None:
    """One build, killed each time that it has finished or begun another shard."""
    plan = make_plan(album, RECIPE, tmp_path / "root", pictures_per_shard=1)
    shards, rng = plan.parent / "shards", random.Random(3)

    def partial_folders() -> set[Path]:
        """The folders of partial shards and of the partial dataset."""
        return {*shards.glob(".*.partial"), *plan.parents[2].glob(f".{built_dataset.name}.*")}

    returncodes = []
    for _ in range(20 if soak else 2):
        done, left = len(list(shards.glob("0*"))), partial_folders()
        process = start_build(plan)
        kill_when_begun = rng.random() < 0.6
        while process.poll() is None and len(list(shards.glob("0*"))) == done:
            if kill_when_begun and partial_folders() - left:
                break
            time.sleep(0.002)
        returncodes.append(kill(process, shards))
    assert set(returncodes) <= {0, -signal.SIGKILL}, "a build failed by itself"
    assert files_of(build(plan).path) == files_of(built_dataset)


def test_draws_share_their_hr_and_differ_in_their_lr(
    album: Sequence[SourcePicture], built_dataset: Path, tmp_path: Path
) -> None:
    recipe = PairRecipe(scale=2, degradation="bicubic_jpeg", draws=3)
    built = build(make_plan(album, recipe, tmp_path))
    rows = read_manifest(built.path)
    train = [row for row in rows if row.split == "train"]
    assert built.info.splits == {"train": 27, "validation": 3}
    assert len({row.hr_path for row in train}) == 9
    assert len({(row.seed, row.lr_path, row.lr_sha256) for row in train}) == 27
    assert {row.lr_path.split("/")[2] for row in train} == {"LR", "LR-2", "LR-3"}
    # The first draw is that of a set of single draws.
    first = {row.name: row.lr_sha256 for row in rows if row.draw == 1}
    assert first == {row.name: row.lr_sha256 for row in read_manifest(built_dataset)}
    pack = Pack(built.path)
    assert len({pair.hr_offset for pair in pack.pairs}) == 9
    assert len({pair.lr_offset for pair in pack.pairs}) == 27


def test_a_damage_mask_is_stored_with_its_pair(
    album: Sequence[SourcePicture], tmp_path: Path
) -> None:
    built = build(make_plan(album, PairRecipe(scale=1, degradation="old_photo"), tmp_path))
    rows = read_manifest(built.path)
    assert {row.mask_path for row in rows} == {
        f"pairs/{row.split}/MASK/{row.name}.png" for row in rows
    }
    assert all((built.path / row.mask_path).is_file() for row in rows)


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (PairRecipe(scale=1, degradation="bicubic"), "bicubic has no random parameters"),
        (PairRecipe(scale=2, degradation="bicubic", draws=2), "bicubic has no random parameters"),
        (PairRecipe(scale=2, degradation="given", draws=2), "provides one LR per picture"),
        (PairRecipe(scale=2, degradation="jpeg", draws=0), "at least 1"),
    ],
)
def test_an_invalid_recipe_is_rejected(
    recipe: PairRecipe, message: str, album: Sequence[SourcePicture], tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=message):
        make_plan(album, recipe, tmp_path)


def test_provided_lr_is_used_and_mismatched_pairs_are_left_out(
    album: Sequence[SourcePicture], tmp_path: Path
) -> None:
    sources = []
    for index, picture in enumerate(album[1:4]):
        lr_path = tmp_path / f"{picture.name}x2.png"
        write(lr_path, Picture(rgb_hwc=noise(index + 50, 20, 24 if index else 28)))
        sources.append(source(picture.path, lr_path=lr_path))
    sources.append(source(album[5].path, lr_path=tmp_path / "forgotten.png"))
    recipe = PairRecipe(scale=2, degradation="given:track2")
    built = build(make_plan(sources, recipe, tmp_path / "root"))
    left_out = {entry.name: entry.reason for entry in built.left_out}
    assert set(left_out) == {"01", "05"}
    assert "28x20" in left_out["01"]
    assert "48x40" in left_out["01"]
    assert "forgotten.png" in left_out["05"]
    for row in read_manifest(built.path):
        assert row.degradation == "given:track2"
        assert (built.path / row.lr_path).is_file()
