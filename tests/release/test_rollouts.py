"""Canary and shadow rollouts on a real registry: requirements, tags and the followed folder."""

import json

import pytest

from release.follow import Follower
from release.promote import (
    EvidenceRefused,
    Promotion,
    RolloutRefused,
    clear,
    promote,
    rollback,
    set_canary,
    set_shadow,
)
from release.versions import NotRegistered
from serving.models.folder import read_folder


class FilteredRegistry:
    """A registry that lists one model only."""

    def __init__(self, registry, name):
        self._registry, self._name = registry, name

    def models(self):
        return (self._name,)

    def __getattr__(self, attribute):
        return getattr(self._registry, attribute)


@pytest.fixture
def passing_evidence(two_versions, run_gate, name):
    """The path of passing evidence for the challenger, version 2."""
    return run_gate(name).evidence


@pytest.fixture
def follower(registry, name, tmp_path):
    return Follower(FilteredRegistry(registry, name), tmp_path / "models")


def rollouts(registry, name):
    """Version numbers of canary and shadow, and the canary's share."""
    state = registry.state(name)
    return (
        state.canary and state.canary.number,
        state.canary_percent,
        state.shadow and state.shadow.number,
    )


def tags_of(client, version):
    return client.get_model_version(version.model, str(version.number)).tags


def test_a_canary_starts_grows_shrinks_and_ends(
    registry, client, two_versions, passing_evidence, name
):
    challenger = two_versions[1]
    with pytest.raises(EvidenceRefused, match=f"sharpline gate {name} --version 2"):
        set_canary(registry, name, 2, 5, None)
    assert rollouts(registry, name) == (None, None, None)

    started = set_canary(registry, name, 2, 5, passing_evidence)
    assert (started.current, started.previous) == (challenger, None)
    assert (started.percent, started.changed) == (5, True)
    assert "by " in tags_of(client, challenger)["canary"]
    assert tags_of(client, challenger)["canary"].endswith(": 5 percent")

    with pytest.raises(EvidenceRefused, match="no passing evidence"):
        set_canary(registry, name, 2, 50, None)
    assert set_canary(registry, name, 2, 50, passing_evidence).changed
    assert not set_canary(registry, name, 2, 50, None).changed
    assert set_canary(registry, name, 2, 1, None).changed, "reducing the share needs no evidence"
    assert rollouts(registry, name) == (2, 1, None)

    ended = clear(registry, name, "canary")
    assert (ended.current, ended.previous, ended.changed) == (None, challenger, True)
    assert rollouts(registry, name) == (None, None, None)
    assert "canary_off" in tags_of(client, challenger)
    assert not clear(registry, name, "canary").changed


def test_a_canary_needs_evidence_for_its_own_bytes_against_the_current_champion(
    registry, two_versions, tiny_bundle, run_gate, passing_evidence, flip_byte, name
):
    champion, challenger = two_versions
    other = registry.register(tiny_bundle(name=name, error_levels=12))
    with pytest.raises(EvidenceRefused, match="is about the bundle"):
        set_canary(registry, name, other.number, 5, passing_evidence)
    with pytest.raises(EvidenceRefused, match="the gate refused version 3"):
        set_canary(registry, name, other.number, 5, run_gate(name, other.number).evidence)
    registry.move_alias(name, "champion", other, expected=champion)
    with pytest.raises(EvidenceRefused, match="the evidence compares with version 1"):
        set_canary(registry, name, challenger.number, 5, passing_evidence)
    registry.bind_evidence(challenger, None)
    with pytest.raises(EvidenceRefused, match="not the gate's newest evidence"):
        set_canary(registry, name, challenger.number, 5, passing_evidence)
    assert rollouts(registry, name) == (None, None, None)


def test_the_share_of_a_new_canary_is_never_visible_with_the_old_one(
    registry, client, two_versions, monkeypatch, tiny_bundle, name
):
    third = registry.register(tiny_bundle(name=name, error_levels=1))
    registry.set_canary(name, third, 1)
    seen = []
    real_client = registry._client

    class RecordingClient:
        """MLflow's client; records what a follower would read after each change."""

        def __getattr__(self, attribute):
            method = getattr(real_client, attribute)
            if "registered_model_tag" not in attribute:
                return method

            def changing(*arguments):
                method(*arguments)
                seen.append(rollouts(registry, name)[:2])

            return changing

    monkeypatch.setattr(registry, "_client", RecordingClient())
    registry.set_canary(name, two_versions[1], 60)
    assert (third.number, 60) not in seen
    assert (two_versions[1].number, 1) not in seen
    assert seen[-1] == (two_versions[1].number, 60)


def test_a_shadow_needs_no_evidence(registry, client, two_versions, name):
    assert set_shadow(registry, name, 2).changed
    assert not set_shadow(registry, name, 2).changed
    assert rollouts(registry, name) == (None, None, 2)
    assert "shadow" in tags_of(client, two_versions[1])
    assert clear(registry, name, "shadow").previous == two_versions[1]
    assert rollouts(registry, name) == (None, None, None)


def test_the_champion_is_refused_and_a_rollout_needs_a_champion(registry, two_versions, name):
    with pytest.raises(RolloutRefused, match="is the champion"):
        set_shadow(registry, name, 1)
    with pytest.raises(RolloutRefused, match="is the champion"):
        set_canary(registry, name, 1, 5, None)
    for set_rollout in (set_shadow, lambda *arguments: set_canary(*arguments, 5, None)):
        with pytest.raises(NotRegistered):
            set_rollout(registry, name, 9)
    registry.move_alias(name, "champion", None, expected=two_versions[0])
    with pytest.raises(RolloutRefused, match="no champion"):
        set_shadow(registry, name, 2)
    assert rollouts(registry, name) == (None, None, None)


def test_promotion_and_rollback_end_rollouts(
    registry, client, two_versions, passing_evidence, name
):
    set_canary(registry, name, 2, 20, passing_evidence)
    set_shadow(registry, name, 2)
    promote(registry, name, None, passing_evidence)
    assert rollouts(registry, name) == (None, None, None)
    assert "by " in tags_of(client, two_versions[1])["promoted"]

    # A tag as an older release, or a user in MLflow, may have left it.
    registry.set_canary(name, two_versions[1], 20)
    again = promote(registry, name, None, passing_evidence)
    assert again == Promotion(champion=two_versions[1], previous=two_versions[0], changed=False)
    assert rollouts(registry, name) == (None, None, None)

    registry.set_canary(name, two_versions[1], 20)
    registry.set_shadow(name, two_versions[0])
    rollback(registry, name)
    assert registry.state(name).champion == two_versions[0]
    assert rollouts(registry, name) == (None, None, None)
    assert "version 1 is champion again" in tags_of(client, two_versions[1])["rolled_back"]
    with pytest.raises(EvidenceRefused, match="not the gate's newest evidence"):
        set_canary(registry, name, 2, 5, passing_evidence)


def test_serving_sees_canary_and_shadow_through_the_followed_folder(
    registry, two_versions, passing_evidence, follower, tiny_bundle, name, tmp_path
):
    champion, challenger = two_versions
    third = registry.register(tiny_bundle(name=name, error_levels=1))
    set_canary(registry, name, 2, 25, passing_evidence)
    set_shadow(registry, name, third.number)
    follower.poll()
    desired = read_folder(tmp_path / "models")[name]
    assert desired.champion.bundle_id == champion.bundle_id
    assert (desired.canary.bundle_id, desired.canary.version) == (challenger.bundle_id, "2")
    assert desired.canary_percent == 25
    assert (desired.shadow.bundle_id, desired.shadow.version) == (third.bundle_id, "3")

    promote(registry, name, None, passing_evidence)
    follower.poll()
    desired = read_folder(tmp_path / "models")[name]
    assert desired.champion.bundle_id == challenger.bundle_id
    assert (desired.canary, desired.canary_percent) == (None, 0)
    assert desired.shadow.bundle_id == third.bundle_id, "rollouts of other versions continue"


def test_a_deleted_canary_counts_as_none_and_can_be_cleared(
    registry, client, two_versions, follower, name
):
    registry.set_canary(name, two_versions[1], 10)
    client.delete_model_version(name, "2")
    assert registry.state(name).canary is None
    assert not follower.poll().problems
    assert not clear(registry, name, "canary").changed
    assert "canary" not in client.get_registered_model(name).tags


def test_the_commands_print_json_and_text(command, two_versions, passing_evidence, name):
    arguments = ("canary", name, "--version", 2, "--percent", 10)
    code, out, error = command(*arguments)
    assert (code, out) == (1, "")
    assert "no passing evidence" in error
    code, out, _ = command(*arguments, "--evidence", passing_evidence, "--json")
    assert (code, json.loads(out)) == (
        0,
        {"model": name, "canary": 2, "previous_canary": None, "percent": 10, "changed": True},
    )
    assert command(*arguments) == (
        0,
        f"{name}: canary is version 2 (previously version 2), 10% of the clients\n",
        "",
    )
    code, out, _ = command("canary", name, "--off", "--json")
    assert (code, json.loads(out)) == (
        0,
        {"model": name, "canary": None, "previous_canary": 2, "percent": 0, "changed": True},
    )
    code, out, _ = command("shadow", name, "--version", 2, "--json")
    assert (code, json.loads(out)) == (
        0,
        {"model": name, "shadow": 2, "previous_shadow": None, "changed": True},
    )
    assert command("shadow", name, "--off")[:2] == (
        0,
        f"{name}: shadow is none (previously version 2)\n",
    )
    assert command("shadow", name, "--version", 1)[0] == 1


@pytest.mark.parametrize(
    "arguments",
    [
        "canary m",
        "canary m --version 2",
        "canary m --version 2 --percent 0",
        "canary m --version 2 --percent 100",
        "canary m --version 2 --percent some",
        "canary m --version 2 --percent 5 --off",
        "canary m --off --percent 5",
        "canary m --off --evidence e.json",
        "shadow m",
        "shadow m --version 2 --off",
        "shadow m --version 2 --percent 5",
    ],
)
def test_wrong_arguments_exit_with_2(command, arguments):
    with pytest.raises(SystemExit, match="2"):
        command(*arguments.split())


def test_a_missing_registry_address_exits_with_2(command, monkeypatch):
    monkeypatch.delenv("SHARPLINE_MLFLOW_URI")
    assert command("shadow", "m", "--off")[0] == 2
    assert command("canary", "m", "--off")[0] == 2
