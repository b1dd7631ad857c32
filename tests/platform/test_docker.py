"""The images match the rest of the repository: targets, extras, pins, users, manifests."""

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


def instructions_of(name: str) -> str:
    """The instructions of a stage after those of its parent stages."""
    parent, body = stages()[name]
    return (instructions_of(parent) if parent in stages() else "") + body


@pytest.mark.parametrize("image", IMAGES)
def test_image_runs_as_an_unprivileged_user_with_one_environment(image: str) -> None:
    instructions = instructions_of(image)
    assert re.findall(r"^USER (\S+)$", instructions, re.MULTILINE) == ["10001:10001"]
    assert f"COPY --from=build-{image} /opt/venv /opt/venv" in instructions
    assert "-c constraints.txt" in instructions_of(f"build-{image}")
    assert re.search(r"^ENTRYPOINT \[", instructions, re.MULTILINE)


@pytest.mark.parametrize("image", IMAGES)
def test_image_installs_extras_that_exist(image: str) -> None:
    extras = re.search(r"'\.\[(.+)\]'", instructions_of(f"build-{image}"))
    assert extras is not None
    assert set(extras[1].split(",")) <= set(PROJECT["project"]["optional-dependencies"])


def test_images_and_set_up_use_the_same_build_tools() -> None:
    tools = re.search(r"BUILD_TOOLS=\((.+)\)", (ROOT / ".ci/setup").read_text())
    assert tools is not None
    assert f"pip install {tools[1]}\n" in DOCKERFILE


def test_dockerfile_has_no_heredoc() -> None:
    assert "<<" not in DOCKERFILE


def test_context_has_every_package_and_no_runtime_files() -> None:
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


def test_build_passes_its_targets_and_options(tmp_path: Path) -> None:
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
