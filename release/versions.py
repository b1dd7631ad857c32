"""Types of the registry: model versions, the release state of a model, errors."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from superres.common.errors import SharplineError
from superres.common.mlflow_client import BUNDLE_ID, BUNDLE_TAG

Alias = Literal["champion", "challenger", "previous"]
RolloutKind = Literal["canary", "shadow"]  # stored as tags of the model, not as aliases

EVIDENCE_TAG = "evidence_sha256"
CANARY_TAG, CANARY_PERCENT_TAG, SHADOW_TAG = "canary", "canary_percent", "shadow"


class RegistryUnavailable(SharplineError):
    """The registry does not respond, or returns an error; a retry may succeed."""


class NotRegistered(SharplineError):
    """The registry has no such model, version or alias."""


class AliasMoved(SharplineError):
    """Another client moved an alias since it was last read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """One version of a registered model and its bundle id.

    `evidence_sha256` is that of the newest evidence.json that the gate wrote for this version; it
    may change, so comparisons ignore it.
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
    """The version of each role of a model; None where there is none.

    `canary_percent` is the share of clients in [0, 99] that the canary serves.
    """

    model: str
    champion: Version | None = None
    challenger: Version | None = None
    previous: Version | None = None
    canary: Version | None = None
    canary_percent: int | None = None
    shadow: Version | None = None


def version_of(entity: Any) -> Version:
    """Convert MLflow's model version. Raises NotRegistered where it has no bundle id."""
    tags = to_strings(entity.tags)
    bundle_id = tags.get(BUNDLE_TAG, "")
    # The id becomes a folder name, so only a SHA-256 is accepted.
    if not BUNDLE_ID.fullmatch(bundle_id):
        raise NotRegistered(
            f"version {entity.version} of {entity.name} has no bundle id; register a bundle with "
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
    """The version numbers in a registered model's aliases and tags, and the canary percentage.

    Non-numeric tags are ignored: a user may have typed them.
    """
    tags = to_strings(entity.tags)
    rollouts = {
        name: tags[name] for name in (CANARY_TAG, CANARY_PERCENT_TAG, SHADOW_TAG) if name in tags
    }
    return {
        name: int(text)
        for name, text in {**rollouts, **to_strings(entity.aliases)}.items()
        if text.isdecimal()
    }


def to_strings(pairs: Mapping[Any, Any] | None) -> dict[str, str]:
    """Tags or aliases with keys and values as strings."""
    return {str(key): str(value) for key, value in (pairs or {}).items()}
