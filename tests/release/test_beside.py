"""Canary and shadow on a real registry: who may stand beside the champion, and who sees it."""

import json

import pytest

from release.follow import Follower
from release.promote import (
    EvidenceMissing,
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
from sharpline.cli import run


class OneModel:
    """The way to a registry, on which only one model is to be seen."""

    def __init__(self, registry, name):
        self._registry, self._name = registry, name

    def models(self):
        return (self._name,)

    def __getattr__(self, attribute):
        return getattr(self._registry, attribute)


@pytest.fixture
def proven(contest, gated, name):
    """The path of passing evidence for the contest's challenger, version 2."""
    return gated(name).evidence


@pytest.fixture
def follower(registry, name, tmp_path):
    return Follower(OneModel(registry, name), tmp_path / "models")


def beside(registry, name):
    """Numbers of canary and shadow, and the canary's share."""
    state = registry.state(name)
    return (
        state.canary and state.canary.number,
        state.canary_percent,
        state.shadow and state.shadow.number,
    )


def tags_of(client, version):
    return client.get_model_version(version.model, str(version.number)).tags


def test_a_canary_is_proven_grows_shrinks_and_ends(registry, client, contest, proven, name):
    challenger = contest[1]
    with pytest.raises(EvidenceMissing, match=f"sharpline gate {name} --version 2"):
        set_canary(registry, name, 2, 5, None)
    assert beside(registry, name) == (None, None, None)

    begun = set_canary(registry, name, 2, 5, proven)
    assert (begun.now, begun.before, begun.percent, begun.changed) == (challenger, None, 5, True)
    assert "by " in tags_of(client, challenger)["canary"]
    assert tags_of(client, challenger)["canary"].endswith(": 5 percent")

    with pytest.raises(EvidenceMissing, match="no proof"):
        set_canary(registry, name, 2, 50, None)
    assert set_canary(registry, name, 2, 50, proven).changed
    assert not set_canary(registry, name, 2, 50, None).changed
    assert set_canary(registry, name, 2, 1, None).changed, "exposing fewer needs no proof"
    assert beside(registry, name) == (2, 1, None)

    ended = clear(registry, name, "canary")
    assert (ended.now, ended.before, ended.changed) == (None, challenger, True)
    assert beside(registry, name) == (None, None, None)
    assert "canary_off" in tags_of(client, challenger)
    assert not clear(registry, name, "canary").changed


def test_a_canary_needs_proof_of_its_own_bytes_against_the_champion_of_now(
    registry, contest, tiny_bundle, gated, proven, flip_byte, name
):
    champion, challenger = contest
    other = registry.register(tiny_bundle(name=name, error_levels=12))
    with pytest.raises(EvidenceMissing, match="is about the bundle"):
        set_canary(registry, name, other.number, 5, proven)
    with pytest.raises(EvidenceMissing, match="the gate refused version 3"):
        set_canary(registry, name, other.number, 5, gated(name, other.number).evidence)
    registry.move_alias(name, "champion", other, expected=champion)
    with pytest.raises(EvidenceMissing, match="the evidence compares with version 1"):
        set_canary(registry, name, challenger.number, 5, proven)
    registry.bind_evidence(challenger, None)
    with pytest.raises(EvidenceMissing, match="not what the gate last found"):
        set_canary(registry, name, challenger.number, 5, proven)
    assert beside(registry, name) == (None, None, None)


def test_the_share_of_a_new_canary_is_never_seen_with_the_one_before(
    registry, client, contest, monkeypatch, tiny_bundle, name
):
    third = registry.register(tiny_bundle(name=name, error_levels=1))
    registry.set_canary(name, third, 1)
    seen = []
    asked = registry._client

    class Watched:
        """MLflow's client; what a follower would read after each change is remembered."""

        def __getattr__(self, attribute):
            method = getattr(asked, attribute)
            if "registered_model_tag" not in attribute:
                return method

            def changing(*arguments):
                method(*arguments)
                seen.append(beside(registry, name)[:2])

            return changing

    monkeypatch.setattr(registry, "_client", Watched())
    registry.set_canary(name, contest[1], 60)
    assert (third.number, 60) not in seen
    assert (contest[1].number, 1) not in seen
    assert seen[-1] == (contest[1].number, 60)


def test_a_shadow_needs_no_proof(registry, client, contest, name):
    assert set_shadow(registry, name, 2).changed
    assert not set_shadow(registry, name, 2).changed
    assert beside(registry, name) == (None, None, 2)
    assert "shadow" in tags_of(client, contest[1])
    assert clear(registry, name, "shadow").before == contest[1]
    assert beside(registry, name) == (None, None, None)


def test_the_champion_cannot_stand_beside_itself_and_nobody_beside_no_champion(
    registry, contest, name
):
    with pytest.raises(RolloutRefused, match="is the champion"):
        set_shadow(registry, name, 1)
    with pytest.raises(RolloutRefused, match="is the champion"):
        set_canary(registry, name, 1, 5, None)
    for stand in (set_shadow, lambda *arguments: set_canary(*arguments, 5, None)):
        with pytest.raises(NotRegistered):
            stand(registry, name, 9)
    registry.move_alias(name, "champion", None, expected=contest[0])
    with pytest.raises(RolloutRefused, match="no champion"):
        set_shadow(registry, name, 2)
    assert beside(registry, name) == (None, None, None)


def test_promotion_ends_being_canary_and_rollback_leaves_none(
    registry, client, contest, proven, name
):
    set_canary(registry, name, 2, 20, proven)
    set_shadow(registry, name, 2)
    promote(registry, name, None, proven)
    assert beside(registry, name) == (None, None, None)
    assert "by " in tags_of(client, contest[1])["promoted"]

    # What an older version, or a person in MLflow, may have left behind.
    registry.set_canary(name, contest[1], 20)
    again = promote(registry, name, None, proven)
    assert again == Promotion(champion=contest[1], before=contest[0], changed=False)
    assert beside(registry, name) == (None, None, None)

    registry.set_canary(name, contest[1], 20)
    registry.set_shadow(name, contest[0])
    rollback(registry, name)
    assert registry.state(name).champion == contest[0]
    assert beside(registry, name) == (None, None, None)
    assert "version 1 is champion again" in tags_of(client, contest[1])["rolled_back"]
    with pytest.raises(EvidenceMissing, match="not what the gate last found"):
        set_canary(registry, name, 2, 5, proven)


def test_serving_sees_canary_and_shadow_through_the_followed_folder(
    registry, contest, proven, follower, tiny_bundle, name, tmp_path
):
    champion, challenger = contest
    third = registry.register(tiny_bundle(name=name, error_levels=1))
    set_canary(registry, name, 2, 25, proven)
    set_shadow(registry, name, third.number)
    follower.poll()
    wanted = read_folder(tmp_path / "models")[name]
    assert wanted.champion.bundle_id == champion.bundle_id
    assert (wanted.canary.bundle_id, wanted.canary.version) == (challenger.bundle_id, "2")
    assert wanted.canary_percent == 25
    assert (wanted.shadow.bundle_id, wanted.shadow.version) == (third.bundle_id, "3")

    promote(registry, name, None, proven)
    follower.poll()
    wanted = read_folder(tmp_path / "models")[name]
    assert wanted.champion.bundle_id == challenger.bundle_id
    assert (wanted.canary, wanted.canary_percent) == (None, 0)
    assert wanted.shadow.bundle_id == third.bundle_id, "another version's place is its own"


def test_a_canary_that_was_deleted_is_nobody_and_can_be_cleared(
    registry, client, contest, follower, name
):
    registry.set_canary(name, contest[1], 10)
    client.delete_model_version(name, "2")
    assert registry.state(name).canary is None
    assert not follower.poll().problems
    assert not clear(registry, name, "canary").changed
    assert "canary" not in client.get_registered_model(name).tags


@pytest.fixture
def command(mlflow_server, tmp_path, monkeypatch, capsys):
    """Run `sharpline WORDS`; returns the exit code, what it printed and what it said."""
    monkeypatch.setenv("SHARPLINE_MLFLOW_URI", mlflow_server)
    monkeypatch.setenv("SHARPLINE_STATE", str(tmp_path / "state"))

    def sharpline(*arguments):
        code = run([str(word) for word in arguments])
        return code, *capsys.readouterr()

    return sharpline


def test_the_commands_answer_scripts_and_people(command, contest, proven, name):
    arguments = ("canary", name, "--version", 2, "--percent", 10)
    code, out, said = command(*arguments)
    assert (code, out) == (1, "")
    assert "no proof" in said
    code, out, _ = command(*arguments, "--evidence", proven, "--json")
    assert (code, json.loads(out)) == (
        0,
        {"model": name, "canary": 2, "canary_before": None, "percent": 10, "changed": True},
    )
    assert command(*arguments) == (
        0,
        f"{name}: version 2 is canary, before version 2; it answers 10% of the clients\n",
        "",
    )
    code, out, _ = command("canary", name, "--off", "--json")
    assert (code, json.loads(out)) == (
        0,
        {"model": name, "canary": None, "canary_before": 2, "percent": 0, "changed": True},
    )
    code, out, _ = command("shadow", name, "--version", 2, "--json")
    assert (code, json.loads(out)) == (
        0,
        {"model": name, "shadow": 2, "shadow_before": None, "changed": True},
    )
    assert command("shadow", name, "--off")[:2] == (
        0,
        f"{name}: nobody is shadow, before version 2\n",
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
def test_wrong_words_are_misuse(command, arguments):
    with pytest.raises(SystemExit, match="2"):
        command(*arguments.split())


def test_without_an_address_the_words_are_wrong(command, monkeypatch):
    monkeypatch.delenv("SHARPLINE_MLFLOW_URI")
    assert command("shadow", "m", "--off")[0] == 2
    assert command("canary", "m", "--off")[0] == 2
