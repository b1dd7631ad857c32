"""The MLflow server on one machine, with SQLite as backend store and a folder for artifacts."""

import sys
from collections.abc import Mapping
from pathlib import Path

from sharpline.local.processes import Service, Services, responds

READY_SECONDS = 90.0


def start(services: Services, root: Path, port: int, environment: Mapping[str, str]) -> Service:
    """Start the server on 127.0.0.1:`port` with its state in `root`."""
    root.mkdir(parents=True, exist_ok=True)
    command = [
        *(sys.executable, "-m", "mlflow", "server", "--workers", "1"),
        *("--host", "127.0.0.1", "--port", str(port)),
        *("--backend-store-uri", f"sqlite:///{root}/mlflow.db"),
        *("--artifacts-destination", str(root / "artifacts")),
        *("--allowed-hosts", "localhost:*,127.0.0.1:*"),
    ]
    settings = {
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_ALLOW_MODEL_CODE_EXECUTION": "false",
    }
    return services.start("mlflow", command, environment={**environment, **settings})


def is_up(url: str) -> bool:
    """Whether the server is ready."""
    return responds(f"{url}/health")
