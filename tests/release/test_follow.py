"""The follower: a folder equal to the registry's aliases, whatever the registry does."""

import json
import os
import shutil
import signal
import subprocess
import sys

import pytest

from release.follow import Follower, follow, read_index
from release.registry import Registry
from release.versions import RegistryUnavailable
from superres.model.bundle import load_bundle

NOBODY = "http://127.0.0.1:9"  # the discard port: a connection there is refused


class Registered:
    """The way to a registry, on which only the models named here are to be seen."""

    def __init__(self, registry, *names):
        self.registry, self._names = registry, names

    def models(self):
        known = self.registry.models()
        return [name for name in self._names if name in known]

    def __getattr__(self, name):
        return getattr(self.registry, name)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "models"


@pytest.fixture
def follower(registry, name, folder):
    return Follower(Registered(registry, name), folder)


def stored(folder):
    return {path.name for path in (folder / "by-sha").iterdir()}


def index_of(folder):
    return json.loads((folder / "index.json").read_text())


def test_the_folder_becomes_equal_to_the_aliases(
    follower, folder, registry, client, contest, tiny_bundle, name
):
    champion, challenger = contest
    shadow = registry.register(tiny_bundle(name=name, error_levels=1))
    client.set_registered_model_tag(name, "canary", str(challenger.number))
    client.set_registered_model_tag(name, "canary_percent", "25")
    client.set_registered_model_tag(name, "shadow", str(shadow.number))
    assert follower.poll().changed
    assert index_of(folder) == {
        name: {
            "champion": champion.bundle_id,
            "previous": None,
            "canary": challenger.bundle_id,
            "canary_percent": 25,
            "shadow": shadow.bundle_id,
            "versions": {champion.bundle_id: 1, challenger.bundle_id: 2, shadow.bundle_id: 3},
        }
    }
    assert stored(folder) == {champion.bundle_id, challenger.bundle_id, shadow.bundle_id}
    for bundle_id in stored(folder):
        assert load_bundle(folder / "by-sha" / bundle_id).id == bundle_id


def test_a_look_without_news_rewrites_nothing(follower, folder, contest):
    follower.poll()
    before = (folder / "index.json").stat()
    assert not follower.poll().changed
    assert (folder / "index.json").stat().st_ino == before.st_ino


def test_a_promotion_is_followed_and_the_bundle_before_stays_as_previous(
    follower, folder, registry, contest, name
):
    champion, challenger = contest
    follower.poll()
    registry.move_alias(name, "previous", champion, expected=None)
    registry.move_alias(name, "champion", challenger, expected=champion)
    assert follower.poll().changed
    entry = index_of(folder)[name]
    assert (entry["champion"], entry["previous"]) == (challenger.bundle_id, champion.bundle_id)
    assert stored(folder) == {champion.bundle_id, challenger.bundle_id}


def test_a_bundle_that_nobody_names_stays_for_one_more_look(
    follower, folder, registry, contest, name
):
    champion, challenger = contest
    follower.poll()
    registry.move_alias(name, "champion", challenger, expected=champion)
    follower.poll()
    assert stored(folder) == {champion.bundle_id, challenger.bundle_id}
    follower.poll()
    assert stored(folder) == {challenger.bundle_id}


def test_a_model_that_lost_its_champion_leaves_the_index(follower, folder, registry, contest, name):
    follower.poll()
    registry.move_alias(name, "champion", None, expected=contest[0])
    assert follower.poll().changed
    assert index_of(folder) == {}


def test_a_damaged_champion_is_refused_and_the_one_that_serves_stays(
    follower, folder, registry, contest, flip_byte, name
):
    champion, challenger = contest
    follower.poll()
    flip_byte(challenger, "weights.safetensors")
    registry.move_alias(name, "champion", challenger, expected=champion)
    poll = follower.poll()
    assert not poll.changed
    assert "weights.safetensors" in poll.problems[0]
    assert index_of(folder)[name]["champion"] == champion.bundle_id
    assert stored(folder) == {champion.bundle_id}


def test_a_damaged_canary_does_not_hold_up_the_champion(
    follower, folder, client, contest, flip_byte, name
):
    champion, challenger = contest
    flip_byte(challenger, "golden/output.png")
    client.set_registered_model_tag(name, "canary", str(challenger.number))
    poll = follower.poll()
    assert len(poll.problems) == 1
    assert index_of(folder)[name]["champion"] == champion.bundle_id
    assert index_of(folder)[name]["canary"] is None


def test_damage_on_this_side_is_mended_from_the_registry(registry, folder, contest, name):
    champion, _ = contest
    Follower(Registered(registry, name), folder).poll()
    weights = folder / "by-sha" / champion.bundle_id / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    Follower(Registered(registry, name), folder).poll()
    assert load_bundle(folder / "by-sha" / champion.bundle_id).id == champion.bundle_id


def test_a_bundle_removed_while_following_comes_back(follower, folder, contest):
    champion, _ = contest
    follower.poll()
    shutil.rmtree(folder / "by-sha" / champion.bundle_id)
    follower.poll()
    assert stored(folder) == {champion.bundle_id}


def test_what_a_killed_fetch_left_behind_is_removed(follower, folder, contest):
    follower.poll()
    (folder / "by-sha" / ".fetch-abc" / "bundle").mkdir(parents=True)
    follower.poll()
    assert stored(folder) == {contest[0].bundle_id}


def test_an_index_that_somebody_damaged_is_written_anew(follower, folder, contest, name):
    follower.poll()
    (folder / "index.json").write_text('{"x": 1}')
    assert follower.poll().changed
    assert set(index_of(folder)) == {name}


def test_an_empty_folder_may_be_served_before_the_registry_answers(folder, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(RegistryUnavailable):
        Follower(Registry(NOBODY), folder).poll()
    assert read_index(folder) == {}
    assert (folder / "index.json").is_file()


def test_the_folder_outlives_the_registry_and_follows_again_when_it_is_back(
    registry, contest, name, folder, monkeypatch, capsys
):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    champion, challenger = contest
    way = Registered(registry, name)
    waits, seen = [], []

    def wait(seconds):
        """Stands in for time between looks, in which the registry goes and comes back."""
        waits.append(seconds)
        seen.append(index_of(folder)[name]["champion"])
        if len(waits) == 1:
            way.registry = Registry(NOBODY)
        elif len(waits) == 4:
            way.registry = registry
            registry.move_alias(name, "champion", challenger, expected=champion)
        elif len(waits) == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        follow(Follower(way, folder), 1.0, lambda poll: None, wait)
    assert seen == [champion.bundle_id] * 4 + [challenger.bundle_id]
    assert waits == [1, 2, 4, 8, 1]
    said = capsys.readouterr().err
    assert said.count("the registry is away") == 1
    assert said.count("in order again") == 1


def test_an_interrupted_follower_ends_well_and_leaves_the_folder_whole(
    registry, contest, name, folder, tmp_path
):
    environment = {**os.environ, "SHARPLINE_STATE": str(tmp_path / "state")}
    code = "import sys; from release.cli import follow; sys.exit(follow(sys.argv[1:]))"
    arguments = ["--to", str(folder), "--every", "60", "--registry", registry.uri, "--json"]
    with subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    ) as process:
        looked = json.loads(process.stdout.readline())
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 0, said
    assert "stopped following" in said
    assert looked["champions"][name] == contest[0].bundle_id
    assert read_index(folder)[name].champion == contest[0].bundle_id
