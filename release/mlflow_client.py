"""MLflow's client with short timeouts; the only import of mlflow in this package."""

import os
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

from release.versions import NotRegistered, RegistryUnavailable

ABSENT = "RESOURCE_DOES_NOT_EXIST"
# MLflow's client would otherwise retry for minutes, draw progress bars and send telemetry. The
# environment overrides each of these.
CLIENT_SETTINGS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}


def connect(uri: str) -> Any:
    """A client for the tracking server and registry at `uri`."""
    for name, value in CLIENT_SETTINGS.items():
        os.environ.setdefault(name, value)
    from mlflow.tracking import MlflowClient

    return MlflowClient(tracking_uri=uri, registry_uri=uri)


@contextmanager
def translate_errors(uri: str) -> Generator[None]:
    """Raise errors of MLflow and its HTTP client as this package's errors.

    Raises NotRegistered for objects that the registry does not have, RegistryUnavailable for every
    other error.
    """
    from mlflow.exceptions import MlflowException, RestException

    try:
        yield
    except (MlflowException, OSError) as error:
        if isinstance(error, RestException) and error.error_code == ABSENT:
            raise NotRegistered(f"{error.message}; register a bundle first") from error
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise RegistryUnavailable(
            f"the registry at {uri} failed ({reason}); check that it runs and try again"
        ) from error


def or_none(call: Callable[[], Any]) -> Any:
    """The result of `call()`, or None where the registry has no such object."""
    from mlflow.exceptions import RestException

    try:
        return call()
    except RestException as error:
        if error.error_code == ABSENT:
            return None
        raise
