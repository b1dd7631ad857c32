"""Time of a training step of ours and of basicsr's, on the same recipe and pictures, in one run.

Rounds of both alternate, so that other load on the machine affects both. basicsr trains as in its
`train_pipeline`: its PairedImageDataset and loader on the PNG pairs, its prefetcher, its SRModel
with Adam, L1 and EMA, in float32, its only precision. Ours is the whole loop with checkpoints, at
the recipe's precision unless --precision is given; one variant logs to an MLflow server that
accepts connections and never responds. The last line is the result as JSON.

    python bench/training_speed.py --recipe compact_x4
    python bench/training_speed.py --recipe compact_x4 --precision fp32
    python bench/training_speed.py --recipe esrgan_small_x4 --steps 20
"""

import argparse
import contextlib
import os
import socket
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from training_common import build_sample

from superres.common.console import emit, say
from superres.common.environment import cpu_threads
from superres.dataset.manifest import read_info
from superres.model.archs import build
from training.basicsr_bridge import load_basicsr
from training.bundles.provenance import Provenance
from training.bundles.publish import draft
from training.bundles.validate import held_out, validate
from training.data.packs.crops import CropSampler
from training.data.packs.packs import Pack
from training.loop.context import LoopContext
from training.loop.loop import TrainingLoop
from training.recipe import Recipe, Stage, load_recipe
from training.runs.mlflow_remote import MlflowRemote
from training.runs.tracking import RunMetadata, Tracker

# basicsr's names of our networks.
BASICSR_NETWORKS = {"compact": "SRVGGNetCompact", "rrdb": "RRDBNet", "swinir": "SwinIR"}
WARM_UP_STEPS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """Wall-clock seconds of one step, the seconds of waiting for data, and total CPU seconds."""

    seconds: float
    wait: float
    cpu: float


class Times:
    """A tracker that records step times and forwards the metrics."""

    def __init__(self, forward_to: Tracker | None = None) -> None:
        self.step_seconds: list[float] = []
        self.wait_seconds: list[float] = []
        self.steps: list[int] = []
        self.cpu: list[float] = []
        self._forward_to = forward_to

    def median(self) -> Step:
        """The median without the first report, which includes the warm-up."""
        return Step(
            seconds=statistics.median(self.step_seconds[1:]),
            wait=statistics.median(self.wait_seconds[1:]),
            cpu=(self.cpu[-1] - self.cpu[0]) / (self.steps[-1] - self.steps[0]),
        )

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        self.steps.append(step)
        self.cpu.append(time.process_time())
        self.step_seconds.append(values["step_seconds"])
        self.wait_seconds.append(values["data_wait_seconds"])
        if self._forward_to is not None:
            self._forward_to.metrics(step, values)


def main() -> None:
    arguments = _arguments()
    torch.set_num_threads(cpu_threads())
    recipe = load_recipe(arguments.recipe)
    if arguments.precision:
        recipe = recipe.model_copy(update={"precision": arguments.precision})
    stage = recipe.full.model_copy(
        update={
            "steps": arguments.steps,
            "batch": arguments.batch or recipe.full.batch,
            "warmup_steps": 0,
            "checkpoint_every": 10**9,
            "validate_every": 10**9,
        }
    )
    with tempfile.TemporaryDirectory() as folder, _silent_mlflow() as uri:
        root = Path(folder)
        dataset = arguments.data or build_sample(recipe.scale, root / "state")
        ours = partial(_ours, recipe, stage, dataset, root)
        runs: dict[str, Callable[[], Step]] = {
            "ours": ours,
            "ours, MLflow silent": partial(ours, uri),
            "basicsr": _basicsr(recipe, stage, dataset, root),
        }
        rounds: dict[str, list[Step]] = {name: [] for name in runs}
        for number in range(arguments.rounds + 1):
            for name, run in runs.items():
                step = run()
                say(f"round {number}: {name}: {step}")
                if number:  # round 0 is a warm-up
                    rounds[name].append(step)
        validation_seconds = _validation_seconds(recipe, dataset, root)
    seconds = {name: statistics.median(s.seconds for s in steps) for name, steps in rounds.items()}
    waits = {name: statistics.median(s.wait for s in steps) for name, steps in rounds.items()}
    cpu = {name: statistics.median(s.cpu for s in steps) for name, steps in rounds.items()}
    emit(
        {
            "recipe": recipe.name,
            "precision": recipe.precision,
            "batch": stage.batch,
            "lr_side": stage.patch(0.0),
            "threads": torch.get_num_threads(),
            "step_seconds": {name: round(value, 4) for name, value in seconds.items()},
            "step_cpu_seconds": {name: round(value, 4) for name, value in cpu.items()},
            "times_as_fast_as_basicsr": round(seconds["basicsr"] / seconds["ours"], 2),
            "share_waiting_for_data": {
                name: round(waits[name] / seconds[name], 4) for name in rounds
            },
            "silent_mlflow_adds": {
                "clock": round(seconds["ours, MLflow silent"] / seconds["ours"] - 1, 4),
                "cpu": round(cpu["ours, MLflow silent"] / cpu["ours"] - 1, 4),
            },
            "validation_seconds": round(validation_seconds, 3),
            "validation_share": round(
                validation_seconds / (recipe.full.validate_every * seconds["ours"]), 5
            ),
        }
    )


def _ours(
    recipe: Recipe, stage: Stage, dataset: Path, root: Path, mlflow: str | None = None
) -> Step:
    """Run a whole loop; return the times that it reported."""
    folder = Path(tempfile.mkdtemp(dir=root))
    tracker = None
    if mlflow is not None:
        tracker = Tracker(folder, partial(MlflowRemote, mlflow))
        tracker.start(
            RunMetadata(name="bench", parameters={}, tags={}, dataset_id="", dataset_source="bench")
        )
    times = Times(tracker)
    side = stage.patch(0.0)
    sampler = CropSampler(Pack(dataset), patch=side, batch=stage.batch, seed=recipe.seed)
    torch.manual_seed(recipe.seed)
    TrainingLoop(
        build(recipe.arch.name, recipe.arch.parameters),
        recipe,
        stage,
        {side: sampler},
        LoopContext(
            folder=folder,
            tracker=times,
            validate=lambda weights, step: None,
            device=torch.device("cpu"),
        ),
    ).run()
    return times.median()


def _basicsr(recipe: Recipe, stage: Stage, dataset: Path, root: Path) -> Callable[[], Step]:
    load_basicsr()
    from basicsr.data import build_dataloader
    from basicsr.data.data_sampler import EnlargedSampler
    from basicsr.data.paired_image_dataset import PairedImageDataset
    from basicsr.data.prefetch_dataloader import CPUPrefetcher
    from basicsr.models.sr_model import SRModel

    lr, hr = _folders(dataset, root / "basicsr")

    def run() -> Step:
        data = {
            "phase": "train",
            "scale": recipe.scale,
            "dataroot_lq": str(lr),
            "dataroot_gt": str(hr),
            "io_backend": {"type": "disk"},
            "gt_size": stage.patch(0.0) * recipe.scale,
            "use_hflip": True,
            "use_rot": True,
            "batch_size_per_gpu": stage.batch,
            "num_worker_per_gpu": cpu_threads(),
        }
        pictures = PairedImageDataset(data)
        ratio = -(-stage.steps * stage.batch // len(pictures))
        sampler = EnlargedSampler(pictures, 1, 0, ratio)
        loader = build_dataloader(pictures, data, num_gpu=1, dist=False, sampler=sampler, seed=1)
        model = SRModel(_options(recipe, stage))
        prefetcher = CPUPrefetcher(loader)
        steps, waits, cpu = [], [], 0.0
        for step in range(1, stage.steps + 1):
            began, busy = time.perf_counter(), time.process_time()
            batch = prefetcher.next()
            loaded = time.perf_counter()
            model.feed_data(batch)
            model.optimize_parameters(step)
            if step > WARM_UP_STEPS:
                waits.append(loaded - began)
                steps.append(time.perf_counter() - began)
                cpu += time.process_time() - busy
        return Step(
            seconds=statistics.median(steps), wait=statistics.median(waits), cpu=cpu / len(steps)
        )

    return run


def _options(recipe: Recipe, stage: Stage) -> dict:
    return {
        "num_gpu": 0,
        "dist": False,
        "is_train": True,
        "rank": 0,
        "path": {},
        "network_g": {"type": BASICSR_NETWORKS[recipe.arch.name], **recipe.arch.parameters},
        "train": {
            "ema_decay": recipe.ema_decay,
            "optim_g": {"type": "Adam", "lr": stage.learning_rate, "betas": (0.9, 0.99)},
            "scheduler": {"type": "MultiStepLR", "milestones": [10**9], "gamma": 0.5},
            "pixel_opt": {"type": "L1Loss", "loss_weight": 1.0, "reduction": "mean"},
        },
    }


def _folders(dataset: Path, root: Path) -> tuple[Path, Path]:
    """Link the training pairs in basicsr's layout: equal names in two folders."""
    from superres.dataset.manifest import read_manifest

    lr, hr = root / "lr", root / "hr"
    for folder in (lr, hr):
        folder.mkdir(parents=True)
    for row in read_manifest(dataset):
        if row.split == "train":
            os.symlink((dataset / row.lr_path).resolve(), lr / f"{row.name}.png")
            os.symlink((dataset / row.hr_path).resolve(), hr / f"{row.name}.png")
    return lr, hr


def _validation_seconds(recipe: Recipe, dataset: Path, root: Path) -> float:
    """Seconds of one validation as in training: a draft bundle, scored through the Upscaler."""
    net = build(recipe.arch.name, recipe.arch.parameters)
    provenance = Provenance(
        recipe=recipe,
        profile="full",
        dataset=dataset,
        info=read_info(dataset),
        parent=None,
        start=None,
        device="cpu",
    )
    began = time.perf_counter()
    candidate = draft(provenance, net.state_dict(), root / "draft")
    validate(candidate, held_out(dataset, provenance.profile), root / "samples")
    return time.perf_counter() - began


@contextlib.contextmanager
def _silent_mlflow() -> Iterator[str]:
    """The URL of a server that accepts connections and never responds."""
    connections: list[socket.socket] = []

    def accept(listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                connections.append(listener.accept()[0])

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, args=(listener,), daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
    for connection in connections:
        connection.close()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", default="compact_x4")
    parser.add_argument("--data", type=Path, help="dataset folder (default: built from the sample)")
    parser.add_argument("--steps", type=int, default=30, help="steps per round, at least 20")
    parser.add_argument("--batch", type=int, help="default: the recipe's")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--precision", choices=("bf16", "fp32"), help="ours (default: the recipe's)"
    )
    arguments = parser.parse_args()
    if arguments.steps < 20:
        parser.error("--steps must be at least 20: metrics are reported every 10 steps")
    return arguments


if __name__ == "__main__":
    main()
