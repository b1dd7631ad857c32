"""Promotion, rollback, and canary and shadow rollouts, each under the model's lock."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

from release.evidence import Evidence, VersionRef, evidence_path, read_evidence
from release.registry import Registry
from release.versions import AliasMoved, NotRegistered, ReleaseState, RolloutKind, Version
from superres.common.errors import SharplineError
from superres.common.files import sha256_file


class EvidenceRefused(SharplineError):
    """No evidence, or evidence that does not allow this version to serve clients."""


class RolloutRefused(SharplineError):
    """The version cannot be canary or shadow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Promotion:
    """The current and the previous champion; `changed` is False where nothing changed."""

    champion: Version
    previous: Version | None
    changed: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """The current and the previous canary or shadow version; None where there is none.

    `percent` is the share of clients in [0, 99] that a canary serves, 0 for a shadow.
    """

    model: str
    current: Version | None
    previous: Version | None
    percent: int
    changed: bool


def promote(registry: Registry, model: str, number: int | None, evidence: Path) -> Promotion:
    """Make the version of the evidence the champion, and the current champion `previous`.

    Raises EvidenceRefused where the evidence did not pass, is about another model, version or
    bundle, is not the newest that the gate wrote for this version, or compares with a former
    champion; BrokenBundle where the registry no longer holds the judged bytes.
    """
    verified = _verified_evidence(registry, model, number, evidence)
    version, compared = verified.version, verified.evidence.champion
    with registry.lock(model):
        state = registry.state(model)
        if state.champion == version and _same_bundle(state.previous, compared):
            # A retried step: the promotion is already done.
            _clear_rollouts(registry, state, version)
            return Promotion(champion=version, previous=state.previous, changed=False)
        verified.require_current(registry, state)
        # In this order a crash between the two leaves the champion unchanged.
        registry.move_alias(model, "previous", state.champion, expected=state.previous)
        registry.move_alias(model, "champion", version, expected=state.champion)
        if state.challenger == version:
            registry.move_alias(model, "challenger", None, expected=version)
        # Last, so that the clients of a promoted canary never get the old champion in between.
        _clear_rollouts(registry, state, version)
        registry.record(version, "promoted")
    return Promotion(champion=version, previous=state.champion)


def rollback(registry: Registry, model: str) -> Promotion:
    """Make the previous champion the champion again, and remove the alias `previous`.

    The demoted version loses its evidence and must pass the gate again, so that a retried step
    does not undo an operator's rollback. Raises NotRegistered where there is no previous champion.
    """
    with registry.lock(model):
        state = registry.state(model)
        previous, demoted = state.previous, state.champion
        if previous is None:
            raise NotRegistered(f"{model} has no previous champion to roll back to")
        if demoted is not None:
            registry.bind_evidence(demoted, None)
            # First, so that it serves no client as a canary once it is not the champion.
            _clear_rollouts(registry, state, demoted)
        registry.move_alias(model, "champion", previous, expected=demoted)
        registry.move_alias(model, "previous", None, expected=previous)
        _clear_rollouts(registry, state, previous)
        if demoted is not None:
            registry.record(demoted, "rolled_back", f"{previous} is champion again")
    return Promotion(champion=previous, previous=demoted)


def set_canary(
    registry: Registry, model: str, number: int, percent: int, evidence: Path | None
) -> Rollout:
    """Serve `percent` of the clients, 1 to 99, with a version instead of the champion.

    Needs the same evidence as a promotion: the newest, passing, for exactly its bytes, against the
    current champion. A canary whose share does not grow needs none, because reducing exposure must
    be easy. Raises EvidenceRefused without evidence; RolloutRefused for the champion itself or
    where there is no champion; NotRegistered for an unknown version.
    """
    verified = None if evidence is None else _verified_evidence(registry, model, number, evidence)
    version = registry.version(model, number) if verified is None else verified.version
    with registry.lock(model):
        state = registry.state(model)
        _require_rollout_allowed(state, version)
        current_percent = state.canary_percent or 0 if state.canary == version else 0
        if verified is not None:
            verified.require_current(registry, state)
        elif percent > current_percent:
            raise EvidenceRefused(
                f"{version} of {model} would serve clients and has no passing evidence: run "
                f"`sharpline gate {model} --version {number} --on PICTURES` and give its evidence "
                "with --evidence"
            )
        changed = percent != current_percent
        if changed:
            registry.set_canary(model, version, percent)
            registry.record(version, "canary", f"{percent} percent")
    return Rollout(
        model=model, current=version, previous=state.canary, percent=percent, changed=changed
    )


def set_shadow(registry: Registry, model: str, number: int) -> Rollout:
    """Compare a version with the champion on live tiles.

    It serves no client, so it needs no evidence. Raises RolloutRefused for the champion itself or
    where there is no champion, NotRegistered for an unknown version.
    """
    version = registry.version(model, number)
    with registry.lock(model):
        state = registry.state(model)
        _require_rollout_allowed(state, version)
        changed = state.shadow != version
        if changed:
            registry.set_shadow(model, version)
            registry.record(version, "shadow")
    return Rollout(model=model, current=version, previous=state.shadow, percent=0, changed=changed)


def clear(registry: Registry, model: str, rollout: RolloutKind) -> Rollout:
    """End the canary or shadow of a model. Raises NotRegistered for an unknown model."""
    with registry.lock(model):
        state = registry.state(model)
        previous: Version | None = getattr(state, rollout)
        # Also where there is none: a tag may name a deleted version.
        registry.clear(model, rollout)
        if previous is not None:
            registry.record(previous, f"{rollout}_off")
    return Rollout(
        model=model, current=None, previous=previous, percent=0, changed=previous is not None
    )


def make_champion(registry: Registry, version: Version) -> bool:
    """Make a version the first champion of its model; False, changing nothing, if there is one."""
    with registry.lock(version.model):
        try:
            registry.move_alias(version.model, "champion", version, expected=None)
        except AliasMoved:
            return False
    return True


def make_challenger(registry: Registry, version: Version) -> bool:
    """Make a version the challenger; False, changing nothing, if it is the champion already."""
    with registry.lock(version.model):
        state = registry.state(version.model)
        if state.champion == version:
            return False
        registry.move_alias(version.model, "challenger", version, expected=state.challenger)
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class _VerifiedEvidence:
    """Passing evidence for a version whose bytes the registry still holds."""

    version: Version
    evidence: Evidence
    path: Path

    def require_current(self, registry: Registry, state: ReleaseState) -> None:
        """Raise EvidenceRefused where newer evidence or another champion exists; needs the lock."""
        model = self.version.model
        _require_newest(registry.version(model, self.version.number), self.path)
        if not _same_bundle(state.champion, self.evidence.champion):
            raise EvidenceRefused(
                f"the champion of {model} is {state.champion or 'none'} now, but the evidence "
                f"compares with {_describe(self.evidence.champion)}; run `sharpline gate {model}` "
                "again"
            )


def _verified_evidence(
    registry: Registry, model: str, number: int | None, evidence: Path
) -> _VerifiedEvidence:
    """Read the evidence and fetch and verify its bundle; raises as `promote` does."""
    path = evidence_path(evidence)
    content = read_evidence(path)
    version = registry.version(model, content.challenger.version if number is None else number)
    _require_match(content, version)
    with tempfile.TemporaryDirectory(prefix="sharpline-verify-") as scratch:
        registry.fetch(version, Path(scratch) / "bundle")
    return _VerifiedEvidence(version=version, evidence=content, path=path)


def _require_rollout_allowed(state: ReleaseState, version: Version) -> None:
    if state.champion is None:
        raise RolloutRefused(
            f"{state.model} has no champion, so it is not served; promote a version first"
        )
    if state.champion == version:
        raise RolloutRefused(f"{version} of {state.model} is the champion and serves all clients")


def _clear_rollouts(registry: Registry, state: ReleaseState, version: Version) -> None:
    """End the canary and the shadow where they are this version."""
    if state.canary == version:
        registry.clear(state.model, "canary")
    if state.shadow == version:
        registry.clear(state.model, "shadow")


def _require_match(evidence: Evidence, version: Version) -> None:
    """Raise EvidenceRefused unless the evidence passed and is for exactly this version's bytes."""
    if evidence.model != version.model:
        raise EvidenceRefused(f"this is evidence about {evidence.model}, not about {version.model}")
    if evidence.challenger.bundle_id != version.bundle_id:
        raise EvidenceRefused(
            f"the evidence is about the bundle {evidence.challenger.bundle_id[:12]}, but {version} "
            f"of {version.model} is {version.bundle_id[:12]}; run `sharpline gate` on this version"
        )
    if not evidence.passed:
        raise EvidenceRefused(
            f"the gate refused {version} of {version.model}: {'; '.join(evidence.reasons)}"
        )


def _require_newest(version: Version, path: Path) -> None:
    if version.evidence_sha256 != sha256_file(path):
        raise EvidenceRefused(
            f"{path} is not the gate's newest evidence for {version} of {version.model}: it was "
            "changed or is older; run `sharpline gate` again"
        )


def _same_bundle(version: Version | None, reference: VersionRef | None) -> bool:
    ours = None if version is None else version.bundle_id
    return ours == (None if reference is None else reference.bundle_id)


def _describe(reference: VersionRef | None) -> str:
    return "no champion" if reference is None else f"version {reference.version}"
