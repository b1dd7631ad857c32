"""One training job: check the inputs, train, validate, publish the bundle."""

from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast

import torch
from torch import nn

from superres.common.console import say
from superres.common.environment import cpu_threads, mlflow_uri
from superres.common.errors import SharplineError, UsageError
from superres.common.files import file_lock
from superres.dataset.manifest import read_info
from superres.model.archs import build, facts
from training.bundles.held_out_crops import HeldOutCrops
from training.bundles.provenance import InitialWeights, Provenance
from training.bundles.validate import held_out
from training.data.packs.crops import CropSampler
from training.data.packs.packs import Pack
from training.loop.checkpoint import check_free_space, checkpoint_bytes
from training.loop.context import LoopContext
from training.loop.distributed import DistributedContext, device_for_rank, process_group
from training.loop.loop import TrainingLoop
from training.loop.preflight import (
    check_mlflow_access,
    check_network,
    check_training_plan,
    reraise_arch_errors,
    try_network,
)
from training.loop.state import weight_bytes
from training.recipe import Profile, Recipe, Stage, load_recipe
from training.runs.folder import Run, RunKey, open_run, unfinished_run
from training.runs.hardware import MachineMetrics
from training.runs.metadata import run_metadata, write_packages
from training.runs.mlflow_remote import MlflowRemote
from training.runs.spool import SPOOL_NAME, Spool
from training.runs.tracking import Tracker, send, tracked
from training.session import TrainingSession
from training.weights.initial import load_initial, resolve


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingJob:
    """The arguments of `sharpline train`. `minutes` overrides the recipe's time limit.

    `training.weights.initial` resolves `init`, `training.loop.distributed` resolves `device`;
    `parent_run` is the name of the parent MLflow run.
    """

    recipe: str
    data: Path
    init: str | None
    profile: str
    minutes: float | None
    resume: bool
    runs: Path
    parent_run: str | None = None
    device: str = "auto"


def run(job: TrainingJob) -> dict[str, object]:
    """Run a job and return its result. Under `torchrun` only rank 0 returns a non-empty one."""
    device = device_for_rank(job.device)
    with process_group(device) as distributed:
        return _run(job, device, distributed)


def _run(
    job: TrainingJob, device: torch.device, distributed: DistributedContext
) -> dict[str, object]:
    recipe, stage = _stage(job)
    check_network(recipe)
    info = read_info(job.data)
    parent = resolve(job.init) if job.init else None
    check_training_plan(recipe, stage, info, job.data, parent, distributed)
    if (uri := mlflow_uri()) is not None:
        check_mlflow_access(uri)
    samplers = _samplers(recipe, stage, Pack(job.data))
    torch.set_num_threads(cpu_threads())
    torch.manual_seed(recipe.seed)
    net, start = _network(recipe, parent)
    provenance = Provenance(
        recipe=recipe,
        profile=cast(Profile, job.profile),
        dataset=job.data,
        info=info,
        parent=parent,
        start=start,
        device=_device_name(device, distributed),
    )
    this_run, existed = distributed.from_rank_zero(
        partial(_open_run, job, provenance, weight_bytes(net, recipe))
    )
    with file_lock(this_run.folder / "lock") if distributed.is_rank_zero else nullcontext():
        tracker = Tracker(
            this_run.folder, partial(MlflowRemote, uri) if uri else None, machine=MachineMetrics()
        )
        session = TrainingSession(
            provenance=provenance, run=this_run, tracker=tracker, device=device
        )
        loop = TrainingLoop(
            net,
            recipe,
            stage,
            samplers,
            LoopContext(
                folder=this_run.checkpoints,
                tracker=tracker,
                device=device,
                distributed=distributed,
                validate=session.score,
                crops=_crops(provenance, device) if distributed.is_rank_zero else None,
            ),
        )
        if existed:
            _resume(loop, stage, distributed)
        if not distributed.is_rank_zero:
            loop.run()
            return {}
        metadata = run_metadata(
            provenance, stage, name=this_run.folder.name, parent_run=job.parent_run
        )
        with tracked(tracker, metadata):
            tracker.artifacts(write_packages(this_run.folder), "environment")
            say(f"{recipe.name}: training in {this_run.folder}")
            return session.publish(loop.run())


def _crops(provenance: Provenance, device: torch.device) -> HeldOutCrops | None:
    arch = provenance.recipe.arch
    pairs = held_out(provenance.dataset, provenance.profile)
    return HeldOutCrops.of(pairs, facts(arch.name, arch.parameters).grid, device)


def _open_run(job: TrainingJob, provenance: Provenance, weight_bytes: int) -> tuple[Run, bool]:
    """The run's folder, with space for its checkpoints, and whether it already existed."""
    recipe, parent = provenance.recipe, provenance.parent
    key = RunKey(
        recipe=recipe.as_dict(),
        profile=provenance.profile,
        dataset_id=provenance.info.id,
        parent_id=parent.id if parent else None,
        minutes=job.minutes,
    )
    unfinished = unfinished_run(job.runs, recipe.name, key) if job.resume else None
    check_free_space(
        job.runs, weight_bytes, checkpoint_bytes(unfinished.checkpoints) if unfinished else 0
    )
    return open_run(job.runs, recipe.name, key, resume=job.resume)


def replay(folder: Path) -> dict[str, object]:
    """Send a run's unsent records to MLflow; raises SharplineError if it is unavailable."""
    if not (folder / SPOOL_NAME).is_file():
        raise UsageError(f"{folder} is not the folder of a run (it has no {SPOOL_NAME})")
    uri = mlflow_uri()
    if uri is None:
        raise UsageError("set SHARPLINE_MLFLOW_URI to the URL of the MLflow server")
    spool = Spool(folder)
    try:
        sent = send(spool, MlflowRemote(uri))
    except Exception as error:
        raise SharplineError(f"cannot send the records to MLflow at {uri}: {error}") from error
    return {"run_id": spool.run_id, "sent": sent}


def _resume(loop: TrainingLoop, stage: Stage, distributed: DistributedContext) -> None:
    resumed = loop.resume()
    if not distributed.is_rank_zero:
        return
    say("resuming the interrupted run" if resumed else "no checkpoint: starting from step 0")
    if resumed and stage.max_minutes is not None:
        say("this stage has a time limit (max_minutes): the result will not be bit-identical")


def _stage(job: TrainingJob) -> tuple[Recipe, Stage]:
    recipe = load_recipe(job.recipe)
    stage = recipe.stage(cast(Profile, job.profile))
    if job.minutes is not None:
        if not job.minutes > 0:
            raise UsageError(f"--minutes must be more than 0, not {job.minutes}")
        stage = stage.model_copy(update={"max_minutes": job.minutes})
    return recipe, stage


def _samplers(recipe: Recipe, stage: Stage, pack: Pack) -> dict[int, CropSampler]:
    """One sampler per patch side; raises SharplineError if every picture is too small."""
    samplers = {
        patch.side: CropSampler(pack, patch=patch.side, batch=stage.batch, seed=recipe.seed)
        for patch in stage.patches
    }
    for side, sampler in samplers.items():
        if sampler.skipped:
            say(f"{sampler.skipped} pictures are smaller than a patch of {side}: not used for it")
    return samplers


def _network(recipe: Recipe, parent: InitialWeights | None) -> tuple[nn.Module, str | None]:
    """The network to train, and a report of the initial weights loaded into it."""
    with reraise_arch_errors(recipe):
        net = build(recipe.arch.name, recipe.arch.parameters)
    try_network(net, recipe)
    if parent is None:
        return net, None
    start = load_initial(net, parent)
    say(f"{recipe.name}: loaded {start}")
    return net, start


def _device_name(device: torch.device, distributed: DistributedContext) -> str:
    cuda = device.type == "cuda"
    name = torch.cuda.get_device_name(device) if cuda else f"cpu, {torch.get_num_threads()} threads"
    return name if distributed.world_size == 1 else f"{distributed.world_size} x {name}"
