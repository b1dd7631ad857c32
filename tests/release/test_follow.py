"""The follower: the folder matches the registry's aliases, also when the registry fails."""

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

UNREACHABLE = "http://127.0.0.1:9"  # the discard port: a connection there is refused


class FilteredRegistry:
    """A registry that lists only the models named here."""

    def __init__(self, registry, *names):
        self.registry, self._names = registry, names

    def models(self):
        registered = self.registry.models()
        return [name for name in self._names if name in registered]

    def __getattr__(self, name):
        return getattr(self.registry, name)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "models"


@pytest.fixture
def follower(registry, name, folder):
    return Follower(FilteredRegistry(registry, name), folder)


def stored(folder):
    return {path.name for path in (folder / "by-sha").iterdir()}


def index_of(folder):
    return json.loads((folder / "index.json").read_text())


def test_the_folder_matches_the_aliases(
    follower, folder, registry, client, two_versions, tiny_bundle, name
):
    champion, challenger = two_versions
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


def test_a_poll_without_changes_writes_nothing(follower, folder, two_versions):
    follower.poll()
    before = (folder / "index.json").stat()
    assert not follower.poll().changed
    assert (folder / "index.json").stat().st_ino == before.st_ino


def test_a_promotion_is_followed_and_the_old_champion_stays_as_previous(
    follower, folder, registry, two_versions, name
):
    champion, challenger = two_versions
    follower.poll()
    registry.move_alias(name, "previous", champion, expected=None)
    registry.move_alias(name, "champion", challenger, expected=champion)
    assert follower.poll().changed
    entry = index_of(folder)[name]
    assert (entry["champion"], entry["previous"]) == (challenger.bundle_id, champion.bundle_id)
    assert stored(folder) == {champion.bundle_id, challenger.bundle_id}


def test_an_unreferenced_bundle_stays_for_one_more_poll(
    follower, folder, registry, two_versions, name
):
    champion, challenger = two_versions
    follower.poll()
    registry.move_alias(name, "champion", challenger, expected=champion)
    follower.poll()
    assert stored(folder) == {champion.bundle_id, challenger.bundle_id}
    follower.poll()
    assert stored(folder) == {challenger.bundle_id}


def test_a_model_that_lost_its_champion_leaves_the_index(
    follower, folder, registry, two_versions, name
):
    follower.poll()
    registry.move_alias(name, "champion", None, expected=two_versions[0])
    assert follower.poll().changed
    assert index_of(folder) == {}


def test_a_damaged_champion_is_refused_and_the_old_one_stays(
    follower, folder, registry, two_versions, flip_byte, name
):
    champion, challenger = two_versions
    follower.poll()
    flip_byte(challenger, "weights.safetensors")
    registry.move_alias(name, "champion", challenger, expected=champion)
    result = follower.poll()
    assert not result.changed
    assert "weights.safetensors" in result.problems[0]
    assert index_of(folder)[name]["champion"] == champion.bundle_id
    assert stored(folder) == {champion.bundle_id}


def test_a_damaged_canary_does_not_block_the_champion(
    follower, folder, client, two_versions, flip_byte, name
):
    champion, challenger = two_versions
    flip_byte(challenger, "golden/output.png")
    client.set_registered_model_tag(name, "canary", str(challenger.number))
    result = follower.poll()
    assert len(result.problems) == 1
    assert index_of(folder)[name]["champion"] == champion.bundle_id
    assert index_of(folder)[name]["canary"] is None


def test_a_damaged_local_bundle_is_fetched_again(registry, folder, two_versions, name):
    champion, _ = two_versions
    Follower(FilteredRegistry(registry, name), folder).poll()
    weights = folder / "by-sha" / champion.bundle_id / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    Follower(FilteredRegistry(registry, name), folder).poll()
    assert load_bundle(folder / "by-sha" / champion.bundle_id).id == champion.bundle_id


def test_a_bundle_removed_while_following_is_fetched_again(follower, folder, two_versions):
    champion, _ = two_versions
    follower.poll()
    shutil.rmtree(folder / "by-sha" / champion.bundle_id)
    follower.poll()
    assert stored(folder) == {champion.bundle_id}


def test_the_temporary_folder_of_a_killed_fetch_is_removed(follower, folder, two_versions):
    follower.poll()
    (folder / "by-sha" / ".fetch-abc" / "bundle").mkdir(parents=True)
    follower.poll()
    assert stored(folder) == {two_versions[0].bundle_id}


def test_a_damaged_index_is_rewritten(follower, folder, two_versions, name):
    follower.poll()
    (folder / "index.json").write_text('{"x": 1}')
    assert follower.poll().changed
    assert set(index_of(folder)) == {name}


def test_an_empty_folder_gets_an_index_before_the_registry_responds(folder, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(RegistryUnavailable):
        Follower(Registry(UNREACHABLE), folder).poll()
    assert read_index(folder) == {}
    assert (folder / "index.json").is_file()


def test_the_folder_survives_an_outage_and_follows_again_afterwards(
    registry, two_versions, name, folder, monkeypatch, capsys
):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    champion, challenger = two_versions
    filtered = FilteredRegistry(registry, name)
    waits, seen = [], []

    def wait(seconds):
        """Replaces the wait between polls; makes the registry unavailable and available again."""
        waits.append(seconds)
        seen.append(index_of(folder)[name]["champion"])
        if len(waits) == 1:
            filtered.registry = Registry(UNREACHABLE)
        elif len(waits) == 4:
            filtered.registry = registry
            registry.move_alias(name, "champion", challenger, expected=champion)
        elif len(waits) == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        follow(Follower(filtered, folder), 1.0, lambda result: None, wait)
    assert seen == [champion.bundle_id] * 4 + [challenger.bundle_id]
    assert waits == [1, 2, 4, 8, 1]
    error = capsys.readouterr().err
    assert error.count("the registry is unavailable") == 1
    assert error.count("available again") == 1


def test_an_interrupted_follower_exits_with_0_and_leaves_the_folder_intact(
    registry, two_versions, name, folder, tmp_path
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
        result = json.loads(process.stdout.readline())
        process.send_signal(signal.SIGTERM)
        _, error = process.communicate(timeout=60)
    assert process.returncode == 0, error
    assert "stopped following" in error
    assert result["champions"][name] == two_versions[0].bundle_id
    assert read_index(folder)[name].champion == two_versions[0].bundle_id
