"""Triggers that turn a firing alert or new pictures in a folder into one asset event."""

import asyncio
import hashlib
import json
import os
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import httpx
from airflow.triggers.base import BaseEventTrigger, TriggerEvent

from pipelines.folders import FolderContent, SettledContent, watched_contents
from pipelines.ledger import Cause, CooldownLedger
from superres.common.environment import state_folder

URL_VARIABLE = "SHARPLINE_PROMETHEUS_URL"
MAX_BACKOFF_SECONDS = 300.0
REQUEST_TIMEOUT_SECONDS = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """One firing alert as Prometheus reports it."""

    labels: Mapping[str, str]
    value: str
    active_at: str  # RFC 3339

    @property
    def key(self) -> str:
        """The id of this activation: a fingerprint of the labels, and when it became active.

        In whole seconds, as Prometheus restores the time after a restart.
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


class CooldownTrigger(BaseEventTrigger):
    """Fires once per key, within a cooldown and a daily limit.

    The ledger is kept in Airflow's asset state store, so a restarted or moved triggerer does not
    fire twice. It is written before the event is yielded: a crash in between loses one event
    rather than starting a second run.
    """

    store_key: ClassVar[str]
    options: ClassVar[tuple[str, ...]]

    def __init__(self, *, cooldown_seconds: float, max_per_day: int) -> None:
        super().__init__()
        self.cooldown_seconds = cooldown_seconds
        self.max_per_day = max_per_day

    def serialize(self) -> tuple[str, dict[str, Any]]:
        names = (*self.options, "cooldown_seconds", "max_per_day")
        path = f"{type(self).__module__}.{type(self).__qualname__}"
        return path, {name: getattr(self, name) for name in names}

    async def due(self, polls: AsyncIterator[list[Cause]]) -> AsyncIterator[list[Cause]]:
        """Yield the causes of each poll that are due, where there are any."""
        ledger = CooldownLedger(
            cooldown_seconds=self.cooldown_seconds,
            max_per_day=self.max_per_day,
            triggered_at=await self._load_ledger(),
        )
        async for causes in polls:
            due = ledger.due(causes, time.time())
            if due:
                await self._store_ledger(ledger)
                yield due

    async def _load_ledger(self) -> dict[str, float]:
        if self.asset_state_store is None:
            return {}
        stored = await self.asset_state_store.aget(self.store_key, {})
        return dict(stored)  # pyright: ignore  the store holds what _store_ledger wrote

    async def _store_ledger(self, ledger: CooldownLedger) -> None:
        if self.asset_state_store is not None:
            await self.asset_state_store.aset(self.store_key, dict(ledger.triggered_at))


class PrometheusAlertTrigger(CooldownTrigger):
    """Watches Prometheus for firing alerts that carry `action="retrain"`.

    Pending and resolved alerts never fire it. An alert whose event was lost in a crash still
    notifies people through Alertmanager.
    """

    store_key = "retrained"
    options = ("url", "action", "poll_seconds")

    def __init__(
        self,
        *,
        url: str | None = None,
        action: str = "retrain",
        poll_seconds: float = 15.0,
        cooldown_seconds: float = 6 * 3600.0,
        max_per_day: int = 2,
    ) -> None:
        super().__init__(cooldown_seconds=cooldown_seconds, max_per_day=max_per_day)
        self.url = url
        self.action = action
        self.poll_seconds = poll_seconds

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Yield one event for each set of alerts that is due; the URL may come from the
        environment of the triggerer."""
        url = self.url or os.environ.get(URL_VARIABLE)
        if not url:
            self.log.info("%s is not set: no alerts are watched", URL_VARIABLE)
            await asyncio.Event().wait()
            return
        async with httpx.AsyncClient(base_url=url, timeout=REQUEST_TIMEOUT_SECONDS) as client:
            async for alerts in self.due(self._polls(client)):
                yield TriggerEvent({"alerts": [alert.as_dict() for alert in alerts]})

    async def _polls(self, client: httpx.AsyncClient) -> AsyncIterator[list[Alert]]:
        wait_seconds = self.poll_seconds
        while True:
            try:
                alerts = await firing_alerts(client, self.action)
            except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
                longer = min(2 * wait_seconds, MAX_BACKOFF_SECONDS)
                wait_seconds = max(self.poll_seconds, longer)
                self.log.warning(
                    "no response from Prometheus at %s (%s); retrying in %.0f s",
                    client.base_url,
                    error,
                    wait_seconds,
                )
            else:
                wait_seconds = self.poll_seconds
                yield alerts
            await asyncio.sleep(wait_seconds)


class FolderTrigger(CooldownTrigger):
    """Watches the folders of sources that were added with `--watch` for new pictures.

    It fires once per settled content: a folder into which pictures are still being copied waits
    until its listing has not changed for `settle_seconds`. The initial content of a folder counts
    too.
    """

    store_key = "built"
    options = ("state", "poll_seconds", "settle_seconds")

    def __init__(
        self,
        *,
        state: str | None = None,
        poll_seconds: float = 10.0,
        settle_seconds: float = 30.0,
        cooldown_seconds: float = 3600.0,
        max_per_day: int = 4,
    ) -> None:
        super().__init__(cooldown_seconds=cooldown_seconds, max_per_day=max_per_day)
        self.state = state
        self.poll_seconds = poll_seconds
        self.settle_seconds = settle_seconds

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Yield one event for the folders that are due; the default state is the triggerer's."""
        async for contents in self.due(self._polls()):
            yield TriggerEvent({"folders": [content.as_dict() for content in contents]})

    async def _polls(self) -> AsyncIterator[list[FolderContent]]:
        state = Path(self.state) if self.state else state_folder()
        settling = SettledContent(settle_seconds=self.settle_seconds)
        while True:
            contents = await asyncio.to_thread(watched_contents, state)
            yield settling.settled(contents, time.monotonic())
            await asyncio.sleep(self.poll_seconds)


async def firing_alerts(client: httpx.AsyncClient, action: str) -> list[Alert]:
    """The firing alerts with this `action` label; raises httpx errors."""
    response = await client.get("/api/v1/alerts")
    response.raise_for_status()
    return [
        Alert(labels=alert["labels"], value=alert["value"], active_at=alert["activeAt"])
        for alert in response.json()["data"]["alerts"]
        if alert["state"] == "firing" and alert["labels"].get("action") == action
    ]
