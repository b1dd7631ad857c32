"""Rate limiting of triggers: each cause fires once, within a cooldown and a daily limit."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

DAY_SECONDS = 24 * 3600.0
RETENTION_SECONDS = 30 * DAY_SECONDS


class TriggerCause(Protocol):
    """A cause of a run: an activation of an alert, or the content of a folder."""

    @property
    def key(self) -> str: ...


Cause = TypeVar("Cause", bound=TriggerCause)


@dataclass(slots=True, kw_only=True)
class CooldownLedger:
    """The causes that have triggered a run, and when."""

    cooldown_seconds: float
    max_per_day: int
    triggered_at: dict[str, float] = field(default_factory=dict)  # key: unix seconds

    def due(self, causes: Iterable[Cause], now: float) -> list[Cause]:
        """The causes that trigger a run now, recorded as triggered.

        Causes within the cooldown or beyond the daily limit are not lost: they are due later, if
        they still exist then. Causes that are due together trigger one run.
        """
        causes = list(causes)
        current = {cause.key for cause in causes}
        self.triggered_at = {
            key: at
            for key, at in self.triggered_at.items()
            if key in current or now - at < RETENTION_SECONDS
        }
        times = set(self.triggered_at.values())
        if times and now - max(times) < self.cooldown_seconds:
            return []
        if sum(now - at < DAY_SECONDS for at in times) >= self.max_per_day:
            return []
        due = [cause for cause in causes if cause.key not in self.triggered_at]
        self.triggered_at |= {cause.key: now for cause in due}
        return due
