"""Client of the model registry: bundles in, versions and aliases out.

A registered model has the bundle's name; each of its versions holds one bundle, as artifacts of
the run that made it, and the bundle's id in the tag `bundle_id`.
"""

import re
import tempfile
from contextlib import AbstractContextManager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from release.mlflow_errors import or_none, translate_errors
from release.versions import (
    CANARY_PERCENT_TAG,
    CANARY_TAG,
    EVIDENCE_TAG,
    SHADOW_TAG,
    Alias,
    AliasMoved,
    NotRegistered,
    ReleaseState,
    RolloutKind,
    Version,
    numbers_of,
    to_strings,
    version_of,
)
from superres.common.environment import state_folder, user_at_host
from superres.common.files import file_lock, sha256_file
from superres.common.mlflow_client import BUNDLE_ID, BUNDLE_PATH, BUNDLE_TAG, connect
from superres.model.bundle import BrokenBundle, Bundle, load_bundle

MODEL_NAME = re.compile(r"\w[\w.-]*")
EXPERIMENT = "registry"
MODEL_TAG, MODEL_TAG_VALUE = "sharpline", "bundle"
LOCK_TIMEOUT_SECONDS = 60.0
FETCH_PREFIX = ".fetch-"


class Registry:
    """The MLflow registry at `uri`, with short timeouts.

    Every method raises RegistryUnavailable where the server cannot be reached. `locks` is the
    folder of the promotion locks, by default `locks` in the state folder.
    """

    def __init__(self, uri: str, *, locks: Path | None = None) -> None:
        self.uri = uri
        self._locks = locks or state_folder() / "locks"
        # MLflow's client is only partly typed; this class returns typed values.
        self._client: Any = connect(uri, timeout_seconds=20, max_retries=2, backoff_factor=1)

    def lock(self, model: str) -> AbstractContextManager[None]:
        """The promotion lock of one model, held around every change of its aliases.

        It is an advisory file lock in the state folder: it serialises the commands that share that
        folder, and the kernel releases it when its holder dies. Commands on another machine do not
        see it; for them `move_alias` compares first, which leaves a race window of one request,
        since MLflow has no compare-and-set.

        Raises SharplineError where another command still holds it after a minute.
        """
        if not MODEL_NAME.fullmatch(model):
            raise NotRegistered(
                f"{model!r} is not a model name; names contain letters, digits, dots, dashes and "
                "underscores"
            )
        return file_lock(self._locks / f"{model}.lock", timeout_seconds=LOCK_TIMEOUT_SECONDS)

    def register(self, bundle: Bundle) -> Version:
        """Register a bundle as a new version of the model of its name; aliases stay unchanged.

        Returns the existing version where one has this bundle id.
        """
        model = bundle.info.name
        with self.lock(model), self._translate_errors():
            self._ensure_model(model)
            existing = self.find_version(model, bundle.id)
            if existing is not None:
                return existing
            run_id, artifact_uri = self._upload(bundle)
            entity = self._client.create_model_version(
                model,
                source=f"{artifact_uri}/{BUNDLE_PATH}",
                run_id=run_id,
                tags={BUNDLE_TAG: bundle.id},
                await_creation_for=0,
            )
            return version_of(entity)

    def find_version(self, model: str, bundle_id: str) -> Version | None:
        """The version of a model with this bundle id, None where there is none."""
        # Both go into an MLflow filter string and may be untrusted input.
        if not MODEL_NAME.fullmatch(model) or not BUNDLE_ID.fullmatch(bundle_id):
            return None
        with self._translate_errors():
            found = self._client.search_model_versions(
                f"name = '{model}' and tags.{BUNDLE_TAG} = '{bundle_id}'", max_results=1
            )
        return version_of(found[0]) if found else None

    def models(self) -> tuple[str, ...]:
        """Sorted names of all models that hold bundles; other registered models are skipped."""
        names: list[str] = []
        token: str | None = None
        with self._translate_errors():
            while True:
                page = self._client.search_registered_models(
                    filter_string=f"tags.{MODEL_TAG} = '{MODEL_TAG_VALUE}'", page_token=token
                )
                names += [str(model.name) for model in page]
                token = page.token
                if not token:
                    return tuple(sorted(names))

    def state(self, model: str) -> ReleaseState:
        """The current version of each role. Raises NotRegistered for an unknown model.

        A canary or shadow tag that names a deleted version counts as None: MLflow deletes a
        version's aliases with it, but keeps the tags of the model.
        """
        with self._translate_errors():
            numbers = numbers_of(self._client.get_registered_model(model))
        percent = numbers.pop(CANARY_PERCENT_TAG, None)
        versions = {
            role: self.version(model, numbers[role])
            for role in ("champion", "challenger", "previous")
            if role in numbers
        }
        for rollout in ("canary", "shadow"):
            if rollout in numbers:
                with suppress(NotRegistered):
                    versions[rollout] = self.version(model, numbers[rollout])
        return ReleaseState(
            model=model,
            canary_percent=None if percent is None else min(percent, 100),
            **versions,
        )

    def version(self, model: str, number: int) -> Version:
        """One version. Raises NotRegistered where it does not exist or holds no bundle."""
        with self._translate_errors():
            return version_of(self._client.get_model_version(model, str(number)))

    def fetch(self, version: Version, folder: Path) -> Bundle:
        """Download a version's bundle as the new folder `folder` and verify every byte.

        Raises BrokenBundle, leaving nothing behind, where a file is damaged or the bundle does not
        have the version's bundle id.
        """
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=FETCH_PREFIX) as scratch:
            with self._translate_errors():
                path = self._client.download_artifacts(version.run_id, BUNDLE_PATH, scratch)
            fetched = load_bundle(Path(path), verify=True)
            if fetched.id != version.bundle_id:
                raise BrokenBundle(
                    f"{version} of {version.model} is the bundle {version.bundle_id[:12]}, but the "
                    f"registry sent {fetched.id[:12]}; register the bundle again"
                )
            fetched.root.rename(folder)
        return load_bundle(folder, verify=False)

    def move_alias(
        self, model: str, alias: Alias, to: Version | None, *, expected: Version | None
    ) -> None:
        """Point `alias` at `to` (None removes it) if it still points at `expected`.

        Needs the promotion lock. Raises AliasMoved where the alias points elsewhere.
        """
        current: Version | None = getattr(self.state(model), alias)
        if (current and current.number) != (expected and expected.number):
            raise AliasMoved(
                f"{alias} of {model} is now {current or 'none'}, not {expected or 'none'}: another "
                "client changed it meanwhile; check it and run the command again"
            )
        with self._translate_errors():
            if to is not None:
                self._client.set_registered_model_alias(model, alias, str(to.number))
            elif current is not None:
                self._client.delete_registered_model_alias(model, alias)

    def set_canary(self, model: str, to: Version, percent: int) -> None:
        """Make `to` the canary for `percent` of the clients. Needs the promotion lock."""
        previous = self.state(model).canary
        with self._translate_errors():
            if previous is not None and previous != to:
                # Tags are set one by one: readers must never see the new share with the old canary.
                self._client.delete_registered_model_tag(model, CANARY_TAG)
            self._client.set_registered_model_tag(model, CANARY_PERCENT_TAG, str(percent))
            self._client.set_registered_model_tag(model, CANARY_TAG, str(to.number))

    def set_shadow(self, model: str, to: Version) -> None:
        """Make `to` the shadow. Needs the promotion lock."""
        with self._translate_errors():
            self._client.set_registered_model_tag(model, SHADOW_TAG, str(to.number))

    def clear(self, model: str, rollout: RolloutKind) -> None:
        """Delete the tags of the canary or shadow; no error where there is none.

        Needs the promotion lock.
        """
        tags = (CANARY_TAG, CANARY_PERCENT_TAG) if rollout == "canary" else (SHADOW_TAG,)
        with self._translate_errors():
            for tag in tags:
                self._client.delete_registered_model_tag(model, tag)

    def record(self, version: Version, action: str, detail: str = "") -> None:
        """Record time, user and host of an action on a version.

        Stored in the version's tag named `action`, which keeps the last time only.
        """
        when = datetime.now(UTC).isoformat(timespec="seconds")
        text = f"{when} by {user_at_host()}" + (f": {detail}" if detail else "")
        with self._translate_errors():
            self._client.set_model_version_tag(version.model, str(version.number), action, text)

    def bind_evidence(self, version: Version, evidence: Path | None) -> None:
        """Bind a version to its newest evidence file, the only one that `promote` accepts.

        None invalidates its evidence: the version must pass the gate again.
        """
        sha256 = "" if evidence is None else sha256_file(evidence)
        with self._translate_errors():
            self._client.set_model_version_tag(
                version.model, str(version.number), EVIDENCE_TAG, sha256
            )

    def log_evidence(self, version: Version, folder: Path) -> None:
        """Log an evidence folder to the run that holds the version's bundle."""
        with self._translate_errors():
            self._client.log_artifacts(version.run_id, str(folder), f"evidence/{folder.name}")

    def _ensure_model(self, model: str) -> None:
        entity = or_none(lambda: self._client.get_registered_model(model))
        if entity is None:
            self._client.create_registered_model(model, tags={MODEL_TAG: MODEL_TAG_VALUE})
        elif MODEL_TAG not in to_strings(entity.tags):
            self._client.set_registered_model_tag(model, MODEL_TAG, MODEL_TAG_VALUE)

    def _upload(self, bundle: Bundle) -> tuple[str, str]:
        """Log the bundle to its training run, or a new run; return the run id and artifact root."""
        own = bundle.info.mlflow_run
        run = or_none(lambda: self._client.get_run(own)) if own else None
        # A run holds one bundle: a second one of the same run must not overwrite the first.
        if (
            run is None
            or run.info.lifecycle_stage != "active"
            or self._client.list_artifacts(run.info.run_id, BUNDLE_PATH)
        ):
            run = self._client.create_run(self._experiment(), run_name=bundle.info.name)
            self._client.set_terminated(run.info.run_id)
        self._client.log_artifacts(run.info.run_id, str(bundle.root), BUNDLE_PATH)
        return str(run.info.run_id), str(run.info.artifact_uri)

    def _experiment(self) -> str:
        experiment = self._client.get_experiment_by_name(EXPERIMENT)
        if experiment is None:
            return str(self._client.create_experiment(EXPERIMENT))
        return str(experiment.experiment_id)

    def _translate_errors(self) -> AbstractContextManager[None]:
        return translate_errors(self.uri)
