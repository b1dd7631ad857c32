"""The manifests render, hold against the API's schemas, and what schemas miss is caught."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]


def check(root: Path) -> subprocess.CompletedProcess[str]:
    if shutil.which("kubectl") is None:
        pytest.skip("needs kubectl to render the overlays")
    command = [sys.executable, "k8s/check.py", "--out", str(root / "out")]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    for name in ("k8s", "monitoring"):
        shutil.copytree(ROOT / name, tmp_path / name)
    return tmp_path


def test_overlays_hold(copied: Path) -> None:
    answer = check(copied)
    assert answer.returncode == 0, answer.stderr
    rendered = {
        path.stem: list(yaml.safe_load_all(path.read_text())) for path in (copied / "out").iterdir()
    }
    assert set(rendered) == {"dev", "prod", "train"}
    for resources in (rendered["dev"], rendered["prod"]):
        assert {"sharpline", "mlflow"} <= {
            resource["metadata"]["name"]
            for resource in resources
            if resource["kind"] == "Deployment"
        }


def test_dashboards_reach_grafana_whole(copied: Path) -> None:
    assert check(copied).returncode == 0
    (dashboards,) = [
        resource
        for resource in yaml.safe_load_all((copied / "out/prod.yaml").read_text())
        if resource["metadata"]["name"] == "sharpline-dashboards"
    ]
    source = ROOT / "monitoring/grafana/dashboards/serving.json"
    assert dashboards["data"]["serving.json"] == source.read_text()


SERVE, NETWORK = "k8s/base/serve.yaml", "k8s/base/network.yaml"


@pytest.mark.parametrize(
    ("file", "old", "new", "named"),
    [
        (SERVE, "memory: 4Gi", "memory: 4Gib", "'4Gib' is no quantity"),
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
            "serve.livenessProbe asks port 'web'",
        ),
        (SERVE, "SHARPLINE_MODELS__FOLDER", "SHARPLINE_MODEL_FOLDER", "nothing reads"),
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
            "is killed before its drain of 100 s",
        ),
        (
            SERVE,
            "name: serve-tmp\n              mountPath",
            "name: scratch\n              mountPath",
            "serve mounts no volume 'scratch'",
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
            "there is no Deployment/server",
        ),
        (
            "k8s/components/autoscale/kustomization.yaml",
            "op: remove\n        path: /spec/replicas",
            "op: add\n        path: /spec/replicas\n        value: 3",
            "which its autoscaler owns",
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
            "these are one number: completions 2, parallelism 3, MACHINES 2",
        ),
        (
            "k8s/components/train/job.yaml",
            "subdomain: sharpline-train",
            "subdomain: train",
            "there is no headless Service/train",
        ),
        (
            "k8s/overlays/dev/kustomization.yaml",
            "../../base",
            "../../bass",
            "dev: kustomize refuses",
        ),
    ],
)
def test_planted_fault_is_named(copied: Path, file: str, old: str, new: str, named: str) -> None:
    path = copied / file
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))
    answer = check(copied)
    assert answer.returncode == 1
    assert named in answer.stderr
    assert "Traceback" not in answer.stderr


@pytest.mark.parametrize(
    ("component", "rendered"),
    [("gpu", 'nvidia.com/gpu: "1"'), ("jobs", "name: SHARPLINE_JOBS__BUCKET")],
)
def test_component_renders_on_the_base(copied: Path, component: str, rendered: str) -> None:
    overlay = copied / "k8s/overlays" / component
    shutil.copytree(copied / "k8s/overlays/dev", overlay)
    path = overlay / "kustomization.yaml"
    path.write_text(path.read_text() + f"components:\n  - ../../components/{component}\n")
    answer = check(copied)
    assert answer.returncode == 0, answer.stderr
    assert rendered in (copied / f"out/{component}.yaml").read_text()


def test_without_kubectl_the_target_fails_and_the_check_skips(tmp_path: Path) -> None:
    command = [sys.executable, "k8s/check.py", "--out", str(tmp_path)]
    for flags, code in (([], 1), (["--skip-without-kubectl"], 0)):
        answer = subprocess.run(
            [*command, *flags],
            cwd=ROOT,
            env={"PATH": str(tmp_path)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert answer.returncode == code
        assert "needs kubectl" in answer.stderr
