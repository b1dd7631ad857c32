"""The gate: fetch both models, score them in one run, apply the rules, write evidence."""

import tempfile
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from release.bounds import BackendLoader, MeasuredBounds, measure_bounds
from release.cost import MeasuredCosts, Meter
from release.evidence import (
    Evidence,
    PictureRecord,
    Runtime,
    VersionRef,
    all_passed,
    evidence_path,
    write_evidence,
)
from release.judge import Licences, judge
from release.registry import Registry
from release.report import write_report
from release.rules import DEFAULT, GAN, Rules, load_rules, rules_for
from release.trial import PictureTrial, Trial, run_trial
from release.versions import NotRegistered, RegistryUnavailable, Version
from superres.common.console import say
from superres.common.errors import SharplineError, UsageError
from superres.common.files import staged_folder
from superres.evaluation.held_out import find_held_out
from superres.model.backends import Backend, load_backend
from superres.model.bundle import Bundle
from superres.model.upscaler import Upscaler
from superres.quality.metric import Metric
from superres.quality.metrics import load_metrics, weights_folder

SOFTWARE = ("sharpline", "numpy", "torch", "openvino", "scikit-image", "mlflow-skinny", "pillow")
SPLIT = "validation"

# Signature of superres.quality.metrics.load_metrics: names and a folder of weights.
MetricLoader = Callable[[Iterable[str], Path | None], tuple[tuple[Metric, ...], dict[str, str]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class GateDecision:
    """The gate's decision on a version; `evidence` is None where there was nothing to judge."""

    version: Version
    passed: bool
    reasons: tuple[str, ...]
    evidence: Path | None
    gain_psnr: float | None


class Gate:
    """Judges versions of a registry; writes evidence into the folder `evidence`.

    `load` makes the backends, by default as serving does; `meter` measures time and memory;
    `metric_loader` returns perceptual metrics, and the reasons why others are unavailable.
    """

    def __init__(
        self,
        registry: Registry,
        evidence: Path,
        load: BackendLoader = load_backend,
        meter: Meter | None = None,
        metric_loader: MetricLoader = load_metrics,
    ) -> None:
        self._registry = registry
        self._evidence = evidence
        self._load = load
        self._meter = meter or Meter()
        self._metric_loader = metric_loader

    def judge(
        self, model: str, number: int | None, data: Path, rules: Rules | None
    ) -> GateDecision:
        """Judge version `number` (default: the challenger) on the held-out pictures of `data`.

        `rules` default to those of the model's kind and the data. The evidence is logged to the
        bundle's run, and the version is bound to it. Raises SharplineError where the models or
        pictures are unavailable, UsageError where the rules are for another kind of model.
        """
        challenger, champion = self._versions(model, number)
        if champion == challenger:
            why = f"{challenger} is the champion already: there is nothing to judge"
            return GateDecision(
                version=challenger, passed=False, reasons=(why,), evidence=None, gain_psnr=None
            )
        evidence, folder = self._evaluate(challenger, champion, data, rules)
        self._registry.bind_evidence(challenger, evidence_path(folder))
        try:
            self._registry.log_evidence(challenger, folder)
        except RegistryUnavailable as error:
            say(f"the evidence is at {folder} but could not be logged: {error}")
        gain = evidence.gain_over_baseline
        return GateDecision(
            version=challenger,
            passed=evidence.passed,
            reasons=evidence.reasons,
            evidence=evidence_path(folder),
            gain_psnr=None if gain is None else gain.mean_db,
        )

    def _versions(self, model: str, number: int | None) -> tuple[Version, Version | None]:
        state = self._registry.state(model)
        if number is not None:
            return self._registry.version(model, number), state.champion
        if state.challenger is None:
            raise NotRegistered(
                f"{model} has no challenger; register a bundle, or name a version with --version"
            )
        return state.challenger, state.champion

    def _evaluate(
        self, challenger: Version, champion: Version | None, data: Path, rules: Rules | None
    ) -> tuple[Evidence, Path]:
        """Fetch and score both models, apply the rules and write the evidence folder."""
        began = time.monotonic()
        created = datetime.now(UTC)
        with tempfile.TemporaryDirectory(prefix="sharpline-gate-") as scratch:
            say(f"fetching {challenger}" + (f" and {champion}" if champion else ""))
            ours = self._registry.fetch(challenger, Path(scratch) / "challenger")
            theirs = champion and self._registry.fetch(champion, Path(scratch) / "champion")
            rules = rules or load_rules(rules_for(data, ours.info.training))
            _require_kind(rules, ours)
            trial, bounds, costs, runtime = self._run_models(ours, theirs, data, rules)
        judgement = judge(
            rules,
            trial,
            ours.info.bounds,
            bounds,
            costs,
            Licences(
                challenger=ours.info.licence, champion=theirs.info.licence if theirs else None
            ),
        )
        evidence = Evidence(
            format_version=3,
            model=challenger.model,
            created=created.isoformat(timespec="seconds"),
            seconds=round(time.monotonic() - began, 3),
            passed=all_passed(judgement.outcomes),
            challenger=_version_ref(challenger),
            champion=champion and _version_ref(champion),
            protocol=trial.protocol.as_dict(),
            gain_over_champion=judgement.over_champion,
            gain_over_bicubic=judgement.over_bicubic,
            outcomes=judgement.outcomes,
            pictures=tuple(_record(picture) for picture in trial.pictures),
            bounds=bounds,
            costs=costs,
            runtime=runtime,
            rules=rules,
        )
        stamp = created.strftime("%Y%m%dT%H%M%S%f")
        folder = self._evidence / f"{challenger.model}-v{challenger.number}-{stamp}"
        with staged_folder(folder) as staging:
            write_report(staging, evidence, trial.worst, trial.best)
            write_evidence(staging, evidence)
        return evidence, folder

    def _metrics_of(self, rules: Rules) -> tuple[tuple[Metric, ...], dict[str, str]]:
        """The perceptual metrics to measure, and the reasons why others cannot be judged."""
        loaded, refused = self._metric_loader(sorted(rules.perceptual_metrics), weights_folder())
        higher = [metric for metric in loaded if metric.better == "higher"]
        why = "its higher values are better, and perceptual rules are for metrics of distance"
        refused |= {metric.name: why for metric in higher}
        return tuple(metric for metric in loaded if metric not in higher), refused

    def _run_models(
        self, ours: Bundle, theirs: Bundle | None, data: Path, rules: Rules
    ) -> tuple[Trial, MeasuredBounds, MeasuredCosts, Runtime]:
        """Run both models, configured as in serving, on the validation pictures."""
        scale = ours.info.scale
        if theirs is not None and theirs.info.scale != scale:
            raise SharplineError(
                f"the challenger has scale {scale}, the champion scale {theirs.info.scale}: they "
                "cannot be compared; register the challenger under another name"
            )
        held_out = find_held_out(str(data))
        metrics, unavailable = self._metrics_of(rules)
        say("loading the models as the server does")
        with self._backend(ours) as backend, self._champion(theirs) as champion:
            challenger = Upscaler(ours, backend)
            first = next(iter(held_out.pairs(scale, SPLIT).pairs))
            # Before anything else runs: a model's memory is measured on its first inference.
            costs = self._meter.measure(challenger, champion, first.lr, rules.cost.rounds)
            trial = run_trial(
                challenger,
                champion,
                held_out.pairs(scale, SPLIT),
                rules.channel,
                rules.resampling.block_pixels,
                metrics,
            )
            trial = replace(trial, unmeasured={**unavailable, **trial.unmeasured})
            say("measuring bounds for tiling and reduced precision")
            bounds = measure_bounds(ours, first.lr, backend, self._load)
            runtime = Runtime(
                backend=backend.name,
                device=backend.device,
                precision=backend.precision,
                software=_software(),
            )
        return trial, bounds, costs, runtime

    @contextmanager
    def _backend(self, bundle: Bundle) -> Generator[Backend]:
        backend = self._load(bundle)
        try:
            yield backend
        finally:
            backend.close()

    @contextmanager
    def _champion(self, bundle: Bundle | None) -> Generator[Upscaler | None]:
        if bundle is None:
            yield None
            return
        with self._backend(bundle) as backend:
            yield Upscaler(bundle, backend)


def _version_ref(version: Version) -> VersionRef:
    return VersionRef(version=version.number, bundle_id=version.bundle_id)


def _record(picture: PictureTrial) -> PictureRecord:
    return PictureRecord(
        name=picture.name,
        blocks=picture.counts.size,
        challenger=picture.challenger,
        champion=picture.champion,
        bicubic=picture.bicubic,
        features=picture.features,
        perception={name: dict(values) for name, values in picture.perception.items()},
    )


def _require_kind(rules: Rules, bundle: Bundle) -> None:
    """Raise UsageError where the rules are for the other kind of model."""
    kind = GAN if bundle.info.training.is_adversarial else DEFAULT
    if rules.kind != kind:
        how = "with" if kind == GAN else "without"
        raise UsageError(
            f"{bundle.info.name} was trained {how} a discriminator and needs rules of kind {kind}, "
            f"but {rules.name} is of kind {rules.kind}; leave out --rules"
        )


def _software() -> dict[str, str]:
    versions: dict[str, str] = {}
    for name in SOFTWARE:
        with suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions
