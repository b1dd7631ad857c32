"""One training job: check the inputs, train, validate, publish the bundle."""

import shutil
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from superres.common.console import say
from superres.common.environment import cpu_threads, mlflow_uri
from superres.common.errors import SharplineError, UsageError
from superres.common.files import file_lock
from superres.dataset.manifest import read_info
from superres.model.archs import build
from superres.model.bundle import Bundle
from training.bundles.provenance import InitialWeights, Provenance, TrainingCost
from training.bundles.publish import draft, publish
from training.bundles.validate import ValidationResult, held_out, metrics, validate
from training.data.packs.crops import CropSampler
from training.data.packs.packs import Pack
from training.loop.checkpoint import check_free_space, checkpoint_bytes
from training.loop.context import LoopContext
from training.loop.distributed import DistributedContext, device_for_rank, process_group
from training.loop.loop import TrainingLoop
from training.loop.preflight import check_mlflow_access, check_training_plan, reraise_arch_errors
from training.loop.state import weight_bytes
from training.recipe import Profile, Recipe, Stage, load_recipe
from training.runs.folder import Run, RunKey, open_run, unfinished_run
from training.runs.hardware import MachineMetrics
from training.runs.metadata import run_metadata, write_packages
from training.runs.mlflow_remote import DESCRIPTION_TAG, MlflowRemote
from training.runs.spool import SPOOL_NAME, Spool
from training.runs.tracking import Tracker, send, tracked
from training.weights.initial import load_initial, resolve

DRAFT = "draft"


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
                validate=partial(_score, provenance, this_run, tracker, device),
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
            return _train_and_publish(provenance, loop, this_run, tracker, device)


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


def _train_and_publish(
    provenance: Provenance,
    loop: TrainingLoop,
    this_run: Run,
    tracker: Tracker,
    device: torch.device,
) -> dict[str, object]:
    trained = loop.run()
    candidate, validated = _validate_draft(
        provenance, this_run, tracker, device, trained.weights, trained.steps
    )
    run_id = tracker.run_id(wait_seconds=5.0)
    bundle = publish(
        provenance,
        candidate,
        TrainingCost(steps=trained.steps, seconds=trained.seconds),
        validated.evaluation if validated else None,
        run_id,
        this_run.folder / provenance.recipe.name,
    )
    shutil.rmtree(candidate.root)
    tracker.tags({"bundle_id": bundle.id, DESCRIPTION_TAG: bundle.card()})
    tracker.artifacts(bundle.root, "bundle")
    result = _result(bundle, run_id) | {"repeatable": trained.repeatable}
    this_run.finish(result)
    return result


def _score(
    provenance: Provenance,
    this_run: Run,
    tracker: Tracker,
    device: torch.device,
    weights: Mapping[str, Tensor],
    step: int,
) -> float | None:
    """The score for early stopping: mean PSNR of the held-out pictures, None on a full disk."""
    try:
        _, validated = _validate_draft(provenance, this_run, tracker, device, weights, step)
    except SharplineError as error:
        if not isinstance(error.__cause__, OSError):
            raise
        say(f"no validation at step {step}: {error}. Training continues")
        return None
    return validated.evaluation.psnr if validated else None


def _validate_draft(
    provenance: Provenance,
    this_run: Run,
    tracker: Tracker,
    device: torch.device,
    weights: Mapping[str, Tensor],
    step: int,
) -> tuple[Bundle, ValidationResult | None]:
    """Score weights through the Upscaler, as serving runs them, and log the metrics."""
    candidate = draft(
        provenance, {key: value.cpu() for key, value in weights.items()}, this_run.folder / DRAFT
    )
    samples = this_run.samples / f"step-{step:08d}"
    pairs = held_out(provenance.dataset, provenance.profile)
    validated = validate(candidate, pairs, samples, device=str(device))
    if validated is None:
        say("the dataset has no held-out pictures: the bundle will have no scores")
        return candidate, None
    scored = validated.evaluation
    say(
        f"step {step}: {scored.psnr:.2f} dB / {scored.ssim:.4f}, bicubic {scored.bicubic_psnr:.2f} "
        f"dB / {scored.bicubic_ssim:.4f} ({scored.protocol})"
    )
    tracker.metrics(step, metrics(scored))
    tracker.artifacts(samples, f"samples/step-{step:08d}")
    return candidate, validated


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
    if parent is None:
        return net, None
    start = load_initial(net, parent)
    say(f"{recipe.name}: loaded {start}")
    return net, start


def _result(bundle: Bundle, run_id: str | None) -> dict[str, object]:
    return {
        "model": bundle.info.name,
        "bundle": str(bundle.root),
        "bundle_id": bundle.id,
        "run_id": run_id,
        "steps": bundle.info.training.steps,
        "seconds": bundle.info.training.seconds,
        "scores": [score.model_dump(mode="json") for score in bundle.info.scores],
    }


def _device_name(device: torch.device, distributed: DistributedContext) -> str:
    cuda = device.type == "cuda"
    name = torch.cuda.get_device_name(device) if cuda else f"cpu, {torch.get_num_threads()} threads"
    return name if distributed.world_size == 1 else f"{distributed.world_size} x {name}"
