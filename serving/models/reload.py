"""Hot reload: new models of the folder are verified, then swapped in between two batches.

A new model is loaded, warmed up and must reproduce its golden output before it replaces the old
one; if it fails, the old one stays in service. A request keeps the model it started with. The
previous model stays loaded, so that a rollback is instant.
"""

import logging
import threading
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Protocol

from serving.models.folder import (
    BrokenFolder,
    DesiredModel,
    FolderState,
    IndexedBundle,
    folder_state,
    read_folder,
)
from serving.models.loaded import (
    BackendLoader,
    LoadedModel,
    RunOnDevice,
    load_verified,
)
from serving.models.lookup import ServedModels
from serving.models.routing import ModelRoute, ModelVersion, Role
from serving.setting_groups import ModelSettings
from superres.common.errors import SharplineError
from superres.model.backends import Backend, devices_of, load_backend
from superres.model.bundle import Bundle, load_bundle

log = logging.getLogger(__name__)

ROLLOUT_ROLES: tuple[Role, ...] = ("canary", "shadow")


class ModelObserver(Protocol):
    """Is notified of the loading of models."""

    def model_desired(self, model: str) -> None: ...

    def model_verified(self, model: str, *, pixels: int, seconds: float) -> None: ...

    def model_swapped(self, model: str) -> None: ...

    def model_refused(self, model: str) -> None: ...


class Models(ServedModels):
    """Keeps the served models in line with the model folder."""

    def __init__(
        self,
        settings: ModelSettings,
        on_device: RunOnDevice,
        observer: ModelObserver,
        load: BackendLoader | None = None,
        devices: Sequence[str] | None = None,
    ) -> None:
        super().__init__(settings)
        self._on_device = on_device
        self._observer = observer
        self._load = load or self._load_backend
        self._devices = devices or devices_of(settings.backend, settings.device)
        self._loaded: dict[str, dict[str, LoadedModel]] = {}  # by name and bundle id
        self._previous: dict[str, str] = {}  # bundle id of the previous champion, by name
        self._folder_state: FolderState | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="models", daemon=True)

    def start(self) -> None:
        """Start the thread that polls the folder."""
        self._thread.start()

    def stop_watching(self) -> None:
        """Stop the thread; the engines must still run, since a model may be warming up on one."""
        self._stopping.set()
        self._thread.join()

    def close(self) -> None:
        """Retire every model."""
        for loaded in self._loaded.values():
            for model in loaded.values():
                model.retire()

    def refresh(self) -> None:
        """Poll the folder once and update the served models."""
        self._poll()
        self._loaded_once.set()

    def _poll(self) -> None:
        current = folder_state(self._settings.folder)
        if current == self._folder_state:
            return
        self._folder_state = current
        try:
            desired = read_folder(self._settings.folder)
        except BrokenFolder as error:
            log.error("the models folder cannot be read, the served models stay: %s", error)
            self._problems = {str(self._settings.folder): str(error)}
            return
        self._loading = frozenset(desired)
        ordered = sorted(desired.values(), key=self._by_preference)
        problems: dict[str, str] = {}
        for desired_model in ordered:
            self._observer.model_desired(desired_model.name)
            problems.update(self._update_champion(desired_model))
            self._loading -= {desired_model.name}
            if self._stopping.is_set():
                return
        for name in set(self._routes) - set(desired):
            self._remove(name)
        # After the champions, because requests wait for those only.
        for desired_model in ordered:
            problems.update(self._update_rollouts(desired_model))
            if self._stopping.is_set():
                return
        self._problems = problems

    def _watch(self) -> None:
        while not self._stopping.is_set():
            try:
                self.refresh()
            except OSError:
                log.exception("the models folder cannot be polled; retrying")
            self._stopping.wait(self._settings.poll_seconds)

    def _update_champion(self, desired_model: DesiredModel) -> dict[str, str]:
        """Serve the desired champion; returns the problem by name if it is refused."""
        model, problems = self._prepare(desired_model, desired_model.champion, desired_model.name)
        if model is None:
            return problems
        model_version = ModelVersion(
            name=desired_model.name, version=desired_model.champion.version, model=model
        )
        route = self._routes.get(desired_model.name)
        if route is None:
            self._set_route(ModelRoute(champion=model_version))
        else:
            self._set_route(replace(route, champion=model_version))
            if route.champion.model is model:
                return {}
            self._previous[desired_model.name] = route.champion.model.bundle.id
        self._observer.model_swapped(desired_model.name)
        log.info(
            "model %s serves version %s (bundle %.12s)",
            model_version.name,
            model_version.version,
            model.bundle.id,
        )
        return {}

    def _update_rollouts(self, desired_model: DesiredModel) -> dict[str, str]:
        """Load canary, shadow and previous model; retire every other version of the model."""
        problems: dict[str, str] = {}
        versions: dict[Role, ModelVersion | None] = {}
        for role in ROLLOUT_ROLES:
            model_version, problem = self._rollout_version(desired_model, role)
            versions[role] = model_version
            problems.update(problem)
        route = self._routes.get(desired_model.name)
        if route is not None:
            self._set_route(
                replace(
                    route,
                    canary=versions["canary"],
                    canary_percent=desired_model.canary_percent,
                    shadow=versions["shadow"],
                )
            )
        if desired_model.previous is not None:
            _, problem = self._prepare(
                desired_model, desired_model.previous, f"{desired_model.name} previous"
            )
            problems.update(problem)
        self._retire_others(desired_model)
        return problems

    def _rollout_version(
        self, desired_model: DesiredModel, role: Role
    ) -> tuple[ModelVersion | None, dict[str, str]]:
        indexed = desired_model.canary if role == "canary" else desired_model.shadow
        route = self._routes.get(desired_model.name)
        if indexed is None or route is None:
            return None, {}
        label = f"{desired_model.name} {role}"
        model, problems = self._prepare(desired_model, indexed, label)
        if model is None:
            return None, problems
        if model.bundle.info.scale != route.champion.scale:
            return None, {label: f"its scale is not the champion's {route.champion.scale}"}
        model_version = ModelVersion(
            name=desired_model.name, version=indexed.version, model=model, role=role
        )
        return model_version, {}

    def _prepare(
        self, desired_model: DesiredModel, indexed: IndexedBundle, label: str
    ) -> tuple[LoadedModel | None, dict[str, str]]:
        """The verified model, loaded if necessary; or None and the problem under `label`."""
        try:
            bundle = load_bundle(indexed.path)
            _require_match(bundle, desired_model.name, indexed)
            loaded = self._loaded.setdefault(desired_model.name, {})
            if bundle.id not in loaded:
                verified = load_verified(bundle, self._load, self._on_device, self._devices)
                self._observer.model_verified(
                    desired_model.name, pixels=verified.pixels, seconds=verified.seconds
                )
                loaded[bundle.id] = verified.model
            return loaded[bundle.id], {}
        except Exception as error:  # whatever the fault, the old model stays in service
            expected = isinstance(error, SharplineError)
            log.error("model %s is refused: %s", label, error, exc_info=None if expected else error)
            self._observer.model_refused(desired_model.name)
            return None, {label: str(error) or type(error).__name__}

    def _set_route(self, route: ModelRoute) -> None:
        self._routes = {**self._routes, route.champion.name: route}

    def _retire_others(self, desired_model: DesiredModel) -> None:
        route = self._routes.get(desired_model.name)
        kept = {
            self._previous.get(desired_model.name),
            desired_model.previous and desired_model.previous.bundle_id,
        }
        if route is not None:
            kept |= {model_version.model.bundle.id for model_version in route.versions()}
        loaded = self._loaded.get(desired_model.name, {})
        _retire(loaded.pop(bundle_id) for bundle_id in set(loaded) - kept)

    def _remove(self, name: str) -> None:
        self._routes = {other: route for other, route in self._routes.items() if other != name}
        self._previous.pop(name, None)
        _retire(self._loaded.pop(name, {}).values())
        log.info("model %s is no longer served", name)

    def _load_backend(self, bundle: Bundle, device: str) -> Backend:
        settings = self._settings
        return load_backend(
            bundle, backend=settings.backend, device=device, precision=settings.precision
        )


def _retire(models: Iterable[LoadedModel]) -> None:
    for model in models:
        model.retire()


def _require_match(bundle: Bundle, name: str, indexed: IndexedBundle) -> None:
    if indexed.bundle_id is not None and bundle.id != indexed.bundle_id:
        raise SharplineError(
            f"{indexed.path} holds bundle {bundle.id[:12]}, not {indexed.bundle_id[:12]}"
        )
    if bundle.info.name != name:
        raise SharplineError(
            f"{indexed.path} holds a model called {bundle.info.name!r}, not {name!r}"
        )
