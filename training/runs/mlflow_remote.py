"""Client of an MLflow tracking server and its model registry."""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from http import HTTPStatus
from pathlib import Path
from typing import Any

from superres.common.console import say
from superres.common.errors import SharplineError
from superres.common.mlflow_client import (
    BUNDLE_ID,
    BUNDLE_PATH,
    BUNDLE_TAG,
    connect,
    first_line,
)
from superres.model.bundle import Bundle, load_bundle

EXPERIMENT = "sharpline"
# Tags that MLflow's UI interprets: a run's description and its parent run.
DESCRIPTION_TAG, PARENT_TAG = "mlflow.note.content", "mlflow.parentRunId"
RUN_TAG, PARENT_NAME_TAG = "sharpline_run", "sharpline_parent"
BATCH_METRICS, BATCH_PARAMETERS = 1000, 100  # MLflow's limits for one call


class MlflowRemote:
    """An MLflow tracking server."""

    def __init__(self, uri: str) -> None:
        self._client = _client(uri)

    def start(self, record: Mapping[str, Any], run_id: str | None) -> str:
        """Create or resume a run of the project's experiment; idempotent by the run's key."""
        if run_id is not None:
            self._client.update_run(run_id, status="RUNNING")
            return run_id
        experiment_id = self._experiment_id()
        existing = self._search_runs(experiment_id, RUN_TAG, record["key"])
        if existing and existing[0].data.params:
            return existing[0].info.run_id
        run = existing[0] if existing else self._create_run(experiment_id, record)
        self._describe(run.info.run_id, record)
        return run.info.run_id

    def _create_run(self, experiment_id: str, record: Mapping[str, Any]) -> Any:
        tags = {**record["tags"], RUN_TAG: record["key"]}
        if record.get("parent_run"):
            tags[PARENT_TAG] = self._parent_run_id(
                experiment_id, record["parent_run"], record["time_ms"]
            )
        return self._client.create_run(
            experiment_id, start_time=record["time_ms"], run_name=record["name"], tags=tags
        )

    def _parent_run_id(self, experiment_id: str, name: str, time_ms: int) -> str:
        """The id of the parent run of that name, created by its first child.

        If two children create it at once, both keep the older run and delete the other.
        """
        created: str | None = None
        if not self._search_runs(experiment_id, PARENT_NAME_TAG, name):
            created = self._client.create_run(
                experiment_id, start_time=time_ms, run_name=name, tags={PARENT_NAME_TAG: name}
            ).info.run_id
        parent = min(
            self._search_runs(experiment_id, PARENT_NAME_TAG, name),
            key=lambda run: (run.info.start_time, run.info.run_id),
        ).info.run_id
        if created not in (None, parent):
            self._client.delete_run(created)
        self._client.update_run(parent, status="RUNNING")
        return parent

    def _end_parent(self, run_id: str, time_ms: int) -> None:
        """End the parent run of this run once none of its children is running."""
        run = self._client.get_run(run_id)
        parent = run.data.tags.get(PARENT_TAG)
        if parent is None:
            return
        siblings = self._search_runs(run.info.experiment_id, PARENT_TAG, parent, max_results=1000)
        states = {sibling.info.status for sibling in siblings}
        if "RUNNING" not in states:
            status = "FAILED" if "FAILED" in states else "FINISHED"
            self._client.set_terminated(parent, status=status, end_time=time_ms)

    def _search_runs(self, experiment_id: str, tag: str, value: str, max_results: int = 50) -> Any:
        # MLflow's filter language has no escapes for backslashes and quotes.
        return self._client.search_runs(
            [experiment_id], filter_string=f"tags.`{tag}` = '{value}'", max_results=max_results
        )

    def log_record(self, run_id: str, record: Mapping[str, Any], folder: Path) -> None:
        """Send one record. A record that MLflow rejects as malformed is logged and skipped."""
        from mlflow.exceptions import MlflowException

        try:
            self._dispatch(run_id, record, folder)
        except MlflowException as error:
            if error.get_http_status_code() != HTTPStatus.BAD_REQUEST:
                raise
            say(f"MLflow rejects a record of kind {record['note']}: {error.message}")

    def _dispatch(self, run_id: str, record: Mapping[str, Any], folder: Path) -> None:
        kind = record["note"]
        if kind == "metrics":
            self._metrics(run_id, record)
        elif kind == "artifacts":
            path = folder / record["path"]
            log = self._client.log_artifacts if path.is_dir() else self._client.log_artifact
            log(run_id, str(path), record["to"])
        elif kind == "tags":
            for key, value in record["values"].items():
                self._client.set_tag(run_id, key, value)
        elif kind == "end":
            self._client.set_terminated(run_id, status=record["status"], end_time=record["time_ms"])
            self._end_parent(run_id, record["time_ms"])

    def _experiment_id(self) -> str:
        from mlflow.exceptions import MlflowException

        experiment = self._client.get_experiment_by_name(EXPERIMENT)
        if experiment is not None:
            return experiment.experiment_id
        try:
            return self._client.create_experiment(EXPERIMENT)
        except MlflowException:  # another training created it concurrently
            experiment = self._client.get_experiment_by_name(EXPERIMENT)
            if experiment is None:
                raise
            return experiment.experiment_id

    def _describe(self, run_id: str, record: Mapping[str, Any]) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag, Param

        dataset = Dataset(
            name=record["dataset_source"],
            digest=record["dataset_id"],
            source_type="sharpline",
            source=record["dataset_source"],
        )
        context = InputTag(key="mlflow.data.context", value="training")
        self._client.log_inputs(run_id, [DatasetInput(dataset=dataset, tags=[context])])
        # Parameters are sent last: they mark the description as complete.
        parameters = [Param(key, value) for key, value in record["parameters"].items()]
        for batch in _batches(parameters, BATCH_PARAMETERS):
            self._client.log_batch(run_id, params=batch)

    def _metrics(self, run_id: str, record: Mapping[str, Any]) -> None:
        from mlflow.entities import Metric

        metrics = [
            Metric(key, value, record["time_ms"], record["step"])
            for key, value in record["values"].items()
        ]
        for batch in _batches(metrics, BATCH_METRICS):
            self._client.log_batch(run_id, metrics=batch)


def fetch_bundle(uri: str, name: str, alias: str, folder: Path) -> Bundle:
    """Download the bundle of an alias, verify its id, and store it as FOLDER/ID.

    Raises SharplineError if the registry is unavailable, has no such model or alias, or sends
    another bundle than registered.
    """
    from mlflow.exceptions import MlflowException

    client = _client(uri)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        version = client.get_model_version_by_alias(name, alias)
        expected = version.tags.get(BUNDLE_TAG, "")
        if not BUNDLE_ID.fullmatch(expected):
            raise SharplineError(f"{name}@{alias} of the registry at {uri} has no bundle")
        final = folder / expected
        if not final.is_dir():
            with tempfile.TemporaryDirectory(dir=folder) as scratch:
                path = Path(client.download_artifacts(version.run_id, BUNDLE_PATH, scratch))
                if load_bundle(path).id != expected:
                    raise SharplineError(
                        f"the registry at {uri} sent another bundle than registered for "
                        f"{name}@{alias}"
                    )
                with suppress(OSError):  # another training stored it concurrently
                    path.rename(final)
    except (MlflowException, OSError) as error:
        raise SharplineError(
            f"cannot download {name}@{alias} from the registry at {uri} ({first_line(error)})"
        ) from error
    return load_bundle(final)


def _client(uri: str) -> Any:
    # The sending thread has its own retries.
    return connect(uri, timeout_seconds=10, max_retries=1, backoff_factor=0)


def _batches(items: list[Any], size: int) -> Iterator[list[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
