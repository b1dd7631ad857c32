"""What stands behind a name: the champion, and at times a canary and a shadow beside it.

A canary answers instead of the champion for a share of the clients, always the same ones; a shadow
answers nobody.
"""

import hashlib
from dataclasses import dataclass
from typing import Literal

from serving.models.loaded import LoadedModel

Role = Literal["champion", "canary", "shadow"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelVersion:
    """A model as it is served now, under the registry's version of it."""

    name: str
    version: str
    model: LoadedModel
    role: Role = "champion"

    @property
    def scale(self) -> int:
        return self.model.bundle.info.scale


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRoute:
    """What stands behind one name."""

    champion: ModelVersion
    canary: ModelVersion | None = None
    canary_percent: float = 0.0
    shadow: ModelVersion | None = None

    def versions(self) -> list[ModelVersion]:
        """Champion, canary and shadow, as far as there are such."""
        return [
            model_version
            for model_version in (self.champion, self.canary, self.shadow)
            if model_version is not None
        ]

    def for_client(self, client: str) -> ModelVersion:
        """The canary for its share of the clients, else the champion."""
        if self.canary is not None and in_percentage(
            self.canary_percent, f"{self.champion.name}:{client}"
        ):
            return self.canary
        return self.champion


def in_percentage(percent: float, key: str) -> bool:
    """Whether `key` is among the given share of all keys; the same ones stay in as it grows."""
    drawn = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big")
    return drawn < percent / 100 * 2**64
