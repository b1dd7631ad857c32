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
    Edition,
    Fingerprint,
    Wanted,
    fingerprint,
    read_folder,
)
from serving.models.loaded import BackendLoader, LoadedModel, OnDevice, WrongAnswer, prove
from serving.models.lookup import ServedModels
from serving.models.routing import Offer, Role, Served
from serving.setting_groups import ModelSettings
from superres.common.errors import SharplineError
from superres.model.backends import Backend, devices_of, load_backend
from superres.model.bundle import Bundle, load_bundle

log = logging.getLogger(__name__)

SIDE_ROLES: tuple[Role, ...] = ("canary", "shadow")


class Watcher(Protocol):
    """Hears what becomes of new models."""

    def model_wanted(self, model: str) -> None: ...

    def model_proven(self, model: str, *, pixels: int, seconds: float) -> None: ...

    def model_swapped(self, model: str) -> None: ...

    def model_refused(self, model: str) -> None: ...


class Models(ServedModels):
    """Keeps what is served equal to what the folder asks for."""

    def __init__(
        self,
        settings: ModelSettings,
        on_device: OnDevice,
        watcher: Watcher,
        load: BackendLoader | None = None,
        devices: Sequence[str] | None = None,
    ) -> None:
        super().__init__(settings)
        self._on_device = on_device
        self._watcher = watcher
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
        self._look()
        self._looked.set()

    def _look(self) -> None:
        seen = fingerprint(self._settings.folder)
        if seen == self._seen:
            return
        self._seen = seen
        try:
            wanted = read_folder(self._settings.folder)
        except BrokenFolder as error:
            log.error("the models folder cannot be read, so nothing changes: %s", error)
            self._problems = {str(self._settings.folder): str(error)}
            return
        self._awaited = frozenset(wanted)
        in_order = sorted(wanted.values(), key=self._by_preference)
        problems: dict[str, str] = {}
        for asked in in_order:
            self._watcher.model_wanted(asked.name)
            problems.update(self._follow_champion(asked))
            self._awaited -= {asked.name}
            if self._stopping.is_set():
                return
        for name in set(self._served) - set(wanted):
            self._withdraw(name)
        # Whoever waits for a champion has been helped; these can take their time.
        for asked in in_order:
            problems.update(self._follow_sides(asked))
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

    def _follow_champion(self, asked: Wanted) -> dict[str, str]:
        """Serve the champion that is asked for; says why under its name where it is refused."""
        model, problems = self._prepared(asked, asked.champion, asked.name)
        if model is None:
            return problems
        offer = Offer(name=asked.name, version=asked.champion.version, model=model)
        served = self._served.get(asked.name)
        if served is None:
            self._put(Served(champion=offer))
        else:
            self._put(replace(served, champion=offer))
            if served.champion.model is model:
                return {}
            self._before[asked.name] = served.champion.model.bundle.id
        self._watcher.model_swapped(asked.name)
        log.info(
            "model %s serves version %s (bundle %.12s)", offer.name, offer.version, model.bundle.id
        )
        return {}

    def _follow_sides(self, asked: Wanted) -> dict[str, str]:
        """Canary, shadow and the model to go back to; lets everything else of the name go."""
        problems: dict[str, str] = {}
        offers: dict[Role, Offer | None] = {}
        for role in SIDE_ROLES:
            offer, problem = self._side_offer(asked, role)
            offers[role] = offer
            problems.update(problem)
        served = self._served.get(asked.name)
        if served is not None:
            self._put(
                replace(
                    served,
                    canary=offers["canary"],
                    canary_percent=asked.canary_percent,
                    shadow=offers["shadow"],
                )
            )
        if asked.previous is not None:
            _, problem = self._prepared(asked, asked.previous, f"{asked.name} previous")
            problems.update(problem)
        self._retire_others(asked)
        return problems

    def _side_offer(self, asked: Wanted, role: Role) -> tuple[Offer | None, dict[str, str]]:
        edition = asked.canary if role == "canary" else asked.shadow
        served = self._served.get(asked.name)
        if edition is None or served is None:
            return None, {}
        label = f"{asked.name} {role}"
        model, problems = self._prepared(asked, edition, label)
        if model is None:
            return None, problems
        if model.bundle.info.scale != served.champion.scale:
            return None, {label: f"its scale is not the champion's {served.champion.scale}"}
        offer = Offer(name=asked.name, version=edition.version, model=model, role=role)
        return offer, {}

    def _prepared(
        self, asked: Wanted, edition: Edition, label: str
    ) -> tuple[LoadedModel | None, dict[str, str]]:
        """The model proven and loaded, now or before; else the reason, under `label`."""
        try:
            bundle = load_bundle(edition.path)
            _require_what_was_asked(bundle, asked.name, edition)
            loaded = self._loaded.setdefault(asked.name, {})
            if bundle.id not in loaded:
                proof = prove(bundle, self._load, self._on_device, self._devices)
                self._watcher.model_proven(asked.name, pixels=proof.pixels, seconds=proof.seconds)
                loaded[bundle.id] = proof.model
            return loaded[bundle.id], {}
        except Exception as error:  # whatever is wrong with a new model, the old one serves on
            foreseen = isinstance(error, SharplineError)
            log.error("model %s is refused: %s", label, error, exc_info=None if foreseen else error)
            self._watcher.model_refused(asked.name)
            return None, {label: str(error) or type(error).__name__}

    def _put(self, served: Served) -> None:
        self._served = {**self._served, served.champion.name: served}

    def _retire_others(self, asked: Wanted) -> None:
        served = self._served.get(asked.name)
        kept = {self._before.get(asked.name), asked.previous and asked.previous.bundle_id}
        if served is not None:
            kept |= {offer.model.bundle.id for offer in served.offers()}
        loaded = self._loaded.get(asked.name, {})
        _retire(loaded.pop(bundle_id) for bundle_id in set(loaded) - kept)

    def _withdraw(self, name: str) -> None:
        self._served = {other: kept for other, kept in self._served.items() if other != name}
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


def _require_what_was_asked(bundle: Bundle, name: str, edition: Edition) -> None:
    if edition.bundle_id is not None and bundle.id != edition.bundle_id:
        raise WrongAnswer(
            f"{edition.path} holds bundle {bundle.id[:12]}, not the one the index names"
        )
    if bundle.info.name != name:
        raise WrongAnswer(f"{edition.path} holds a model called {bundle.info.name!r}, not {name!r}")
