"""Promotion, its way back, and who stands beside the champion, each under the model's lock."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

from release.evidence import Contender, Evidence, evidence_path, read_evidence
from release.registry import Registry
from release.versions import AliasMoved, NotRegistered, ReleaseState, RolloutKind, Version
from superres.common.errors import SharplineError
from superres.common.files import sha256_file


class EvidenceMissing(SharplineError):
    """The evidence does not let this version answer clients, or there is none."""


class RolloutRefused(SharplineError):
    """The version cannot stand beside the champion."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Promotion:
    """Who is champion now and who was before; `changed` is False where it was so already."""

    champion: Version
    before: Version | None
    changed: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """Who is canary or shadow now and who was before; None is nobody.

    `percent` is the share of clients in [0, 99] that `now` answers, 0 unless it is the canary.
    """

    model: str
    now: Version | None
    before: Version | None
    percent: int
    changed: bool


def promote(registry: Registry, model: str, number: int | None, evidence: Path) -> Promotion:
    """Make the version that `evidence` speaks of the champion, and the champion `previous`.

    Raises NotProven where the evidence did not pass, speaks of another model, version or bundle, is
    not the newest that the gate wrote for this version, or compares with a champion of the past;
    BrokenBundle where the registry no longer holds the bytes that were judged.
    """
    verified = _verified_evidence(registry, model, number, evidence)
    version, compared = verified.version, verified.evidence.champion
    with registry.lock(model):
        state = registry.state(model)
        if state.champion == version and _same(state.previous, compared):
            # The same promotion once more, by a step that was tried again: it is done.
            _withdraw(registry, state, version)
            return Promotion(champion=version, before=state.previous, changed=False)
        verified.require_current(registry, state)
        # In this order a crash between the two leaves the champion as it was.
        registry.move_alias(model, "previous", state.champion, expected=state.previous)
        registry.move_alias(model, "champion", version, expected=state.champion)
        if state.challenger == version:
            registry.move_alias(model, "challenger", None, expected=version)
        # Last, so that the clients of a canary that is promoted never fall back in between.
        _withdraw(registry, state, version)
        registry.record(version, "promoted")
    return Promotion(champion=version, before=state.champion)


def rollback(registry: Registry, model: str) -> Promotion:
    """Make the previous champion champion again; nobody is `previous` then.

    The version that falls loses its evidence: to come back it must pass the gate anew, so that a
    step tried again does not undo what a person decided. Raises NotRegistered where there is no
    previous champion.
    """
    with registry.lock(model):
        state = registry.state(model)
        previous, fallen = state.previous, state.champion
        if previous is None:
            raise NotRegistered(f"{model} has no previous champion to go back to")
        if fallen is not None:
            registry.bind_evidence(fallen, None)
            # First, so that it answers nobody from the moment on that it is no champion.
            _withdraw(registry, state, fallen)
        registry.move_alias(model, "champion", previous, expected=fallen)
        registry.move_alias(model, "previous", None, expected=previous)
        _withdraw(registry, state, previous)
        if fallen is not None:
            registry.record(fallen, "rolled_back", f"{previous} is champion again")
    return Promotion(champion=previous, before=fallen)


def set_canary(
    registry: Registry, model: str, number: int, percent: int, evidence: Path | None
) -> Rollout:
    """Let a version answer `percent` of the clients, 1 to 99, in the champion's place.

    It answers clients, so it needs what a promotion needs: the newest passing evidence for its very
    bytes, against the champion of now. Only a canary whose share does not grow needs none: to
    expose fewer clients must be easy. Raises NotProven without; NotBeside for the champion itself
    or where there is no champion; NotRegistered for a version that does not exist.
    """
    verified = None if evidence is None else _verified_evidence(registry, model, number, evidence)
    version = registry.version(model, number) if verified is None else verified.version
    with registry.lock(model):
        state = registry.state(model)
        _require_rollout_allowed(state, version)
        held = state.canary_percent or 0 if state.canary == version else 0
        if verified is not None:
            verified.require_current(registry, state)
        elif percent > held:
            raise EvidenceMissing(
                f"{version} of {model} would answer clients, and there is no proof that it may: "
                f"run `sharpline gate {model} --version {number} --on PICTURES` and name what it "
                "wrote with --evidence"
            )
        changed = percent != held
        if changed:
            registry.set_canary(model, version, percent)
            registry.record(version, "canary", f"{percent} percent")
    return Rollout(model=model, now=version, before=state.canary, percent=percent, changed=changed)


def set_shadow(registry: Registry, model: str, number: int) -> Rollout:
    """Have a version compared with the champion on live tiles.

    It answers nobody, so it needs no proof. Raises NotBeside for the champion itself or where there
    is no champion, NotRegistered for a version that does not exist.
    """
    version = registry.version(model, number)
    with registry.lock(model):
        state = registry.state(model)
        _require_rollout_allowed(state, version)
        changed = state.shadow != version
        if changed:
            registry.set_shadow(model, version)
            registry.record(version, "shadow")
    return Rollout(model=model, now=version, before=state.shadow, percent=0, changed=changed)


def clear(registry: Registry, model: str, rollout: RolloutKind) -> Rollout:
    """Let nobody be canary, or shadow, of a model. Raises NotRegistered for an unknown model."""
    with registry.lock(model):
        state = registry.state(model)
        before: Version | None = getattr(state, rollout)
        # Also where nobody is: a tag may name a version that is gone.
        registry.clear(model, rollout)
        if before is not None:
            registry.record(before, f"{rollout}_off")
    return Rollout(model=model, now=None, before=before, percent=0, changed=before is not None)


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
    """Passing evidence about a version, whose bytes the registry still holds."""

    version: Version
    evidence: Evidence
    path: Path

    def require_current(self, registry: Registry, state: ReleaseState) -> None:
        """Raise NotProven where the gate or the champion has moved on; under the lock."""
        model = self.version.model
        _require_newest(registry.version(model, self.version.number), self.path)
        if not _same(state.champion, self.evidence.champion):
            raise EvidenceMissing(
                f"the champion of {model} is {state.champion or 'nobody'} now, but the evidence "
                f"compares with {_described(self.evidence.champion)}; run `sharpline gate {model}` "
                "again"
            )


def _verified_evidence(
    registry: Registry, model: str, number: int | None, evidence: Path
) -> _VerifiedEvidence:
    """Read the evidence and fetch the bytes that it speaks of; raises as `promote` does."""
    path = evidence_path(evidence)
    found = read_evidence(path)
    version = registry.version(model, found.challenger.version if number is None else number)
    _require_about(found, version)
    with tempfile.TemporaryDirectory(prefix="sharpline-proof-") as scratch:
        registry.fetch(version, Path(scratch) / "bundle")
    return _VerifiedEvidence(version=version, evidence=found, path=path)


def _require_rollout_allowed(state: ReleaseState, version: Version) -> None:
    if state.champion is None:
        raise RolloutRefused(
            f"{state.model} has no champion to stand beside, so nothing of it is served; "
            "promote a version first"
        )
    if state.champion == version:
        raise RolloutRefused(f"{version} of {state.model} is the champion: it answers everybody")


def _withdraw(registry: Registry, state: ReleaseState, version: Version) -> None:
    """Take a version from beside the champion, where it stands there."""
    if state.canary == version:
        registry.clear(state.model, "canary")
    if state.shadow == version:
        registry.clear(state.model, "shadow")


def _require_about(evidence: Evidence, version: Version) -> None:
    """Raise NotProven unless the evidence passed and speaks of exactly this version's bytes."""
    if evidence.model != version.model:
        raise EvidenceMissing(f"this is evidence about {evidence.model}, not about {version.model}")
    if evidence.challenger.bundle_id != version.bundle_id:
        raise EvidenceMissing(
            f"the evidence is about the bundle {evidence.challenger.bundle_id[:12]}, but {version} "
            f"of {version.model} is {version.bundle_id[:12]}; run `sharpline gate` on this version"
        )
    if not evidence.passed:
        raise EvidenceMissing(
            f"the gate refused {version} of {version.model}: {'; '.join(evidence.reasons)}"
        )


def _require_newest(version: Version, path: Path) -> None:
    if version.evidence_sha256 != sha256_file(path):
        raise EvidenceMissing(
            f"{path} is not what the gate last found about {version} of {version.model}: it was "
            "changed, or is older than that; run `sharpline gate` again"
        )


def _same(version: Version | None, contender: Contender | None) -> bool:
    ours = None if version is None else version.bundle_id
    return ours == (None if contender is None else contender.bundle_id)


def _described(contender: Contender | None) -> str:
    return "nobody" if contender is None else f"version {contender.version}"
