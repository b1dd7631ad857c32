"""What the tests of this room share: a registry client, a model of one's own, a way to tamper."""

from pathlib import Path
from uuid import uuid4

import pytest

from release.registry import Registry


@pytest.fixture
def registry(mlflow_server, tmp_path):
    return Registry(mlflow_server, locks=tmp_path / "locks")


@pytest.fixture
def name():
    """A model of the test's own in the shared registry."""
    return f"m{uuid4().hex[:12]}"


@pytest.fixture
def client(mlflow_server):
    """MLflow's own client, for what somebody else might do to the registry."""
    from mlflow.tracking import MlflowClient

    return MlflowClient(tracking_uri=mlflow_server, registry_uri=mlflow_server)


@pytest.fixture
def flip_byte(client):
    """Turn one bit of a file of a version's bundle inside the registry."""

    def flip(version, file):
        path = Path(client.download_artifacts(version.run_id, f"bundle/{file}"))
        data = path.read_bytes()
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        client.log_artifact(version.run_id, str(path), "bundle")

    return flip
