"""MLflow clients, and where the registry keeps bundles; mlflow is imported by `connect` only.

A version of a registered model holds one bundle: the artifacts at BUNDLE_PATH of the version's run.
"""

import os
import re
from typing import Any

BUNDLE_TAG, BUNDLE_PATH = "bundle_id", "bundle"
BUNDLE_ID = re.compile(r"[0-9a-f]{64}")
REASON_CHARACTERS = 200


def connect(uri: str, *, timeout_seconds: int, max_retries: int, backoff_factor: int) -> Any:
    """A client for the tracking server and registry at `uri`.

    MLflow's own variables in the environment override the limits, which hold for the whole process:
    MLflow's client would otherwise retry for minutes, draw progress bars and send telemetry.
    """
    settings = {
        "MLFLOW_HTTP_REQUEST_TIMEOUT": str(timeout_seconds),
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": str(max_retries),
        "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": str(backoff_factor),
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    for name, value in settings.items():
        os.environ.setdefault(name, value)
    from mlflow.tracking import MlflowClient

    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def first_line(error: Exception) -> str:
    """The first line of an error's text, shortened; its type if it has no text."""
    return (str(error).splitlines() or [type(error).__name__])[0][:REASON_CHARACTERS]
