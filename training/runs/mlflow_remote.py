"""An MLflow tracking server and its registry, as trainings use them."""

import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from http import HTTPStatus
from pathlib import Path
from typing import Any

from superres.common.console import say
from superres.common.errors import SharplineError
from superres.model.bundle import Bundle, load_bundle

EXPERIMENT = "sharpline"
# Tags that MLflow's pages know: a run's description, and the run that it is shown under.
DESCRIPTION_TAG, PARENT_TAG = "mlflow.note.content", "mlflow.parentRunId"
RUN_TAG, PARENT_NAME_TAG = "sharpline_run", "sharpline_parent"
# How a registered version holds its bundle; release.registry writes it so.
BUNDLE_TAG, BUNDLE_PATH = "bundle_id", "bundle"
BATCH_METRICS, BATCH_PARAMETERS = 1000, 100  # MLflow's limits for one call
# mlflow's client waits minutes by default; the sender has its own patience.
CLIENT_LIMITS = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "0",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}


class MlflowRemote:
    """An MLflow tracking server."""

    def __init__(self, uri: str) -> None:
        self._client = _client(uri)

    def start(self, note: Mapping[str, Any], run_id: str | None) -> str:
        """Open a run of the project's experiment; its key makes opening it twice harmless."""
        if run_id is not None:
            self._client.update_run(run_id, status="RUNNING")
            return run_id
        experiment_id = self._experiment_id()
        known = self._runs(experiment_id, RUN_TAG, note["key"])
        if known and known[0].data.params:
            return known[0].info.run_id
        run = known[0] if known else self._open(experiment_id, note)
        self._describe(run.info.run_id, note)
        return run.info.run_id

    def _open(self, experiment_id: str, note: Mapping[str, Any]) -> Any:
        tags = {**note["tags"], RUN_TAG: note["key"]}
        if note.get("parent_run"):
            tags[PARENT_TAG] = self._parent(experiment_id, note["parent_run"], note["time_ms"])
        return self._client.create_run(
            experiment_id, start_time=note["time_ms"], run_name=note["name"], tags=tags
        )

    def _parent(self, experiment_id: str, name: str, time_ms: int) -> str:
        """The run of that name, opened by whichever of its children comes first.

        Two that come at once both open one; the older stays, and both see the same two.
        """
        own: str | None = None
        if not self._runs(experiment_id, PARENT_NAME_TAG, name):
            own = self._client.create_run(
                experiment_id, start_time=time_ms, run_name=name, tags={PARENT_NAME_TAG: name}
            ).info.run_id
        parent = min(
            self._runs(experiment_id, PARENT_NAME_TAG, name),
            key=lambda run: (run.info.start_time, run.info.run_id),
        ).info.run_id
        if own not in (None, parent):
            self._client.delete_run(own)
        self._client.update_run(parent, status="RUNNING")
        return parent

    def _end_parent(self, run_id: str, time_ms: int) -> None:
        """End the run above this one, once none of its children is running."""
        run = self._client.get_run(run_id)
        parent = run.data.tags.get(PARENT_TAG)
        if parent is None:
            return
        siblings = self._runs(run.info.experiment_id, PARENT_TAG, parent, most=1000)
        states = {sibling.info.status for sibling in siblings}
        if "RUNNING" not in states:
            status = "FAILED" if "FAILED" in states else "FINISHED"
            self._client.set_terminated(parent, status=status, end_time=time_ms)

    def _runs(self, experiment_id: str, tag: str, value: str, most: int = 50) -> Any:
        # Backslashes and quotes would need MLflow's filter language to know escapes; it does not.
        return self._client.search_runs(
            [experiment_id], filter_string=f"tags.`{tag}` = '{value}'", max_results=most
        )

    def take(self, run_id: str, note: Mapping[str, Any], folder: Path) -> None:
        """Send one note. One that MLflow calls malformed is named and passed over."""
        from mlflow.exceptions import MlflowException

        try:
            self._take(run_id, note, folder)
        except MlflowException as error:
            if error.get_http_status_code() != HTTPStatus.BAD_REQUEST:
                raise
            say(f"MLflow refuses a note of kind {note['note']}: {error.message}")

    def _take(self, run_id: str, note: Mapping[str, Any], folder: Path) -> None:
        kind = note["note"]
        if kind == "metrics":
            self._metrics(run_id, note)
        elif kind == "artifacts":
            path = folder / note["path"]
            log = self._client.log_artifacts if path.is_dir() else self._client.log_artifact
            log(run_id, str(path), note["to"])
        elif kind == "tags":
            for key, value in note["values"].items():
                self._client.set_tag(run_id, key, value)
        elif kind == "end":
            self._client.set_terminated(run_id, status=note["status"], end_time=note["time_ms"])
            self._end_parent(run_id, note["time_ms"])

    def _experiment_id(self) -> str:
        from mlflow.exceptions import MlflowException

        found = self._client.get_experiment_by_name(EXPERIMENT)
        if found is not None:
            return found.experiment_id
        try:
            return self._client.create_experiment(EXPERIMENT)
        except MlflowException:  # another training was quicker
            found = self._client.get_experiment_by_name(EXPERIMENT)
            if found is None:
                raise
            return found.experiment_id

    def _describe(self, run_id: str, note: Mapping[str, Any]) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag, Param

        dataset = Dataset(
            name=note["dataset_source"],
            digest=note["dataset_id"],
            source_type="sharpline",
            source=note["dataset_source"],
        )
        context = InputTag(key="mlflow.data.context", value="training")
        self._client.log_inputs(run_id, [DatasetInput(dataset=dataset, tags=[context])])
        # Parameters come last: a run that has some has been told everything.
        parameters = [Param(key, value) for key, value in note["parameters"].items()]
        for some in _batches(parameters, BATCH_PARAMETERS):
            self._client.log_batch(run_id, params=some)

    def _metrics(self, run_id: str, note: Mapping[str, Any]) -> None:
        from mlflow.entities import Metric

        metrics = [
            Metric(key, value, note["time_ms"], note["step"])
            for key, value in note["values"].items()
        ]
        for some in _batches(metrics, BATCH_METRICS):
            self._client.log_batch(run_id, metrics=some)


def fetch_bundle(uri: str, name: str, alias: str, folder: Path) -> Bundle:
    """The bundle behind an alias of the registry, verified, in a folder of its id under `folder`.

    Raises SharplineError where the registry does not answer, has no such model or alias, or sends
    other bytes than the version stands for.
    """
    from mlflow.exceptions import MlflowException

    client = _client(uri)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        version = client.get_model_version_by_alias(name, alias)
        expected = version.tags.get(BUNDLE_TAG, "")
        if not re.fullmatch("[0-9a-f]{64}", expected):
            raise SharplineError(f"{name}@{alias} of the registry at {uri} holds no bundle")
        final = folder / expected
        if not final.is_dir():
            with tempfile.TemporaryDirectory(dir=folder) as scratch:
                path = Path(client.download_artifacts(version.run_id, BUNDLE_PATH, scratch))
                if load_bundle(path).id != expected:
                    raise SharplineError(
                        f"the registry at {uri} sent another bundle than {name}@{alias} stands for"
                    )
                with suppress(OSError):  # another training was quicker
                    path.rename(final)
    except (MlflowException, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise SharplineError(
            f"{name}@{alias} cannot be had from the registry at {uri} ({reason})"
        ) from error
    return load_bundle(final)


def _client(uri: str) -> Any:
    for name, value in CLIENT_LIMITS.items():
        os.environ.setdefault(name, value)
    from mlflow.tracking import MlflowClient

    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def _batches(items: list[Any], size: int) -> Iterator[list[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
