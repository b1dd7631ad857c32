"""Promotion and its way back, each under the model's lock."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

from release.evidence import Contender, Evidence, evidence_path, read_evidence
from release.registry import Registry
from release.versions import AliasMoved, NotRegistered, Version
from superres.errors import SharplineError
from superres.files import sha256_file


class NotProven(SharplineError):
    """The evidence does not allow this promotion."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Promotion:
    """Who is champion now and who was before; `changed` is False where it was so already."""

    champion: Version
    before: Version | None
    changed: bool = True


def promote(registry: Registry, model: str, number: int | None, evidence: Path) -> Promotion:
    """Make the version that `evidence` speaks of the champion, and the champion `previous`.

    Raises NotProven where the evidence did not pass, speaks of another model, version or bundle, is
    not the newest that the gate wrote for this version, or compares with a champion of the past;
    BrokenBundle where the registry no longer holds the bytes that were judged.
    """
    path = evidence_path(evidence)
    found = read_evidence(path)
    version = registry.version(model, found.challenger.version if number is None else number)
    _require_about(found, version)
    with tempfile.TemporaryDirectory(prefix="sharpline-promote-") as scratch:
        registry.fetch(version, Path(scratch) / "bundle")
    with registry.lock(model):
        standing = registry.standing(model)
        if standing.champion == version and _same(standing.previous, found.champion):
            # The same promotion once more, by a step that was tried again: it is done.
            return Promotion(champion=version, before=standing.previous, changed=False)
        _require_newest(registry.version(model, version.number), path)
        if not _same(standing.champion, found.champion):
            raise NotProven(
                f"the champion of {model} is {standing.champion or 'nobody'} now, but the evidence "
                f"compares with {_described(found.champion)}; run `sharpline gate {model}` again"
            )
        # In this order a crash between the two leaves the champion as it was.
        registry.move_alias(model, "previous", standing.champion, expected=standing.previous)
        registry.move_alias(model, "champion", version, expected=standing.champion)
        if standing.challenger == version:
            registry.move_alias(model, "challenger", None, expected=version)
    return Promotion(champion=version, before=standing.champion)


def rollback(registry: Registry, model: str) -> Promotion:
    """Make the previous champion champion again; nobody is `previous` then.

    The version that falls loses its evidence: to come back it must pass the gate anew, so that a
    step tried again does not undo what a person decided. Raises NotRegistered where there is no
    previous champion.
    """
    with registry.lock(model):
        standing = registry.standing(model)
        previous, fallen = standing.previous, standing.champion
        if previous is None:
            raise NotRegistered(f"{model} has no previous champion to go back to")
        if fallen is not None:
            registry.bind_evidence(fallen, None)
        registry.move_alias(model, "champion", previous, expected=fallen)
        registry.move_alias(model, "previous", None, expected=previous)
    return Promotion(champion=previous, before=fallen)


def crown(registry: Registry, version: Version) -> bool:
    """Make a version the first champion of its model; False, changing nothing, if there is one."""
    with registry.lock(version.model):
        try:
            registry.move_alias(version.model, "champion", version, expected=None)
        except AliasMoved:
            return False
    return True


def challenge(registry: Registry, version: Version) -> bool:
    """Make a version the challenger; False, changing nothing, if it is the champion already."""
    with registry.lock(version.model):
        standing = registry.standing(version.model)
        if standing.champion == version:
            return False
        registry.move_alias(version.model, "challenger", version, expected=standing.challenger)
    return True


def _require_about(evidence: Evidence, version: Version) -> None:
    """Raise NotProven unless the evidence passed and speaks of exactly this version's bytes."""
    if evidence.model != version.model:
        raise NotProven(f"this is evidence about {evidence.model}, not about {version.model}")
    if evidence.challenger.bundle_id != version.bundle_id:
        raise NotProven(
            f"the evidence is about the bundle {evidence.challenger.bundle_id[:12]}, but {version} "
            f"of {version.model} is {version.bundle_id[:12]}; run `sharpline gate` on this version"
        )
    if not evidence.passed:
        raise NotProven(
            f"the gate refused {version} of {version.model}: {'; '.join(evidence.reasons)}"
        )


def _require_newest(version: Version, path: Path) -> None:
    if version.evidence_sha256 != sha256_file(path):
        raise NotProven(
            f"{path} is not what the gate last found about {version} of {version.model}: it was "
            "changed, or is older than that; run `sharpline gate` again"
        )


def _same(version: Version | None, contender: Contender | None) -> bool:
    ours = None if version is None else version.bundle_id
    return ours == (None if contender is None else contender.bundle_id)


def _described(contender: Contender | None) -> str:
    return "nobody" if contender is None else f"version {contender.version}"
