"""Hot reload: models found in the folder, proven, then swapped in between two batches.

A new model is loaded, verified and warmed up, and must repeat its golden answer, before it takes
over; one that fails is refused and the old one serves on. A request keeps the model it began with.
The model before stays loaded, so that going back to it is instant.
"""

import logging
import threading
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Protocol

from serving.models.folder import (
    BrokenFolder,
    DesiredModel,
    Fingerprint,
    IndexedBundle,
    fingerprint,
    read_folder,
)
from serving.models.loaded import (
    BackendLoader,
    GoldenMismatch,
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
    """Hears what becomes of new models."""

    def model_wanted(self, model: str) -> None: ...

    def model_verified(self, model: str, *, pixels: int, seconds: float) -> None: ...

    def model_swapped(self, model: str) -> None: ...

    def model_refused(self, model: str) -> None: ...


class Models(ServedModels):
    """Makes the served models those that the folder asks for."""

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
        self._load = load or self._load_as_set
        self._devices = devices or devices_of(settings.backend, settings.device)
        self._loaded: dict[str, dict[str, LoadedModel]] = {}  # by name and bundle id
        self._before: dict[str, str] = {}  # id of the champion before, by name
        self._seen: Fingerprint | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="models", daemon=True)

    def start(self) -> None:
        """Begin to watch the folder on a thread of its own."""
        self._thread.start()

    def stop_watching(self) -> None:
        """End the thread; the engine must run until then, as a model may be warming up on it."""
        self._stopping.set()
        self._thread.join()

    def close(self) -> None:
        """Let every model go."""
        for loaded in self._loaded.values():
            for model in loaded.values():
                model.retire()

    def refresh(self) -> None:
        """Look at the folder once, and make what is served follow it."""
        self._poll()
        self._loaded_once.set()

    def _poll(self) -> None:
        seen = fingerprint(self._settings.folder)
        if seen == self._seen:
            return
        self._seen = seen
        try:
            desired = read_folder(self._settings.folder)
        except BrokenFolder as error:
            log.error("the models folder cannot be read, so nothing changes: %s", error)
            self._problems = {str(self._settings.folder): str(error)}
            return
        self._awaited = frozenset(desired)
        in_order = sorted(desired.values(), key=self._by_preference)
        problems: dict[str, str] = {}
        for desired_model in in_order:
            self._observer.model_wanted(desired_model.name)
            problems.update(self._follow_champion(desired_model))
            self._awaited -= {desired_model.name}
            if self._stopping.is_set():
                return
        for name in set(self._routes) - set(desired):
            self._withdraw(name)
        # Whoever waits for a champion has been helped; these can take their time.
        for desired_model in in_order:
            problems.update(self._follow_rollouts(desired_model))
            if self._stopping.is_set():
                return
        self._problems = problems

    def _watch(self) -> None:
        while not self._stopping.is_set():
            try:
                self.refresh()
            except OSError:
                log.exception("the models folder cannot be looked at; trying again")
            self._stopping.wait(self._settings.poll_seconds)

    def _follow_champion(self, desired_model: DesiredModel) -> dict[str, str]:
        """Serve the champion that is asked for; says why under its name where it is refused."""
        model, problems = self._prepared(desired_model, desired_model.champion, desired_model.name)
        if model is None:
            return problems
        model_version = ModelVersion(
            name=desired_model.name, version=desired_model.champion.version, model=model
        )
        route = self._routes.get(desired_model.name)
        if route is None:
            self._put(ModelRoute(champion=model_version))
        else:
            self._put(replace(route, champion=model_version))
            if route.champion.model is model:
                return {}
            self._before[desired_model.name] = route.champion.model.bundle.id
        self._observer.model_swapped(desired_model.name)
        log.info(
            "model %s serves version %s (bundle %.12s)",
            model_version.name,
            model_version.version,
            model.bundle.id,
        )
        return {}

    def _follow_rollouts(self, desired_model: DesiredModel) -> dict[str, str]:
        """Canary, shadow and the model to go back to; lets everything else of the name go."""
        problems: dict[str, str] = {}
        versions: dict[Role, ModelVersion | None] = {}
        for role in ROLLOUT_ROLES:
            model_version, problem = self._rollout_version(desired_model, role)
            versions[role] = model_version
            problems.update(problem)
        route = self._routes.get(desired_model.name)
        if route is not None:
            self._put(
                replace(
                    route,
                    canary=versions["canary"],
                    canary_percent=desired_model.canary_percent,
                    shadow=versions["shadow"],
                )
            )
        if desired_model.previous is not None:
            _, problem = self._prepared(
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
        model, problems = self._prepared(desired_model, indexed, label)
        if model is None:
            return None, problems
        if model.bundle.info.scale != route.champion.scale:
            return None, {label: f"its scale is not the champion's {route.champion.scale}"}
        model_version = ModelVersion(
            name=desired_model.name, version=indexed.version, model=model, role=role
        )
        return model_version, {}

    def _prepared(
        self, desired_model: DesiredModel, indexed: IndexedBundle, label: str
    ) -> tuple[LoadedModel | None, dict[str, str]]:
        """The model proven and loaded, now or before; else the reason, under `label`."""
        try:
            bundle = load_bundle(indexed.path)
            _require_what_was_asked(bundle, desired_model.name, indexed)
            loaded = self._loaded.setdefault(desired_model.name, {})
            if bundle.id not in loaded:
                verified = load_verified(bundle, self._load, self._on_device, self._devices)
                self._observer.model_verified(
                    desired_model.name, pixels=verified.pixels, seconds=verified.seconds
                )
                loaded[bundle.id] = verified.model
            return loaded[bundle.id], {}
        except Exception as error:  # whatever is wrong with a new model, the old one serves on
            foreseen = isinstance(error, SharplineError)
            log.error("model %s is refused: %s", label, error, exc_info=None if foreseen else error)
            self._observer.model_refused(desired_model.name)
            return None, {label: str(error) or type(error).__name__}

    def _put(self, route: ModelRoute) -> None:
        self._routes = {**self._routes, route.champion.name: route}

    def _retire_others(self, desired_model: DesiredModel) -> None:
        route = self._routes.get(desired_model.name)
        kept = {
            self._before.get(desired_model.name),
            desired_model.previous and desired_model.previous.bundle_id,
        }
        if route is not None:
            kept |= {model_version.model.bundle.id for model_version in route.versions()}
        loaded = self._loaded.get(desired_model.name, {})
        _retire(loaded.pop(bundle_id) for bundle_id in set(loaded) - kept)

    def _withdraw(self, name: str) -> None:
        self._routes = {other: kept for other, kept in self._routes.items() if other != name}
        self._before.pop(name, None)
        _retire(self._loaded.pop(name, {}).values())
        log.info("model %s is served no more", name)

    def _load_as_set(self, bundle: Bundle, device: str) -> Backend:
        settings = self._settings
        return load_backend(
            bundle, backend=settings.backend, device=device, precision=settings.precision
        )


def _retire(models: Iterable[LoadedModel]) -> None:
    for model in models:
        model.retire()


def _require_what_was_asked(bundle: Bundle, name: str, indexed: IndexedBundle) -> None:
    if indexed.bundle_id is not None and bundle.id != indexed.bundle_id:
        raise GoldenMismatch(
            f"{indexed.path} holds bundle {bundle.id[:12]}, not the one the index names"
        )
    if bundle.info.name != name:
        raise GoldenMismatch(
            f"{indexed.path} holds a model called {bundle.info.name!r}, not {name!r}"
        )
