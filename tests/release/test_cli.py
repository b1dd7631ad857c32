"""The commands' interface: one JSON line, an exit code, and text output."""

import json

import pytest
import yaml


@pytest.fixture
def command(command):
    """Run `sharpline ARGUMENTS`; returns the exit code, the parsed JSON (or stdout) and stderr."""

    def sharpline(*arguments, as_json=True):
        code, out, error = command(*arguments, *(["--json"] if as_json else []))
        return code, json.loads(out.splitlines()[-1]) if as_json and out else out, error

    return sharpline


@pytest.fixture
def rules_file(rules, tmp_path):
    """The test's rules without a time limit: times of tiny networks vary on a busy machine."""
    cost = rules.cost.model_copy(update={"max_seconds_ratio": 1000.0})
    rules = rules.model_copy(update={"cost": cost})
    path = tmp_path / "rules.yaml"
    path.write_text(yaml.safe_dump(rules.model_dump(mode="json")))
    return path


def test_register_gate_promote_and_roll_back(
    command, tiny_bundle, held_out, rules_file, name, tmp_path
):
    champion = tiny_bundle(name=name, error_levels=8)
    challenger = tiny_bundle(name=name, error_levels=4)
    data = held_out()

    assert command("register", champion.root, "--first-champion")[:2] == (
        0,
        {"model": name, "version": 1, "bundle_id": champion.id, "alias": "champion"},
    )
    assert command("register", challenger.root)[1] == {
        "model": name,
        "version": 2,
        "bundle_id": challenger.id,
        "alias": "challenger",
    }
    code, decision, _ = command("gate", name, "--on", data, "--rules", rules_file)
    assert (code, decision["passed"], decision["reasons"]) == (0, True, [])
    assert decision["gain_psnr"] == pytest.approx(6.02, abs=0.01)
    assert decision["evidence"].startswith(str(tmp_path / "state" / "evidence"))

    promoted = command("promote", name, "--evidence", decision["evidence"])
    assert promoted[:2] == (0, {"model": name, "version": 2, "previous_champion": 1})
    assert command("promote", name, "--evidence", decision["evidence"])[0] == 0
    assert command("rollback", name)[:2] == (
        0,
        {"model": name, "version": 1, "previous_champion": 2},
    )
    code, _, error = command("rollback", name)
    assert code == 1
    assert "no previous champion" in error


def test_a_refused_version_exits_with_1_and_its_reasons(
    command, tiny_bundle, held_out, rules_file, name
):
    command("register", tiny_bundle(name=name, error_levels=4).root, "--first-champion")
    command("register", tiny_bundle(name=name, error_levels=8).root)
    code, decision, _ = command("gate", name, "--on", held_out(), "--rules", rules_file)
    assert (code, decision["passed"]) == (1, False)
    assert "-6.02" in decision["reasons"][0]
    code, _, error = command("promote", name, "--evidence", decision["evidence"])
    assert code == 1
    assert "the gate refused version 2" in error


def test_gating_the_champion_is_refused_without_evidence(
    command, tiny_bundle, held_out, rules_file, name
):
    command("register", tiny_bundle(name=name).root, "--first-champion")
    arguments = ("gate", name, "--version", "1", "--on", held_out(), "--rules", rules_file)
    code, decision, _ = command(*arguments)
    assert code == 1
    assert (decision["evidence"], decision["gain_psnr"]) == (None, None)
    assert "champion already" in decision["reasons"][0]
    code, text, _ = command(*arguments, as_json=False)
    assert code == 1
    assert f"{name} version 1: refused: version 1 is the champion already" in text


def test_the_sample_source_has_its_own_rules(command, tiny_bundle, held_out, name):
    command("register", tiny_bundle(name=name).root)
    code, decision, _ = command("gate", name, "--on", held_out(source="sample"))
    assert code == 1
    assert "the rules require 3 pictures and 100 blocks" in decision["reasons"][0]


def test_a_second_first_champion_changes_nothing_and_says_so(command, tiny_bundle, name):
    command("register", tiny_bundle(name=name).root, "--first-champion")
    second = tiny_bundle(name=name, error_levels=5)
    code, registered, error = command("register", second.root, "--first-champion")
    assert (code, registered["version"], registered["alias"]) == (0, 2, None)
    assert "has a champion already" in error


def test_several_bundles_are_registered_at_once(command, tiny_bundle, name):
    bundles = [tiny_bundle(name=f"{name}_{letter}") for letter in "ab"]
    code, result, error = command("register", *(bundle.root for bundle in bundles))
    assert code == 0
    assert [entry["bundle_id"] for entry in result["registered"]] == [b.id for b in bundles]
    assert {entry["alias"] for entry in result["registered"]} == {"challenger"}
    assert f"2 of 2: {name}_b: version 1" in error


def test_nothing_is_registered_where_one_bundle_is_broken(command, tiny_bundle, name, tmp_path):
    bundle = tiny_bundle(name=name)
    code, _, error = command("register", bundle.root, tmp_path / "missing")
    assert code != 0
    assert "missing" in error
    other = tiny_bundle(name=name, error_levels=5)
    assert command("register", other.root)[1]["version"] == 1


def test_registering_the_champion_again_sets_no_alias(command, tiny_bundle, name):
    bundle = tiny_bundle(name=name)
    command("register", bundle.root, "--first-champion")
    code, registered, error = command("register", bundle.root)
    assert (code, registered["version"], registered["alias"]) == (0, 1, None)
    assert "champion already" in error


def test_following_once_fills_the_folder(command, tiny_bundle, name, tmp_path):
    bundle = tiny_bundle(name=name)
    command("register", bundle.root, "--first-champion")
    _, followed, _ = command("models", "follow", "--to", tmp_path / "models", "--once")
    assert followed["changed"]
    assert followed["champions"][name] == bundle.id
    assert (tmp_path / "models" / "by-sha" / bundle.id / "bundle.json").is_file()
    text = command("models", "follow", "--to", tmp_path / "models", "--once", as_json=False)[1]
    assert f"{name}: {bundle.id}" in text


def test_following_once_fails_where_the_registry_is_unavailable(command, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    code, _, error = command(
        "models", "follow", "--to", tmp_path, "--once", "--registry", "http://127.0.0.1:9"
    )
    assert code == 1
    assert "check that it runs" in error


def test_two_followers_do_not_share_a_folder(command, tmp_path, monkeypatch):
    from superres.common.files import file_lock

    monkeypatch.setattr("release.cli.LOCK_SECONDS", 0.0)
    with file_lock(tmp_path / ".models.follow.lock"):
        code, _, error = command("models", "follow", "--to", tmp_path / "models", "--once")
    assert code == 1
    assert "locked by another process" in error


@pytest.mark.parametrize(
    "arguments",
    [
        ("register", "BUNDLE"),
        ("gate", "m", "--on", "."),
        ("promote", "m", "--evidence", "x"),
        ("rollback", "m"),
        ("models", "follow", "--to", "x"),
    ],
)
def test_a_missing_registry_address_exits_with_2(
    command, arguments, monkeypatch, tiny_bundle, tmp_path
):
    monkeypatch.delenv("SHARPLINE_MLFLOW_URI")
    monkeypatch.chdir(tmp_path)
    bundle = str(tiny_bundle().root)
    code, _, error = command(*(bundle if each == "BUNDLE" else each for each in arguments))
    assert code == 2
    assert "set SHARPLINE_MLFLOW_URI" in error


def test_registering_a_folder_that_is_not_a_bundle_fails(command, tmp_path):
    code, _, error = command("register", tmp_path)
    assert code == 1
    assert "is not a model bundle" in error


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "soon", "99999"])
def test_an_invalid_interval_exits_with_2(command, tmp_path, seconds):
    with pytest.raises(SystemExit, match="2"):
        command("models", "follow", "--to", tmp_path, "--every", seconds)
