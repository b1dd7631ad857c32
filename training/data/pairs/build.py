"""Builds training pairs in three steps: plan, build each shard, seal.

Shards are independent and written atomically, so they may be built on any machine, in any order
and repeatedly; sealing joins them into a dataset folder by one rename.
"""

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from superres.common.console import track
from superres.common.errors import UsageError
from superres.common.files import file_lock, remove_abandoned, staged_folder
from superres.dataset.manifest import INFO_NAME, DatasetInfo, LeftOut, read_info
from training.data.pairs.seal import assemble
from training.data.shards.plan import Plan, read_plan, require_packages
from training.data.shards.shards import write_shard
from training.data.workers import WorkerTask, run_tasks

SHARDS = "shards"
SEAL_WAIT_SECONDS = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """A sealed dataset; `unchanged` if it existed before its plan was made.

    `left_out` holds the pictures that the plan left out as well as those in `info`.
    """

    path: Path
    info: DatasetInfo
    left_out: tuple[LeftOut, ...]
    unchanged: bool

    def as_dict(self) -> dict[str, object]:
        """The result of `sharpline data build` as JSON."""
        return {
            "dataset": self.info.id,
            "path": str(self.path),
            "pairs": self.info.splits,
            "unchanged": self.unchanged,
            "licences": self.info.licences,
            "left_out": len(self.left_out),
        }


def build(plan_path: Path, *, workers: int = 1) -> Built:
    """Build every missing shard of a plan, then seal.

    Raises WorkerDied, naming the shards in progress, where a worker process is killed.
    """
    plan = read_plan(plan_path)
    if not _is_sealed(plan, plan_path):
        require_packages(plan)
        done = run_tasks(write_shard, _shard_tasks(plan, plan_path), workers=workers)
        for _ in track(done, "building pairs, by shards", plan.shards):
            pass
    return seal(plan_path, workers=workers)


def build_shard(plan_path: Path, index: int) -> int:
    """Write one shard unless it exists; return how many pictures it holds.

    Raises UsageError on an index that the plan does not have.
    """
    plan = read_plan(plan_path)
    if not 0 <= index < plan.shards:
        raise UsageError(f"the plan has shards 0 to {plan.shards - 1}, not {index}")
    pictures = plan.shard(index)
    if not _is_sealed(plan, plan_path):
        require_packages(plan)
        folder = _shard_folders(plan, plan_path)[index]
        write_shard(folder, pictures, plan.scale, plan.degradation)
    return len(pictures)


def seal(plan_path: Path, *, workers: int = 1) -> Built:
    """Join all shards into the dataset folder; sealing again changes nothing.

    Raises SharplineError naming a shard that is missing, or where no training picture is left.
    """
    plan = read_plan(plan_path)
    dataset = _dataset_folder(plan, plan_path)
    with file_lock(plan_path.with_name("seal.lock"), timeout_seconds=SEAL_WAIT_SECONDS):
        if not _is_sealed(plan, plan_path):
            remove_abandoned(dataset)
            folders = _shard_folders(plan, plan_path)
            with staged_folder(dataset) as staging:
                assemble(plan, plan_path, folders, staging, workers=workers)
        shutil.rmtree(plan_path.with_name(SHARDS), ignore_errors=True)
    info = read_info(dataset)
    return Built(
        path=dataset,
        info=info,
        left_out=_all_left_out(plan.left_out, info.left_out),
        unchanged=plan.unchanged,
    )


def _shard_tasks(plan: Plan, plan_path: Path) -> Iterator[WorkerTask]:
    for index, folder in enumerate(_shard_folders(plan, plan_path)):
        arguments = (folder, plan.shard(index), plan.scale, plan.degradation)
        yield WorkerTask(f"shard {index} of {plan.shards}", arguments)


def _shard_folders(plan: Plan, plan_path: Path) -> list[Path]:
    """Named by the range of pictures, so that shards of another size have other names."""
    shards = plan_path.parent / SHARDS
    return [shards / "{:06d}-{:06d}".format(*plan.span(index)) for index in range(plan.shards)]


def _dataset_folder(plan: Plan, plan_path: Path) -> Path:
    return plan_path.parent.parent.parent / plan.id


def _is_sealed(plan: Plan, plan_path: Path) -> bool:
    return (_dataset_folder(plan, plan_path) / INFO_NAME).is_file()


def _all_left_out(planned: Sequence[LeftOut], sealed: Sequence[LeftOut]) -> tuple[LeftOut, ...]:
    """Both lists: unreadable files are not part of the id, so a sealed dataset may lack them."""
    named = {entry.name: entry for entry in (*planned, *sealed)}
    return tuple(named[name] for name in sorted(named))
