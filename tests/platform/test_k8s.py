"""The manifests render, validate against the API's schemas, and pass the extra checks."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def check(root: Path) -> list[str]:
    """The faults of every overlay; the rendered manifests are in `root / "out"`."""
    from check import check_overlay

    out = root / "out"
    out.mkdir(exist_ok=True)
    folders = sorted((root / "k8s/overlays").iterdir())
    return [
        fault for folder in folders for fault in check_overlay(folder, out / f"{folder.name}.yaml")
    ]


@pytest.fixture
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    if shutil.which("kubectl") is None:
        pytest.skip("needs kubectl to render the overlays")
    for name in ("k8s", "monitoring"):
        shutil.copytree(ROOT / name, tmp_path / name)
    monkeypatch.syspath_prepend(ROOT / "k8s")
    return tmp_path


def command(*arguments: str, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "k8s/check.py", *arguments],
        cwd=ROOT,
        env=None if path is None else {"PATH": str(path)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_overlays_are_valid(copied: Path) -> None:
    done = command("--out", str(copied / "out"))
    assert done.returncode == 0, done.stderr
    rendered = {
        path.stem: list(yaml.load_all(path.read_text(), LOADER))
        for path in (copied / "out").iterdir()
    }
    assert set(rendered) == {"dev", "prod", "train"}
    for resources in (rendered["dev"], rendered["prod"]):
        assert {"sharpline", "mlflow"} <= {
            resource["metadata"]["name"]
            for resource in resources
            if resource["kind"] == "Deployment"
        }


def test_dashboards_reach_grafana_unchanged(copied: Path) -> None:
    assert check(copied) == []
    (dashboards,) = [
        resource
        for resource in yaml.load_all((copied / "out/prod.yaml").read_text(), LOADER)
        if resource["metadata"]["name"] == "sharpline-dashboards"
    ]
    source = ROOT / "monitoring/grafana/dashboards/serving.json"
    assert dashboards["data"]["serving.json"] == source.read_text()


SERVE, NETWORK = "k8s/base/serve.yaml", "k8s/base/network.yaml"


@pytest.mark.parametrize(
    ("file", "old", "new", "named"),
    [
        (SERVE, "memory: 4Gi", "memory: 4Gib", "'4Gib' is not a quantity"),
        (
            SERVE,
            "    app.kubernetes.io/component: serve\n  ports",
            "    app: serv\n  ports",
            "Service/sharpline: no pod has the labels",
        ),
        (SERVE, "targetPort: http", "targetPort: web", "no pod behind it opens port 'web'"),
        (
            SERVE,
            "path: /livez\n              port: http",
            "path: /livez\n              port: web",
            "serve.livenessProbe uses port 'web'",
        ),
        (SERVE, "SHARPLINE_MODELS__FOLDER", "SHARPLINE_MODEL_FOLDER", "unknown setting"),
        (
            SERVE,
            "enableServiceLinks: false",
            "enableServiceLinks: true",
            "enableServiceLinks: false",
        ),
        (
            SERVE,
            "readOnlyRootFilesystem: true",
            "readOnlyRootFilesystem: false",
            "follow readOnlyRootFilesystem",
        ),
        (
            SERVE,
            "terminationGracePeriodSeconds: 120",
            "terminationGracePeriodSeconds: 30",
            "is shorter than its drain of 100 s",
        ),
        (
            SERVE,
            "name: serve-tmp\n              mountPath",
            "name: scratch\n              mountPath",
            "serve mounts the unknown volume 'scratch'",
        ),
        (SERVE, "periodSeconds: 10", "periodSecond: 10", "periodSecond"),
        (
            NETWORK,
            "component: registry\n  policyTypes",
            "component: registri\n  policyTypes",
            "NetworkPolicy/registry: no pod has the labels",
        ),
        (
            "k8s/base/mlflow.yaml",
            "claimName: mlflow",
            "claimName: data",
            "PersistentVolumeClaim/data",
        ),
        (
            "k8s/components/autoscale/autoscaler.yaml",
            "name: sharpline\n  minReplicas",
            "name: server\n  minReplicas",
            "Deployment/server does not exist",
        ),
        (
            "k8s/components/autoscale/kustomization.yaml",
            "op: remove\n        path: /spec/replicas",
            "op: add\n        path: /spec/replicas\n        value: 3",
            "which its autoscaler sets",
        ),
        (
            "k8s/components/monitoring/servicemonitor.yaml",
            "component: serve",
            "component: server",
            "ServiceMonitor/sharpline: no Service has the labels",
        ),
        (
            "k8s/overlays/train/kustomization.yaml",
            "parallelism: 2",
            "parallelism: 3",
            "must be equal: completions 2, parallelism 3, MACHINES 2",
        ),
        (
            "k8s/components/train/job.yaml",
            "subdomain: sharpline-train",
            "subdomain: train",
            "headless Service/train does not exist",
        ),
        (
            "k8s/overlays/dev/kustomization.yaml",
            "../../base",
            "../../bass",
            "dev: kustomize failed",
        ),
    ],
)
def test_planted_fault_is_reported(copied: Path, file: str, old: str, new: str, named: str) -> None:
    path = copied / file
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))
    assert named in "\n".join(check(copied))


def test_the_command_exits_with_1_on_faults(copied: Path) -> None:
    path = copied / SERVE
    path.write_text(path.read_text().replace("memory: 4Gi", "memory: 4Gib", 1))
    overlays = ("--overlays", str(copied / "k8s/overlays"))
    done = command("--out", str(copied / "out"), *overlays)
    assert done.returncode == 1
    assert "k8s: prod: Deployment/sharpline: " in done.stderr
    assert "'4Gib' is not a quantity" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("component", "rendered"),
    [("gpu", 'nvidia.com/gpu: "1"'), ("jobs", "name: SHARPLINE_JOBS__BUCKET")],
)
def test_component_renders_on_the_base(copied: Path, component: str, rendered: str) -> None:
    overlay = copied / "k8s/overlays" / component
    shutil.copytree(copied / "k8s/overlays/dev", overlay)
    path = overlay / "kustomization.yaml"
    path.write_text(path.read_text() + f"components:\n  - ../../components/{component}\n")
    assert check(copied) == []
    assert rendered in (copied / f"out/{component}.yaml").read_text()


def test_without_kubectl_the_target_fails_and_the_check_skips(tmp_path: Path) -> None:
    for flags, code in (([], 1), (["--skip-without-kubectl"], 0)):
        done = command("--out", str(tmp_path), *flags, path=tmp_path)
        assert done.returncode == code
        assert "needs kubectl" in done.stderr
