"""Triggers that cannot storm: firing alerts, folders at rest; once, cooldown, budget, restarts."""

import asyncio
import importlib
import json
import time

import pytest

HOUR = 3600.0


@pytest.fixture(scope="module")
def triggers(airflow_home):
    return importlib.import_module("pipelines.triggers")


def found(name="SharplineInputDrift", *, state="firing", at="2026-11-21T03:00:00.123Z", **labels):
    return {
        "labels": {"alertname": name, "action": "retrain", "feature": "noise"} | labels,
        "annotations": {},
        "state": state,
        "activeAt": at,
        "value": "1.5e+00",
    }


class Store:
    """What Airflow's asset state store does, outside of Airflow: JSON that outlives a trigger."""

    def __init__(self):
        self.kept = {}

    async def aget(self, key, default=None):
        return json.loads(self.kept[key]) if key in self.kept else default

    async def aset(self, key, value):
        self.kept[key] = json.dumps(value)


class Watch:
    """A running trigger whose events can be awaited, as a triggerer would."""

    def __init__(self, trigger, store):
        trigger.asset_state_store = store
        self.events = trigger.run()

    async def event(self, seconds=10.0):
        return (await asyncio.wait_for(anext(self.events), seconds)).payload

    async def silence(self, prometheus, polls=4):
        """Nothing is fired while Prometheus is asked `polls` times more."""
        waiting = asyncio.ensure_future(anext(self.events))
        until = prometheus.polls + polls
        deadline = time.monotonic() + 10
        while prometheus.polls < until:
            assert time.monotonic() < deadline, "the trigger stopped asking"
            assert not waiting.done(), f"fired: {waiting.result()}"
            await asyncio.sleep(0.005)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting


def watch(triggers, prometheus, store=None, **options):
    options = {"poll_seconds": 0.02, "cooldown_seconds": 0.0, "max_per_day": 100} | options
    trigger = triggers.PrometheusAlertTrigger(url=prometheus.url, **options)
    return Watch(trigger, store or Store())


def test_a_firing_alert_fires_once_with_labels_value_and_time(triggers, prometheus):
    async def scenario():
        prometheus.alerts = [found()]
        store = Store()
        payload = await watch(triggers, prometheus, store).event()
        await watch(triggers, prometheus, store).silence(prometheus)
        return payload

    [alert] = asyncio.run(scenario())["alerts"]
    assert alert["labels"]["feature"] == "noise"
    assert alert["value"] == "1.5e+00"
    assert alert["activeAt"] == "2026-11-21T03:00:00.123Z"
    assert alert["key"].endswith("@2026-11-21T03:00:00")


def test_the_same_trigger_does_not_repeat_itself(triggers, prometheus):
    async def scenario():
        prometheus.alerts = [found()]
        watching = watch(triggers, prometheus)
        await watching.event()
        await watching.silence(prometheus)

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "alert",
    [
        found(state="pending"),
        found(state="inactive"),
        found(action="page"),
        {**found(), "labels": {"alertname": "SharplineDown"}},
    ],
)
def test_what_does_not_fire_or_ask_for_retraining_is_left_alone(triggers, prometheus, alert):
    prometheus.alerts = [alert]
    asyncio.run(watch(triggers, prometheus).silence(prometheus))


def test_a_new_activation_of_the_same_alert_fires_again(triggers, prometheus):
    async def scenario():
        prometheus.alerts = [found()]
        watching = watch(triggers, prometheus)
        first = await watching.event()
        prometheus.alerts = [found(at="2026-11-21T09:00:00Z")]
        return first, await watching.event()

    first, second = asyncio.run(scenario())
    assert first["alerts"][0]["key"] != second["alerts"][0]["key"]


def test_a_restored_activation_time_is_the_same_activation(triggers, prometheus):
    async def scenario():
        prometheus.alerts = [found(at="2026-11-21T03:00:00.987Z")]
        watching = watch(triggers, prometheus)
        await watching.event()
        prometheus.alerts = [found(at="2026-11-21T03:00:00Z")]  # Prometheus restarted
        await watching.silence(prometheus)

    asyncio.run(scenario())


def test_alerts_that_fire_together_ask_together(triggers, prometheus):
    prometheus.alerts = [found(feature="noise"), found(feature="blur")]
    payload = asyncio.run(watch(triggers, prometheus).event())
    assert {alert["labels"]["feature"] for alert in payload["alerts"]} == {"noise", "blur"}


def test_prometheus_away_and_back_is_survived(triggers, prometheus):
    async def scenario():
        prometheus.away, prometheus.alerts = True, [found()]
        watching = watch(triggers, prometheus)
        await watching.silence(prometheus, polls=2)
        prometheus.away = False
        return await watch(triggers, prometheus).event()

    assert asyncio.run(scenario())["alerts"]


def test_an_answer_that_is_no_alert_list_is_survived(triggers, prometheus):
    prometheus.alerts = [{"state": "firing"}]
    asyncio.run(watch(triggers, prometheus).silence(prometheus, polls=2))


def test_the_address_may_come_from_the_environment(triggers, prometheus, monkeypatch):
    monkeypatch.setenv(triggers.URL_VARIABLE, prometheus.url)
    prometheus.alerts = [found()]
    trigger = triggers.PrometheusAlertTrigger(poll_seconds=0.02)
    assert asyncio.run(Watch(trigger, Store()).event())["alerts"]


def test_without_an_address_the_trigger_waits(triggers, monkeypatch):
    monkeypatch.delenv(triggers.URL_VARIABLE, raising=False)
    with pytest.raises(TimeoutError):
        asyncio.run(Watch(triggers.PrometheusAlertTrigger(), Store()).event(seconds=0.1))


@pytest.mark.parametrize(
    ("name", "options"),
    [("PrometheusAlertTrigger", {"url": "http://prometheus:9090"}), ("FolderTrigger", {})],
)
def test_it_serialises_to_what_makes_it_again(triggers, name, options):
    trigger = getattr(triggers, name)(max_per_day=5, **options)
    path, options = trigger.serialize()
    module, name = path.rsplit(".", 1)
    again = getattr(importlib.import_module(module), name)(**json.loads(json.dumps(options)))
    assert again.serialize() == trigger.serialize()
    assert options["max_per_day"] == 5


def alert(triggers, at):
    return triggers.Alert(labels={"alertname": "drift"}, value="1", active_at=at)


def test_the_cooldown_delays_a_new_activation_and_does_not_lose_it(triggers):
    ledger = triggers.CooldownLedger(cooldown_seconds=6 * HOUR, max_per_day=100)
    first, second = alert(triggers, "t1"), alert(triggers, "t2")
    assert ledger.due([first], now=0.0) == [first]
    assert ledger.due([second], now=5 * HOUR) == []
    assert ledger.due([second], now=6 * HOUR) == [second]


def test_the_budget_bounds_a_flapping_alert(triggers):
    ledger = triggers.CooldownLedger(cooldown_seconds=0.0, max_per_day=2)
    asked = [ledger.due([alert(triggers, f"t{hour}")], now=hour * HOUR) for hour in range(24)]
    assert sum(map(bool, asked)) == 2
    assert ledger.due([alert(triggers, "t24")], now=24 * HOUR)


def test_one_alert_may_ask_again_only_as_a_new_activation(triggers):
    ledger = triggers.CooldownLedger(cooldown_seconds=0.0, max_per_day=100)
    assert ledger.due([alert(triggers, "t1")], now=0.0)
    assert not any(ledger.due([alert(triggers, "t1")], now=day * 24 * HOUR) for day in range(90))


def test_the_ledger_does_not_grow_for_ever(triggers):
    ledger = triggers.CooldownLedger(cooldown_seconds=0.0, max_per_day=100)
    for day in range(90):
        ledger.due([alert(triggers, f"t{day}")], now=day * 24 * HOUR)
    assert len(ledger.asked) <= 31


class Inbox:
    """A watched folder with a picture in it, and how often triggers looked."""

    def __init__(self, state, look):
        self.state, self.folder, self.polls, self._look = state, state / "inbox", 0, look
        self.folder.mkdir()
        self.drop("a.png")
        record = {"kind": "added", "folder": str(self.folder), "lr_folder": None, "watched": True}
        place = state / "sources" / "inbox"
        place.mkdir(parents=True)
        (place / "source.json").write_text(json.dumps(record))

    def drop(self, name):
        (self.folder / name).write_bytes(b"a picture")

    def look(self, state):
        self.polls += 1
        return self._look(state)


@pytest.fixture
def inbox(triggers, tmp_path, monkeypatch):
    inbox = Inbox(tmp_path, triggers.watched_contents)
    monkeypatch.setattr(triggers, "watched_contents", inbox.look)
    monkeypatch.setenv("SHARPLINE_STATE", str(tmp_path))
    return inbox


def watch_folders(triggers, store=None, **options):
    quick = {"poll_seconds": 0.01, "settle_seconds": 0.0, "cooldown_seconds": 0.0}
    trigger = triggers.FolderTrigger(**quick | {"max_per_day": 100} | options)
    return Watch(trigger, store or Store())


def test_new_pictures_fire_once_and_a_restart_does_not_repeat_it(triggers, inbox):
    async def scenario():
        store = Store()
        watching = watch_folders(triggers, store)
        first = await watching.event()
        inbox.drop("b.png")
        second = await watching.event()
        await watch_folders(triggers, store).silence(inbox)
        return first, second

    first, second = asyncio.run(scenario())
    assert [folder["files"] for folder in first["folders"]] == [1]
    [folder] = second["folders"]
    assert (folder["source"], folder["folder"]) == ("inbox", str(inbox.folder))
    assert folder["files"] == 2


def test_pictures_that_are_still_coming_do_not_fire(triggers, inbox):
    asyncio.run(watch_folders(triggers, settle_seconds=600).silence(inbox))


def test_new_pictures_within_the_cooldown_wait(triggers, inbox):
    async def scenario():
        watching = watch_folders(triggers, cooldown_seconds=600.0)
        await watching.event()
        inbox.drop("b.png")
        await watching.silence(inbox)

    asyncio.run(scenario())


def test_the_state_may_be_named(triggers, inbox, monkeypatch):
    monkeypatch.delenv("SHARPLINE_STATE")
    watching = watch_folders(triggers, state=str(inbox.state))
    assert asyncio.run(watching.event())["folders"]


def test_both_triggers_remember_in_places_of_their_own(triggers):
    keys = {triggers.FolderTrigger.store_key, triggers.PrometheusAlertTrigger.store_key}
    assert len(keys) == 2
