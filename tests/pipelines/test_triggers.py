"""Triggers for firing alerts and settled folders: fire once, cooldown, daily limit, restarts."""

import asyncio
import importlib
import json
import time
from types import SimpleNamespace

import pytest

HOUR = 3600.0


@pytest.fixture(scope="module")
def triggers(airflow_home):
    return importlib.import_module("pipelines.triggers")


def reported(
    name="SharplineInputDrift", *, state="firing", at="2026-11-21T03:00:00.123Z", **labels
):
    return {
        "labels": {"alertname": name, "action": "retrain", "feature": "noise"} | labels,
        "annotations": {},
        "state": state,
        "activeAt": at,
        "value": "1.5e+00",
    }


class FakeStateStore:
    """A fake of Airflow's asset state store, which keeps JSON values."""

    def __init__(self):
        self.values = {}

    async def aget(self, key, default=None):
        return json.loads(self.values[key]) if key in self.values else default

    async def aset(self, key, value):
        self.values[key] = json.dumps(value)


class RunningTrigger:
    """A running trigger whose events can be awaited, as a triggerer does."""

    def __init__(self, trigger, store):
        trigger.asset_state_store = store
        self._events = trigger.run()
        self._next = None  # the task that waits for the next event

    def _await_next(self):
        if self._next is None:
            self._next = asyncio.ensure_future(anext(self._events))
        return self._next

    async def event(self, seconds=10.0):
        event = await asyncio.wait_for(self._await_next(), seconds)
        self._next = None
        return event.payload

    async def expect_no_event(self, prometheus, polls=4):
        """Check that no event is fired during `polls` more polls; the trigger runs on."""
        waiting = self._await_next()
        until = prometheus.polls + polls
        deadline = time.monotonic() + 10
        while prometheus.polls < until:
            assert time.monotonic() < deadline, "the trigger stopped polling"
            assert not waiting.done(), f"fired: {waiting.result()}"
            await asyncio.sleep(0.005)


def watch(triggers, prometheus, store=None, **options):
    options = {"poll_seconds": 0.02, "cooldown_seconds": 0.0, "max_per_day": 100} | options
    trigger = triggers.PrometheusAlertTrigger(url=prometheus.url, **options)
    return RunningTrigger(trigger, store or FakeStateStore())


def test_a_firing_alert_fires_once_with_labels_value_and_time(triggers, prometheus):
    async def scenario():
        prometheus.alerts = [reported()]
        store = FakeStateStore()
        payload = await watch(triggers, prometheus, store).event()
        await watch(triggers, prometheus, store).expect_no_event(prometheus)
        return payload

    [alert] = asyncio.run(scenario())["alerts"]
    assert alert["labels"]["feature"] == "noise"
    assert alert["value"] == "1.5e+00"
    assert alert["activeAt"] == "2026-11-21T03:00:00.123Z"
    assert alert["key"].endswith("@2026-11-21T03:00:00")


def test_the_same_trigger_does_not_repeat_itself(triggers, prometheus):
    async def scenario():
        prometheus.alerts = [reported()]
        running = watch(triggers, prometheus)
        await running.event()
        await running.expect_no_event(prometheus)

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "alert",
    [
        reported(state="pending"),
        reported(state="inactive"),
        reported(action="page"),
        {**reported(), "labels": {"alertname": "SharplineDown"}},
    ],
)
def test_alerts_that_do_not_fire_or_retrain_are_ignored(triggers, prometheus, alert):
    async def scenario():
        prometheus.alerts = [alert]
        running = watch(triggers, prometheus)
        await running.expect_no_event(prometheus)
        prometheus.alerts = [alert, reported(feature="blur")]
        return await running.event()

    [fired] = asyncio.run(scenario())["alerts"]
    assert fired["labels"]["feature"] == "blur"


def test_a_new_activation_of_the_same_alert_fires_again(triggers, prometheus):
    async def scenario():
        prometheus.alerts = [reported()]
        running = watch(triggers, prometheus)
        first = await running.event()
        prometheus.alerts = [reported(at="2026-11-21T09:00:00Z")]
        return first, await running.event()

    first, second = asyncio.run(scenario())
    assert first["alerts"][0]["key"] != second["alerts"][0]["key"]


def test_an_activation_restored_by_prometheus_does_not_fire_again(triggers, prometheus):
    async def scenario():
        prometheus.alerts = [reported(at="2026-11-21T03:00:00.987Z")]
        running = watch(triggers, prometheus)
        await running.event()
        prometheus.alerts = [reported(at="2026-11-21T03:00:00Z")]  # Prometheus restarted
        await running.expect_no_event(prometheus)

    asyncio.run(scenario())


def test_alerts_that_fire_together_make_one_event(triggers, prometheus):
    prometheus.alerts = [reported(feature="noise"), reported(feature="blur")]
    payload = asyncio.run(watch(triggers, prometheus).event())
    assert {alert["labels"]["feature"] for alert in payload["alerts"]} == {"noise", "blur"}


@pytest.mark.parametrize(
    "outage",
    [
        {"unavailable": True},
        {"cuts": True},
        {"alerts": [{"state": "firing"}]},
        {"alerts": [None]},
        {"alerts": None},
    ],
)
def test_the_same_trigger_fires_after_an_outage_of_prometheus(triggers, prometheus, outage):
    async def scenario():
        prometheus.alerts = [reported()]
        running = watch(triggers, prometheus)
        await running.event()
        normal = {name: getattr(prometheus, name) for name in outage}
        vars(prometheus).update({"alerts": [reported(at="2026-11-21T09:00:00Z")]} | outage)
        await running.expect_no_event(prometheus, polls=3)
        vars(prometheus).update(normal)
        prometheus.alerts = [reported(at="2026-11-21T15:00:00Z")]
        return await running.event()

    [fired] = asyncio.run(scenario())["alerts"]
    assert fired["activeAt"] == "2026-11-21T15:00:00Z"


def test_the_url_may_come_from_the_environment(triggers, prometheus, monkeypatch):
    monkeypatch.setenv(triggers.URL_VARIABLE, prometheus.url)
    prometheus.alerts = [reported()]
    trigger = triggers.PrometheusAlertTrigger(poll_seconds=0.02)
    assert asyncio.run(RunningTrigger(trigger, FakeStateStore()).event())["alerts"]


def test_without_a_url_the_trigger_waits(triggers, monkeypatch):
    monkeypatch.delenv(triggers.URL_VARIABLE, raising=False)
    with pytest.raises(TimeoutError):
        asyncio.run(
            RunningTrigger(triggers.PrometheusAlertTrigger(), FakeStateStore()).event(seconds=0.1)
        )


@pytest.mark.parametrize(
    ("name", "options"),
    [("PrometheusAlertTrigger", {"url": "http://prometheus:9090"}), ("FolderTrigger", {})],
)
def test_a_trigger_can_be_recreated_from_its_serialisation(triggers, name, options):
    trigger = getattr(triggers, name)(max_per_day=5, **options)
    path, options = trigger.serialize()
    module, name = path.rsplit(".", 1)
    recreated = getattr(importlib.import_module(module), name)(**json.loads(json.dumps(options)))
    assert recreated.serialize() == trigger.serialize()
    assert options["max_per_day"] == 5


def alert(triggers, at):
    return triggers.Alert(labels={"alertname": "drift"}, value="1", active_at=at)


def test_the_cooldown_delays_a_new_activation_and_does_not_lose_it(triggers):
    ledger = triggers.CooldownLedger(cooldown_seconds=6 * HOUR, max_per_day=100)
    first, second = alert(triggers, "t1"), alert(triggers, "t2")
    assert ledger.due([first], now=0.0) == [first]
    assert ledger.due([second], now=5 * HOUR) == []
    assert ledger.due([second], now=6 * HOUR) == [second]


def test_the_daily_limit_bounds_a_flapping_alert(triggers):
    ledger = triggers.CooldownLedger(cooldown_seconds=0.0, max_per_day=2)
    fired = [ledger.due([alert(triggers, f"t{hour}")], now=hour * HOUR) for hour in range(24)]
    assert sum(map(bool, fired)) == 2
    assert ledger.due([alert(triggers, "t24")], now=24 * HOUR)


def test_an_alert_fires_again_only_as_a_new_activation(triggers):
    ledger = triggers.CooldownLedger(cooldown_seconds=0.0, max_per_day=100)
    assert ledger.due([alert(triggers, "t1")], now=0.0)
    assert not any(ledger.due([alert(triggers, "t1")], now=day * 24 * HOUR) for day in range(90))


def test_the_ledger_does_not_grow_for_ever(triggers):
    ledger = triggers.CooldownLedger(cooldown_seconds=0.0, max_per_day=100)
    for day in range(90):
        ledger.due([alert(triggers, f"t{day}")], now=day * 24 * HOUR)
    assert len(ledger.triggered_at) <= 31


class Inbox:
    """A watched folder with a picture in it; counts the polls of triggers."""

    def __init__(self, state, watched_contents):
        self.state, self.folder, self.polls = state, state / "inbox", 0
        self._watched_contents = watched_contents
        self.folder.mkdir()
        self.add_picture("a.png")
        record = {"kind": "added", "folder": str(self.folder), "lr_folder": None, "watched": True}
        record_folder = state / "sources" / "inbox"
        record_folder.mkdir(parents=True)
        (record_folder / "source.json").write_text(json.dumps(record))

    def add_picture(self, name):
        (self.folder / name).write_bytes(b"a picture")

    def watched_contents(self, state):
        self.polls += 1
        return self._watched_contents(state)


@pytest.fixture
def inbox(triggers, tmp_path, monkeypatch):
    inbox = Inbox(tmp_path, triggers.watched_contents)
    monkeypatch.setattr(triggers, "watched_contents", inbox.watched_contents)
    monkeypatch.setenv("SHARPLINE_STATE", str(tmp_path))
    return inbox


def watch_folders(triggers, store=None, **options):
    quick = {"poll_seconds": 0.01, "settle_seconds": 0.0, "cooldown_seconds": 0.0}
    trigger = triggers.FolderTrigger(**quick | {"max_per_day": 100} | options)
    return RunningTrigger(trigger, store or FakeStateStore())


def test_new_pictures_fire_once_and_a_restart_does_not_repeat_it(triggers, inbox):
    async def scenario():
        store = FakeStateStore()
        running = watch_folders(triggers, store)
        first = await running.event()
        inbox.add_picture("b.png")
        second = await running.event()
        await watch_folders(triggers, store).expect_no_event(inbox)
        return first, second

    first, second = asyncio.run(scenario())
    assert [folder["files"] for folder in first["folders"]] == [1]
    [folder] = second["folders"]
    assert (folder["source"], folder["folder"]) == ("inbox", str(inbox.folder))
    assert folder["files"] == 2


def test_pictures_that_are_still_being_copied_do_not_fire(triggers, inbox, monkeypatch):
    seconds = [0.0]
    clock = SimpleNamespace(monotonic=lambda: seconds[0], time=time.time)
    monkeypatch.setattr(triggers, "time", clock)

    async def scenario():
        running = watch_folders(triggers, settle_seconds=600)
        await running.expect_no_event(inbox)
        seconds[0] = 500.0
        inbox.add_picture("b.png")
        await running.expect_no_event(inbox)
        seconds[0] = 1099.0
        await running.expect_no_event(inbox)
        seconds[0] = 1101.0
        return await running.event()

    [folder] = asyncio.run(scenario())["folders"]
    assert folder["files"] == 2


def test_new_pictures_within_the_cooldown_wait(triggers, inbox):
    async def scenario():
        running = watch_folders(triggers, cooldown_seconds=600.0)
        await running.event()
        inbox.add_picture("b.png")
        await running.expect_no_event(inbox)

    asyncio.run(scenario())


def test_the_state_folder_may_be_given(triggers, inbox, monkeypatch):
    monkeypatch.delenv("SHARPLINE_STATE")
    running = watch_folders(triggers, state=str(inbox.state))
    assert asyncio.run(running.event())["folders"]


def test_each_trigger_has_its_own_store_key(triggers):
    keys = {triggers.FolderTrigger.store_key, triggers.PrometheusAlertTrigger.store_key}
    assert len(keys) == 2
