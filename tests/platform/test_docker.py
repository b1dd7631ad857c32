"""The images agree with the rest of the repository: targets, extras, pins, users, manifests."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "docker/Dockerfile").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
IMAGES = ("serve", "follow", "train", "airflow", "mlflow")


def stages() -> dict[str, tuple[str, str]]:
    """Each stage's parent and instructions, by its name."""
    parts = re.split(r"^FROM (\S+) AS (\S+)$", DOCKERFILE, flags=re.MULTILINE)[1:]
    return {
        name: (parent, body)
        for parent, name, body in zip(parts[0::3], parts[1::3], parts[2::3], strict=True)
    }


def whole(name: str) -> str:
    """The instructions of a stage after those of the stages that it is built on."""
    parent, body = stages()[name]
    return (whole(parent) if parent in stages() else "") + body


@pytest.mark.parametrize("image", IMAGES)
def test_image_is_an_unprivileged_user_on_one_environment(image: str) -> None:
    instructions = whole(image)
    assert re.findall(r"^USER (\S+)$", instructions, re.MULTILINE) == ["10001:10001"]
    assert f"COPY --from=build-{image} /opt/venv /opt/venv" in instructions
    assert "-c constraints.txt" in whole(f"build-{image}")
    assert re.search(r"^ENTRYPOINT \[", instructions, re.MULTILINE)


@pytest.mark.parametrize("image", IMAGES)
def test_image_installs_extras_that_exist(image: str) -> None:
    extras = re.search(r"'\.\[(.+)\]'", whole(f"build-{image}"))
    assert extras is not None
    assert set(extras[1].split(",")) <= set(PROJECT["project"]["optional-dependencies"])


def test_images_and_set_up_use_the_same_build_tools() -> None:
    tools = re.search(r"BUILD_TOOLS=\((.+)\)", (ROOT / ".ci/setup").read_text())
    assert tools is not None
    assert f"pip install {tools[1]}\n" in DOCKERFILE


def test_no_heredoc_is_copied() -> None:
    assert "<<" not in DOCKERFILE


def test_context_holds_every_package_and_nothing_that_runs_leave() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    kept = {line.removeprefix("!") for line in lines if line.startswith("!")}
    packages = {
        name.rstrip("*") for name in PROJECT["tool"]["setuptools"]["packages"]["find"]["include"]
    }
    assert lines[1] == "*"
    assert packages | {"models", "constraints.txt", "pyproject.toml"} <= kept
    assert not kept & {".venv", ".sharpline", ".git", "tests"}


def test_manifests_run_images_that_are_built() -> None:
    used = set(
        re.findall(
            r"image: sharpline/(\S+)",
            "".join(path.read_text() for path in ROOT.glob("k8s/base/*.yaml")),
        )
    )
    assert used <= set(IMAGES)
    for overlay in ("dev", "prod"):
        text = (ROOT / f"k8s/overlays/{overlay}/kustomization.yaml").read_text()
        named = {image["name"] for image in yaml.safe_load(text)["images"]}
        assert named == {f"sharpline/{image}" for image in used}


def test_build_names_its_targets_and_options(tmp_path: Path) -> None:
    for name, script in (("docker", "exit 1"), ("podman", 'echo "podman $*"')):
        program = tmp_path / name
        program.write_text(f"#!/bin/bash\n{script}\n")
        program.chmod(0o755)
    done = subprocess.run(
        ["make", "images", "IMAGES=serve follow", "TAG=1.2"],
        cwd=ROOT,
        check=True,
        text=True,
        capture_output=True,
        env={"PATH": f"{tmp_path}:/usr/bin:/bin", "PIP_CONF": "/x/pip.conf"},
    )
    secret = "--secret id=pip,src=/x/pip.conf"
    assert done.stdout.splitlines() == [
        f"podman build {secret} -f docker/Dockerfile --target {image} -t sharpline/{image}:1.2 ."
        for image in ("serve", "follow")
    ]
    assert set(IMAGES) <= set(stages())
