"""A firing alert becomes an asset event, once per activation: the trigger that cannot storm."""

import asyncio
import hashlib
import json
import os
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx
from airflow.triggers.base import BaseEventTrigger, TriggerEvent

URL_VARIABLE = "SHARPLINE_PROMETHEUS_URL"
STORE_KEY = "retrained"
DAY_SECONDS = 24 * 3600.0
REMEMBER_SECONDS = 30 * DAY_SECONDS
LONGEST_BACKOFF_SECONDS = 300.0
REQUEST_TIMEOUT_SECONDS = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """One firing alert as Prometheus reports it."""

    labels: Mapping[str, str]
    value: str
    active_at: str  # RFC 3339

    @property
    def key(self) -> str:
        """This activation: a fingerprint of the labels and when it became active.

        Whole seconds, because that is how Prometheus restores the time after its own restart.
        """
        labels = json.dumps(dict(sorted(self.labels.items())))
        fingerprint = hashlib.sha256(labels.encode()).hexdigest()[:16]
        return f"{fingerprint}@{self.active_at[:19]}"

    def as_dict(self) -> dict[str, Any]:
        return {
            "key": self.key,
            "labels": dict(self.labels),
            "value": self.value,
            "activeAt": self.active_at,
        }


@dataclass(slots=True, kw_only=True)
class Ledger:
    """Which activations already asked for a retraining, and how soon the next may."""

    cooldown_seconds: float
    max_per_day: int
    asked: dict[str, float] = field(default_factory=dict)  # activation key: unix seconds

    def due(self, alerts: Iterable[Alert], now: float) -> list[Alert]:
        """The alerts that may ask now, entered as having asked.

        An activation that comes within the cooldown or beyond the day's budget is not lost: it
        asks later, if it is still firing then. Alerts that are due together ask together.
        """
        alerts = list(alerts)
        firing = {alert.key for alert in alerts}
        self.asked = {
            key: at
            for key, at in self.asked.items()
            if key in firing or now - at < REMEMBER_SECONDS
        }
        times = set(self.asked.values())
        if times and now - max(times) < self.cooldown_seconds:
            return []
        if sum(now - at < DAY_SECONDS for at in times) >= self.max_per_day:
            return []
        fresh = [alert for alert in alerts if alert.key not in self.asked]
        self.asked |= {alert.key: now for alert in fresh}
        return fresh


class PrometheusAlertTrigger(BaseEventTrigger):
    """Watches Prometheus for firing alerts that carry `action="retrain"`.

    Pending and resolved alerts never fire it. The ledger lives in Airflow's asset state store, so
    a restarted or moved triggerer does not ask twice. It is written before the event is handed
    over: a crash between the two loses one event (the alert still reaches people through
    Alertmanager) rather than starting a second training.
    """

    def __init__(
        self,
        *,
        url: str | None = None,
        action: str = "retrain",
        poll_seconds: float = 15.0,
        cooldown_seconds: float = 6 * 3600.0,
        max_per_day: int = 2,
    ) -> None:
        super().__init__()
        self.url = url
        self.action = action
        self.poll_seconds = poll_seconds
        self.cooldown_seconds = cooldown_seconds
        self.max_per_day = max_per_day

    def serialize(self) -> tuple[str, dict[str, Any]]:
        names = ("url", "action", "poll_seconds", "cooldown_seconds", "max_per_day")
        path = f"{type(self).__module__}.{type(self).__qualname__}"
        return path, {name: getattr(self, name) for name in names}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Yield one event for each set of alerts that is due; the address may come from the
        environment of the triggerer."""
        url = self.url or os.environ.get(URL_VARIABLE)
        if not url:
            self.log.info("%s is not set: there are no alerts to watch", URL_VARIABLE)
            await asyncio.Event().wait()
            return
        ledger = Ledger(
            cooldown_seconds=self.cooldown_seconds,
            max_per_day=self.max_per_day,
            asked=await self._remembered(),
        )
        async with httpx.AsyncClient(base_url=url, timeout=REQUEST_TIMEOUT_SECONDS) as client:
            async for alerts in self._polls(client):
                due = ledger.due(alerts, time.time())
                if due:
                    await self._remember(ledger)
                    yield TriggerEvent({"alerts": [alert.as_dict() for alert in due]})

    async def _polls(self, client: httpx.AsyncClient) -> AsyncIterator[list[Alert]]:
        wait_seconds = self.poll_seconds
        while True:
            try:
                alerts = await firing_alerts(client, self.action)
            except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
                longer = min(2 * wait_seconds, LONGEST_BACKOFF_SECONDS)
                wait_seconds = max(self.poll_seconds, longer)
                self.log.warning(
                    "no answer from Prometheus at %s (%s); asking again in %.0f s",
                    client.base_url,
                    error,
                    wait_seconds,
                )
            else:
                wait_seconds = self.poll_seconds
                yield alerts
            await asyncio.sleep(wait_seconds)

    async def _remembered(self) -> dict[str, float]:
        if self.asset_state_store is None:
            return {}
        stored = await self.asset_state_store.aget(STORE_KEY, {})
        return dict(stored)  # pyright: ignore  the store holds what _remember wrote

    async def _remember(self, ledger: Ledger) -> None:
        if self.asset_state_store is not None:
            await self.asset_state_store.aset(STORE_KEY, dict(ledger.asked))


async def firing_alerts(client: httpx.AsyncClient, action: str) -> list[Alert]:
    """The alerts that fire right now with this `action` label; raises what httpx raises."""
    response = await client.get("/api/v1/alerts")
    response.raise_for_status()
    return [
        Alert(labels=found["labels"], value=found["value"], active_at=found["activeAt"])
        for found in response.json()["data"]["alerts"]
        if found["state"] == "firing" and found["labels"].get("action") == action
    ]
