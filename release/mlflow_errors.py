"""Errors of MLflow's client as errors of this package; its only import of mlflow."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

from release.versions import NotRegistered, RegistryUnavailable
from superres.common.mlflow_client import first_line

ABSENT = "RESOURCE_DOES_NOT_EXIST"


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
        raise RegistryUnavailable(
            f"the registry at {uri} failed ({first_line(error)}); check that it runs and try again"
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
