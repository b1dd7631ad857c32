"""The versions of a served model: the champion, and during a rollout a canary and a shadow.

A canary serves a percentage of the clients, always the same ones; a shadow serves no requests.
"""

import hashlib
from dataclasses import dataclass
from typing import Literal

from serving.models.loaded import LoadedModel

Role = Literal["champion", "canary", "shadow"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelVersion:
    """A loaded model with its registry version and role."""

    name: str
    version: str
    model: LoadedModel
    role: Role = "champion"

    @property
    def scale(self) -> int:
        return self.model.bundle.info.scale


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRoute:
    """The versions of one model name."""

    champion: ModelVersion
    canary: ModelVersion | None = None
    canary_percent: float = 0.0
    shadow: ModelVersion | None = None

    def versions(self) -> list[ModelVersion]:
        """Champion, canary and shadow, those that exist."""
        return [
            model_version
            for model_version in (self.champion, self.canary, self.shadow)
            if model_version is not None
        ]

    def for_client(self, client: str) -> ModelVersion:
        """The canary for its percentage of the clients, else the champion."""
        if self.canary is not None and in_percentage(
            self.canary_percent, f"{self.champion.name}:{client}"
        ):
            return self.canary
        return self.champion


def in_percentage(percent: float, key: str) -> bool:
    """Whether the hash of `key` is in that percentage; keys stay in as the percentage grows."""
    hashed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big")
    return hashed < percent / 100 * 2**64
