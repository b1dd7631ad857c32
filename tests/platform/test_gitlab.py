"""The pipeline and the hooks call existing make targets only, and job dependencies are valid."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
NOT_JOBS = {"stages", "workflow", "default", "variables", "include"}
PIPELINE: dict[str, Any] = yaml.safe_load((ROOT / ".gitlab-ci.yml").read_text())
JOBS = {name: job for name, job in PIPELINE.items() if name not in NOT_JOBS}


def targets() -> set[str]:
    phony = re.findall(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    named = {word for line in phony for word in line.split() if re.fullmatch(r"[a-z0-9-]+", word)}
    checks = re.search(r"^CHECKS := (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert checks is not None
    return named | {f"check-{part}" for part in checks[1].split()}


def unknown_targets(command: str) -> list[str]:
    """The arguments of a `make` command that are neither known targets nor VARIABLE=value."""
    program, *arguments = command.split()
    assert program == "make", command
    return [word for word in arguments if "=" not in word and word not in targets()]


@pytest.mark.parametrize("name", JOBS)
def test_job_calls_make_targets_only(name: str) -> None:
    job = JOBS[name]
    commands = [*job.get("before_script", []), *job["script"], *job.get("after_script", [])]
    assert commands
    assert [unknown_targets(command) for command in commands] == [[] for _ in commands]


def test_unknown_target_is_detected() -> None:
    assert unknown_targets("make tset TAG=1") == ["tset"]


@pytest.mark.parametrize("name", sorted(targets()))
def test_target_dry_runs(name: str) -> None:
    command = ["make", "--dry-run", "--assume-old=setup", name, "IMAGES="]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", JOBS)
def test_job_is_not_in_an_earlier_stage_than_its_needs(name: str) -> None:
    stages = PIPELINE["stages"]
    position = stages.index(JOBS[name]["stage"])
    for need in JOBS[name].get("needs", []):
        needed = need["job"] if isinstance(need, dict) else need
        assert stages.index(JOBS[needed]["stage"]) <= position


def test_gate_and_promotion_are_manual() -> None:
    for name in ("gate", "promote"):
        assert [rule["when"] for rule in JOBS[name]["rules"]] == ["manual"]
    assert JOBS["promote"]["resource_group"]


def test_coverage_pattern_matches_the_printed_summary() -> None:
    pattern = JOBS["test"]["coverage"].strip("/")
    line = "(summary)                                 24528        771        92"
    found = re.search(pattern, line)
    assert found is not None
    assert found[1] == "92"


def test_hooks_call_make_targets_only() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    entries = [hook["entry"] for repo in hooks["repos"] for hook in repo["hooks"]]
    assert entries
    assert [unknown_targets(entry) for entry in entries] == [[] for _ in entries]
