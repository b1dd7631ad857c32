"""The registry client against a real MLflow server."""

import subprocess
import sys
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from uuid import uuid4

import numpy as np
import pytest

from release.registry import Registry
from release.versions import AliasMoved, NotRegistered, RegistryUnavailable
from sharpline.cli import run
from superres.common.errors import SharplineError
from superres.image.codecs import Picture, write
from superres.image.passport import Step, extended
from superres.model.bundle import BrokenBundle


def test_a_fetched_bundle_equals_the_registered_one(
    registry, tiny_bundle, name, tmp_path, files_of
):
    bundle = tiny_bundle(name=name)
    version = registry.register(bundle)
    fetched = registry.fetch(version, tmp_path / "fetched")
    assert (version.number, version.bundle_id, fetched.id) == (1, bundle.id, bundle.id)
    assert files_of(fetched.root) == files_of(bundle.root)


def test_registering_the_same_bundle_again_makes_no_second_version(registry, tiny_bundle, name):
    first = registry.register(tiny_bundle(name=name))
    other = registry.register(tiny_bundle(name=name, error_levels=3))
    again = registry.register(tiny_bundle(name=name))
    assert (first.number, other.number, again) == (1, 2, first)


def test_a_bundle_is_found_by_its_id_and_from_a_passport(
    registry, tiny_bundle, name, monkeypatch, tmp_path, capsys
):
    bundle = tiny_bundle(name=name)
    version = registry.register(bundle)
    assert registry.find_version(name, bundle.id) == version
    assert registry.find_version(name, "0" * 64) is None
    assert registry.find_version("' or name != '", bundle.id) is None

    step = Step(model=name, version="1", bundle=bundle.id)
    picture = Picture(rgb_hwc=np.zeros((8, 8, 3), np.uint8), passport=extended(None, step).text())
    write(tmp_path / "a.png", picture)
    monkeypatch.setenv("SHARPLINE_MLFLOW_URI", registry.uri)
    arguments = [str(tmp_path / "a.png"), "--models", str(tmp_path)]
    assert run(["passport", *arguments]) == 0
    assert f"version 1 of {name}" in capsys.readouterr().out
    write(
        tmp_path / "a.png",
        replace(
            picture, passport=extended(None, Step(model=name, version="9", bundle="0" * 64)).text()
        ),
    )
    assert run(["passport", *arguments]) == 1
    assert f"nor in the registry at {registry.uri}" in capsys.readouterr().err


def test_a_bundle_registered_concurrently_becomes_one_version(registry, tiny_bundle, name):
    bundle = tiny_bundle(name=name)
    versions = []
    threads = [
        threading.Thread(target=lambda: versions.append(registry.register(bundle)))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [version.number for version in versions] == [1, 1, 1]


def test_a_bundle_is_logged_to_its_training_run_and_a_second_one_does_not_overwrite_it(
    registry, client, tiny_bundle, name, tmp_path
):
    run_id = client.create_run("0").info.run_id
    first = registry.register(tiny_bundle(name=name, mlflow_run=run_id))
    second = registry.register(tiny_bundle(name=name, mlflow_run=run_id, error_levels=2))
    assert first.run_id == run_id
    assert second.run_id != run_id
    assert registry.fetch(first, tmp_path / "first").id == first.bundle_id
    assert registry.fetch(second, tmp_path / "second").id == second.bundle_id


def test_an_unknown_training_run_is_replaced_by_a_new_one(registry, tiny_bundle, name):
    version = registry.register(tiny_bundle(name=name, mlflow_run="0" * 32))
    assert version.run_id != "0" * 32


def test_a_deleted_training_run_is_replaced_by_a_new_one(registry, client, tiny_bundle, name):
    run_id = client.create_run("0").info.run_id
    client.delete_run(run_id)
    assert registry.register(tiny_bundle(name=name, mlflow_run=run_id)).run_id != run_id


def test_the_state_is_read_from_aliases_and_tags(registry, client, tiny_bundle, name):
    versions = [registry.register(tiny_bundle(name=name, error_levels=level)) for level in range(3)]
    registry.move_alias(name, "champion", versions[0], expected=None)
    registry.move_alias(name, "challenger", versions[1], expected=None)
    for tag, value in {"canary": "2", "canary_percent": "10", "shadow": "three"}.items():
        client.set_registered_model_tag(name, tag, value)
    state = registry.state(name)
    assert state.champion == versions[0]
    assert state.challenger == state.canary == versions[1]
    assert state.canary_percent == 10
    assert state.previous is state.shadow is None
    registry.move_alias(name, "challenger", None, expected=versions[1])
    assert registry.state(name).challenger is None


def test_an_alias_that_another_client_moved_is_not_overwritten(registry, tiny_bundle, name):
    first, second = (
        registry.register(tiny_bundle(name=name, error_levels=level)) for level in (0, 1)
    )
    registry.move_alias(name, "champion", first, expected=None)
    with pytest.raises(AliasMoved, match="now version 1, not none"):
        registry.move_alias(name, "champion", second, expected=None)
    assert registry.state(name).champion == first


def test_only_models_that_hold_bundles_are_listed(registry, client, tiny_bundle, name):
    registry.register(tiny_bundle(name=name))
    unrelated = f"stranger{uuid4().hex[:8]}"
    client.create_registered_model(unrelated)
    listed = registry.models()
    assert name in listed
    assert unrelated not in listed


def test_a_registered_model_made_by_another_client_is_tagged_and_used(
    registry, client, tiny_bundle, name
):
    client.create_registered_model(name)
    registry.register(tiny_bundle(name=name))
    assert name in registry.models()


def test_a_version_without_a_bundle_is_refused(registry, client, name):
    run = client.create_run("0").info
    client.create_registered_model(name)
    client.create_model_version(
        name, f"{run.artifact_uri}/x", run_id=run.run_id, tags={"bundle_id": "../../etc"}
    )
    with pytest.raises(NotRegistered, match="has no bundle id"):
        registry.version(name, 1)


@pytest.mark.parametrize(
    "call",
    [
        lambda registry, name: registry.state(name),
        lambda registry, name: registry.version(name, 4),
    ],
)
def test_unknown_models_and_versions_are_errors(registry, name, call):
    with pytest.raises(NotRegistered, match=name):
        call(registry, name)


def test_a_flipped_byte_in_the_registry_is_refused_and_leaves_nothing(
    registry, flip_byte, tiny_bundle, name, tmp_path
):
    version = registry.register(tiny_bundle(name=name))
    flip_byte(version, "weights.safetensors")
    with pytest.raises(BrokenBundle, match=r"weights\.safetensors"):
        registry.fetch(version, tmp_path / "into" / "here")
    assert list((tmp_path / "into").iterdir()) == []


def test_a_bundle_with_another_id_than_the_versions_is_refused(
    registry, client, tiny_bundle, name, tmp_path
):
    version = registry.register(tiny_bundle(name=name))
    other = tiny_bundle(name=name, error_levels=9)
    client.log_artifacts(version.run_id, str(other.root), "bundle")
    with pytest.raises(BrokenBundle, match=other.id[:12]):
        registry.fetch(version, tmp_path / "fetched")


@pytest.fixture
def disconnecting_server(serve_http):
    """The URL of a server that closes every connection, and the connections so far."""
    calls = []

    class Disconnect(BaseHTTPRequestHandler):
        def handle(self):
            calls.append(self.client_address)

    return serve_http(Disconnect), calls


def test_an_unavailable_registry_is_an_error_after_a_few_retries(
    disconnecting_server, tmp_path, tiny_bundle
):
    url, calls = disconnecting_server
    registry = Registry(url, locks=tmp_path)
    with pytest.raises(RegistryUnavailable, match=url.removeprefix("http://")):
        registry.models()
    assert 1 <= len(calls) <= 3  # MLflow's own client would retry for minutes
    with pytest.raises(RegistryUnavailable, match="check that it runs"):
        registry.register(tiny_bundle())
    assert len(calls) <= 6


def test_the_lock_serialises_and_a_name_cannot_escape_its_folder(registry, name, tmp_path):
    order = []

    def second():
        with registry.lock(name):
            order.append("second")

    with registry.lock(name):
        thread = threading.Thread(target=second)
        thread.start()
        order.append("first")
    thread.join()
    assert order == ["first", "second"]
    with pytest.raises(SharplineError, match="not a model name"):
        registry.lock("../escape")


def test_importing_release_loads_neither_mlflow_nor_torch():
    code = (
        "import sys, release.cli, release.registry, release.follow; "
        "sys.exit(bool({'mlflow', 'torch'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
