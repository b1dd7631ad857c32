"""What the registry holds: versions of models, who stands where, and what can go wrong."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from superres.common.errors import SharplineError

Alias = Literal["champion", "challenger", "previous"]
RolloutKind = Literal["canary", "shadow"]  # what stands beside a champion, as a tag of the model

BUNDLE_TAG, EVIDENCE_TAG = "bundle_id", "evidence_sha256"
CANARY_TAG, CANARY_PERCENT_TAG, SHADOW_TAG = "canary", "canary_percent", "shadow"
BUNDLE_ID = re.compile(r"[0-9a-f]{64}")


class RegistryUnavailable(SharplineError):
    """The registry does not answer, or not in a usable way; trying again later may help."""


class NotRegistered(SharplineError):
    """The registry has no such model, version or alias."""


class AliasMoved(SharplineError):
    """Somebody else moved an alias since it was last read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """One version of a registered model and the bytes it stands for.

    `evidence_sha256` is that of the newest evidence.json which the gate wrote for this version; it
    may change, so it takes no part in comparisons.
    """

    model: str
    number: int
    bundle_id: str
    run_id: str
    evidence_sha256: str | None = field(compare=False)

    def __str__(self) -> str:
        return f"version {self.number}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseState:
    """Which versions of a model stand where; None where nobody does.

    `canary_percent` is the share of requests in [0, 100] that goes to the canary.
    """

    model: str
    champion: Version | None = None
    challenger: Version | None = None
    previous: Version | None = None
    canary: Version | None = None
    canary_percent: int | None = None
    shadow: Version | None = None


def version_of(entity: Any) -> Version:
    """MLflow's model version as ours. Raises NotRegistered where it stands for no bundle."""
    tags = texts(entity.tags)
    bundle_id = tags.get(BUNDLE_TAG, "")
    # The id becomes a folder name, so nothing but a SHA-256 may pass.
    if not BUNDLE_ID.fullmatch(bundle_id):
        raise NotRegistered(
            f"version {entity.version} of {entity.name} names no bundle; enter one with "
            "`sharpline register`"
        )
    return Version(
        model=str(entity.name),
        number=int(str(entity.version)),
        bundle_id=bundle_id,
        run_id=str(entity.run_id),
        evidence_sha256=tags.get(EVIDENCE_TAG) or None,
    )


def numbers_of(entity: Any) -> dict[str, int]:
    """The version numbers that a registered model's aliases and tags name, and the percentage.

    Tags that hold no number are as good as absent: a person may have typed them.
    """
    tags = texts(entity.tags)
    named = {
        name: tags[name] for name in (CANARY_TAG, CANARY_PERCENT_TAG, SHADOW_TAG) if name in tags
    }
    return {
        name: int(text)
        for name, text in {**named, **texts(entity.aliases)}.items()
        if text.isdecimal()
    }


def texts(pairs: Mapping[Any, Any] | None) -> dict[str, str]:
    """Tags or aliases with both sides as text."""
    return {str(key): str(value) for key, value in (pairs or {}).items()}
