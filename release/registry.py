"""The one client of the model registry: bundles in, versions and aliases out.

A registered model bears the bundle's name; each of its versions holds one bundle, as artifacts of
the run that made it, and says in the tag `bundle_id` which bytes it stands for.
"""

import re
import tempfile
from contextlib import AbstractContextManager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from release.mlflow_client import connect, or_none, translated
from release.versions import (
    BUNDLE_ID,
    BUNDLE_TAG,
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
    texts,
    version_of,
)
from superres.common.environment import person, state_folder
from superres.common.files import file_lock, sha256_file
from superres.model.bundle import BrokenBundle, Bundle, load_bundle

MODEL_NAME = re.compile(r"\w[\w.-]*")
ARTIFACT_PATH = "bundle"
EXPERIMENT = "registry"
MODEL_TAG, MODEL_TAG_VALUE = "sharpline", "bundle"
LOCK_TIMEOUT_SECONDS = 60.0
FETCH_PREFIX = ".fetch-"


class Registry:
    """The MLflow registry at `uri`, asked with short timeouts.

    Every method raises RegistryAway where the server cannot be reached. `locks` is the folder of
    the promotion locks, by default the state folder's.
    """

    def __init__(self, uri: str, *, locks: Path | None = None) -> None:
        self.uri = uri
        self._locks = locks or state_folder() / "locks"
        # MLflow types its client in part only; what leaves this class is typed again.
        self._client: Any = connect(uri)

    def lock(self, model: str) -> AbstractContextManager[None]:
        """The promotion lock of one model, held around every change of its aliases.

        It is an advisory file lock in the state folder: it serialises the commands that share that
        folder, and the kernel frees it when a holder dies. Commands on another machine do not see
        it; against those stands the comparison in `move_alias`, which leaves a window of one
        request between reading the alias and setting it, since MLflow sets without comparing.

        Raises SharplineError where another command still holds it after a minute.
        """
        if not MODEL_NAME.fullmatch(model):
            raise NotRegistered(
                f"{model!r} is no name of a model; names hold letters, digits, dots, dashes and "
                "underscores"
            )
        return file_lock(self._locks / f"{model}.lock", timeout_seconds=LOCK_TIMEOUT_SECONDS)

    def register(self, bundle: Bundle) -> Version:
        """Enter a bundle as a new version of the model of its name; aliases stay as they are.

        Where a version of that bundle id exists already, that version is the answer.
        """
        model = bundle.info.name
        with self.lock(model), self._asking():
            self._ensure_model(model)
            found = self.holding(model, bundle.id)
            if found is not None:
                return found
            run_id, artifact_uri = self._upload(bundle)
            entity = self._client.create_model_version(
                model,
                source=f"{artifact_uri}/{ARTIFACT_PATH}",
                run_id=run_id,
                tags={BUNDLE_TAG: bundle.id},
                await_creation_for=0,
            )
            return version_of(entity)

    def holding(self, model: str, bundle_id: str) -> Version | None:
        """The version of a model that stands for this bundle, None where there is none."""
        # Both go into a question in MLflow's own language, and may come from anywhere.
        if not MODEL_NAME.fullmatch(model) or not BUNDLE_ID.fullmatch(bundle_id):
            return None
        with self._asking():
            found = self._client.search_model_versions(
                f"name = '{model}' and tags.{BUNDLE_TAG} = '{bundle_id}'", max_results=1
            )
        return version_of(found[0]) if found else None

    def models(self) -> tuple[str, ...]:
        """Names of all models that hold bundles, sorted; other people's models are left out."""
        names: list[str] = []
        token: str | None = None
        with self._asking():
            while True:
                page = self._client.search_registered_models(
                    filter_string=f"tags.{MODEL_TAG} = '{MODEL_TAG_VALUE}'", page_token=token
                )
                names += [str(model.name) for model in page]
                token = page.token
                if not token:
                    return tuple(sorted(names))

    def state(self, model: str) -> ReleaseState:
        """Which versions stand where at this moment. Raises NotRegistered for an unknown model.

        A canary or shadow that names no version any more is nobody: MLflow takes a deleted
        version's aliases away with it, but leaves tags of the model as they were.
        """
        with self._asking():
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
        """One version. Raises NotRegistered where there is none or where it holds no bundle."""
        with self._asking():
            return version_of(self._client.get_model_version(model, str(number)))

    def fetch(self, version: Version, folder: Path) -> Bundle:
        """Download a version's bundle as the new folder `folder` and verify every byte of it.

        Raises BrokenBundle, leaving nothing behind, where a file is damaged or where the bundle is
        not the one that the version stands for.
        """
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=FETCH_PREFIX) as scratch:
            with self._asking():
                path = self._client.download_artifacts(version.run_id, ARTIFACT_PATH, scratch)
            fetched = load_bundle(Path(path), verify=True)
            if fetched.id != version.bundle_id:
                raise BrokenBundle(
                    f"{version} of {version.model} stands for the bundle {version.bundle_id[:12]} "
                    f"but the registry sent {fetched.id[:12]}; register the bundle again"
                )
            fetched.root.rename(folder)
        return load_bundle(folder, verify=False)

    def move_alias(
        self, model: str, alias: Alias, to: Version | None, *, expected: Version | None
    ) -> None:
        """Point `alias` at `to` (None removes it) if it still points at `expected`.

        Call it with the promotion lock held. Raises AliasMoved where the alias points elsewhere.
        """
        current: Version | None = getattr(self.state(model), alias)
        if (current and current.number) != (expected and expected.number):
            raise AliasMoved(
                f"{alias} of {model} is now {current or 'nobody'}, not {expected or 'nobody'}: "
                "somebody else changed it meanwhile; look at it and run the command again"
            )
        with self._asking():
            if to is not None:
                self._client.set_registered_model_alias(model, alias, str(to.number))
            elif current is not None:
                self._client.delete_registered_model_alias(model, alias)

    def set_canary(self, model: str, to: Version, percent: int) -> None:
        """Let `to` answer `percent` of the clients. Call it with the promotion lock held."""
        before = self.state(model).canary
        with self._asking():
            if before is not None and before != to:
                # Tags are set one by one: the new share must never be seen with the old canary.
                self._client.delete_registered_model_tag(model, CANARY_TAG)
            self._client.set_registered_model_tag(model, CANARY_PERCENT_TAG, str(percent))
            self._client.set_registered_model_tag(model, CANARY_TAG, str(to.number))

    def set_shadow(self, model: str, to: Version) -> None:
        """Let `to` be compared with the champion. Call it with the promotion lock held."""
        with self._asking():
            self._client.set_registered_model_tag(model, SHADOW_TAG, str(to.number))

    def clear(self, model: str, rollout: RolloutKind) -> None:
        """Let nobody be canary, or shadow, whatever the tags say; harmless where nobody is.

        Call it with the promotion lock held.
        """
        tags = (CANARY_TAG, CANARY_PERCENT_TAG) if rollout == "canary" else (SHADOW_TAG,)
        with self._asking():
            for tag in tags:
                self._client.delete_registered_model_tag(model, tag)

    def record(self, version: Version, action: str, detail: str = "") -> None:
        """Write down on a version when and by whom something was decided about it.

        It is the tag `action` of the version, which keeps the last time only.
        """
        when = datetime.now(UTC).isoformat(timespec="seconds")
        text = f"{when} by {person()}" + (f": {detail}" if detail else "")
        with self._asking():
            self._client.set_model_version_tag(version.model, str(version.number), action, text)

    def bind_evidence(self, version: Version, evidence: Path | None) -> None:
        """Bind a version to its newest evidence file, the only one that `promote` accepts.

        None makes the version prove itself anew before it can be promoted again.
        """
        sha256 = "" if evidence is None else sha256_file(evidence)
        with self._asking():
            self._client.set_model_version_tag(
                version.model, str(version.number), EVIDENCE_TAG, sha256
            )

    def log_evidence(self, version: Version, folder: Path) -> None:
        """Put an evidence folder beside the bundle in the run of its version."""
        with self._asking():
            self._client.log_artifacts(version.run_id, str(folder), f"evidence/{folder.name}")

    def _ensure_model(self, model: str) -> None:
        entity = or_none(lambda: self._client.get_registered_model(model))
        if entity is None:
            self._client.create_registered_model(model, tags={MODEL_TAG: MODEL_TAG_VALUE})
        elif MODEL_TAG not in texts(entity.tags):
            self._client.set_registered_model_tag(model, MODEL_TAG, MODEL_TAG_VALUE)

    def _upload(self, bundle: Bundle) -> tuple[str, str]:
        """Log the bundle to its training run, else to a new one: the run's id and artifact root."""
        own = bundle.info.mlflow_run
        run = or_none(lambda: self._client.get_run(own)) if own else None
        # A run holds one bundle: a second one out of the same run must not overwrite the first.
        if (
            run is None
            or run.info.lifecycle_stage != "active"
            or self._client.list_artifacts(run.info.run_id, ARTIFACT_PATH)
        ):
            run = self._client.create_run(self._experiment(), run_name=bundle.info.name)
            self._client.set_terminated(run.info.run_id)
        self._client.log_artifacts(run.info.run_id, str(bundle.root), ARTIFACT_PATH)
        return str(run.info.run_id), str(run.info.artifact_uri)

    def _experiment(self) -> str:
        experiment = self._client.get_experiment_by_name(EXPERIMENT)
        if experiment is None:
            return str(self._client.create_experiment(EXPERIMENT))
        return str(experiment.experiment_id)

    def _asking(self) -> AbstractContextManager[None]:
        return translated(self.uri)
