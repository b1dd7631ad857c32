"""The open run of a training: scores its weights and publishes them as a bundle."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from superres.common.console import say
from superres.common.errors import SharplineError
from superres.common.mlflow_client import BUNDLE_PATH, BUNDLE_TAG
from superres.model.bundle import Bundle
from training.bundles.provenance import Provenance, TrainingCost
from training.bundles.publish import draft, publish
from training.bundles.validate import ValidationResult, held_out, metrics, validate
from training.loop.context import TrainResult
from training.runs.folder import Run
from training.runs.mlflow_remote import DESCRIPTION_TAG
from training.runs.tracking import Tracker

DRAFT = "draft"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSession:
    """One training in one run: where its drafts, samples, scores and bundle go.

    Weights are state dicts of the EMA network; drafts are validated on `device`.
    """

    provenance: Provenance
    run: Run
    tracker: Tracker
    device: torch.device

    def score(self, weights: Mapping[str, Tensor], step: int) -> float | None:
        """The score for early stopping: mean PSNR of the held-out pictures, None on a full disk."""
        try:
            _, validated = self._validate_draft(weights, step)
        except SharplineError as error:
            if not isinstance(error.__cause__, OSError):
                raise
            say(f"no validation at step {step}: {error}. Training continues")
            return None
        return validated.evaluation.psnr if validated else None

    def publish(self, trained: TrainResult) -> dict[str, object]:
        """Validate the trained weights, write and log their bundle, and finish the run.

        Returns the result of `sharpline train`.
        """
        name = self.provenance.recipe.name
        say(f"{name}: trained {trained.steps} steps in {trained.seconds:.0f} s; validating")
        candidate, validated = self._validate_draft(trained.weights, trained.steps)
        say(f"{name}: measuring the bundle's bounds for tiling and reduced precision")
        run_id = self.tracker.run_id(wait_seconds=5.0)
        bundle = publish(
            self.provenance,
            candidate,
            TrainingCost(steps=trained.steps, seconds=trained.seconds),
            validated.evaluation if validated else None,
            run_id,
            self.run.folder / self.provenance.recipe.name,
        )
        shutil.rmtree(candidate.root)
        self.tracker.tags({BUNDLE_TAG: bundle.id, DESCRIPTION_TAG: bundle.card()})
        self.tracker.artifacts(bundle.root, BUNDLE_PATH)
        result = _result(bundle, run_id) | {"repeatable": trained.repeatable}
        self.run.finish(result)
        return result

    def _validate_draft(
        self, weights: Mapping[str, Tensor], step: int
    ) -> tuple[Bundle, ValidationResult | None]:
        """Score weights through the Upscaler, as serving runs them, and log the metrics."""
        candidate = draft(
            self.provenance,
            {key: value.cpu() for key, value in weights.items()},
            self.run.folder / DRAFT,
        )
        samples = self.run.samples / f"step-{step:08d}"
        pairs = held_out(self.provenance.dataset, self.provenance.profile)
        validated = validate(candidate, pairs, samples, device=str(self.device))
        if validated is None:
            say("the dataset has no held-out pictures: the bundle will have no scores")
            return candidate, None
        scored = validated.evaluation
        say(
            f"step {step}: {scored.psnr:.2f} dB / {scored.ssim:.4f}, bicubic "
            f"{scored.bicubic_psnr:.2f} dB / {scored.bicubic_ssim:.4f} ({scored.protocol})"
        )
        self.tracker.metrics(step, metrics(scored))
        self.tracker.artifacts(samples, f"samples/step-{step:08d}")
        return candidate, validated


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
