"""The memory of a trigger that cannot storm: what asked already, and how soon the next may."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

DAY_SECONDS = 24 * 3600.0
REMEMBER_SECONDS = 30 * DAY_SECONDS


class TriggerCause(Protocol):
    """What may ask for a run, once: an activation of an alert, the content of a folder."""

    @property
    def key(self) -> str: ...


A = TypeVar("A", bound=TriggerCause)


@dataclass(slots=True, kw_only=True)
class CooldownLedger:
    """Which keys already asked for a run, and how soon the next may."""

    cooldown_seconds: float
    max_per_day: int
    asked: dict[str, float] = field(default_factory=dict)  # key: unix seconds

    def due(self, causes: Iterable[A], now: float) -> list[A]:
        """Those that may ask now, entered as having asked.

        What comes within the cooldown or beyond the day's budget is not lost: it asks later, if
        it still stands then. What is due together asks together.
        """
        causes = list(causes)
        current = {one.key for one in causes}
        self.asked = {
            key: at
            for key, at in self.asked.items()
            if key in current or now - at < REMEMBER_SECONDS
        }
        times = set(self.asked.values())
        if times and now - max(times) < self.cooldown_seconds:
            return []
        if sum(now - at < DAY_SECONDS for at in times) >= self.max_per_day:
            return []
        fresh = [one for one in causes if one.key not in self.asked]
        self.asked |= {one.key: now for one in fresh}
        return fresh
