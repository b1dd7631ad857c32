"""The models that are served: found in the folder, proven, then swapped in between two batches.

A new model is loaded, verified and warmed up, and must repeat its golden answer, before it takes
over; one that fails is refused and the old one serves on. A request keeps the model it began with.
The model before stays loaded, so that going back to it is instant.
"""

import logging
import threading
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from serving.errors import BadOptions, NotReady, UnknownModel
from serving.folder import BrokenFolder, Fingerprint, Wanted, fingerprint, read_folder
from serving.loaded import BackendLoader, LoadedModel, OnDevice, WrongAnswer, prove
from serving.settings import ModelSettings
from superres.backends import Backend, load_backend
from superres.bundle import Bundle, load_bundle
from superres.errors import SharplineError

log = logging.getLogger(__name__)


class Watcher(Protocol):
    """Hears what becomes of new models."""

    def model_wanted(self, model: str) -> None: ...

    def model_swapped(self, model: str) -> None: ...

    def model_refused(self, model: str) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """A model as it is served now, under the registry's version of it."""

    name: str
    version: str
    model: LoadedModel

    @property
    def scale(self) -> int:
        return self.model.bundle.info.scale


class Models:
    """Keeps what is served equal to what the folder asks for."""

    def __init__(
        self,
        settings: ModelSettings,
        on_device: OnDevice,
        watcher: Watcher,
        load: BackendLoader | None = None,
    ) -> None:
        self._settings = settings
        self._on_device = on_device
        self._watcher = watcher
        self._load = load or self._load_as_set
        self._offers: Mapping[str, Offer] = {}  # replaced whole, never changed
        self._before: dict[str, LoadedModel] = {}
        self._problems: Mapping[str, str] = {}
        self._awaited: frozenset[str] = frozenset()  # wanted, not yet served or refused
        self._seen: Fingerprint | None = None
        self._looked = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="models", daemon=True)

    @property
    def offers(self) -> Mapping[str, Offer]:
        """What is served, by name."""
        return self._offers

    @property
    def default_name(self) -> str | None:
        """The model of a request that names none; None while nothing is served."""
        return self._choose(None, None).name if self._offers else None

    @property
    def problems(self) -> Mapping[str, str]:
        """Why a model that the folder asks for is not served; the folder's own under its path."""
        return self._problems

    @property
    def looked(self) -> bool:
        """Whether the folder has been gone through once."""
        return self._looked.is_set()

    def start(self) -> None:
        """Begin to watch the folder on a thread of its own."""
        self._thread.start()

    def stop_watching(self) -> None:
        """End the thread; the engine must run until then, as a model may be warming up on it."""
        self._stopping.set()
        self._thread.join()

    def close(self) -> None:
        """Let every model go."""
        for model in [*(offer.model for offer in self._offers.values()), *self._before.values()]:
            model.retire()

    def require_ready(self) -> None:
        """Raise NotReady until there is a model to serve."""
        if not self._offers:
            if not self.looked:
                raise NotReady("the models are being loaded", seconds=2)
            faults = "; ".join(f"{name}: {problem}" for name, problem in self._problems.items())
            folder = self._settings.folder
            raise NotReady(f"no model is served from {folder} yet. {faults}".strip(), seconds=5)

    @contextmanager
    def use(self, name: str | None = None, scale: int | None = None) -> Generator[Offer]:
        """The model of that name, or the best match, kept open for the caller.

        Raises NotReady, UnknownModel or BadOptions.
        """
        while True:
            offer = self._choose(name, scale)
            with offer.model.in_use():
                # A swap may have come between choosing and taking hold: then choose again.
                if self._offers.get(offer.name) is offer:
                    yield offer
                    return

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
        problems: dict[str, str] = {}
        self._awaited = frozenset(wanted)
        for asked in sorted(wanted.values(), key=self._by_preference):
            self._watcher.model_wanted(asked.name)
            problem = self._follow(asked)
            self._awaited -= {asked.name}
            if problem is not None:
                problems[asked.name] = problem
            if self._stopping.is_set():
                return
        self._problems = problems
        for name in set(self._offers) - set(wanted):
            self._withdraw(name)

    def _watch(self) -> None:
        while not self._stopping.is_set():
            try:
                self.refresh()
            except OSError:
                log.exception("the models folder cannot be looked at; trying again")
            self._stopping.wait(self._settings.poll_seconds)

    def _follow(self, asked: Wanted) -> str | None:
        """Serve what is asked for; the reason where it is refused."""
        offer = self._offers.get(asked.name)
        try:
            bundle = load_bundle(asked.path)
            _require_what_was_asked(bundle, asked)
            if offer is not None and offer.model.bundle.id == bundle.id:
                self._put(Offer(name=asked.name, version=asked.version, model=offer.model))
                return None
            model = self._loaded_before(bundle) or prove(bundle, self._load, self._on_device)
        except Exception as error:  # whatever is wrong with a new model, the old one serves on
            foreseen = isinstance(error, SharplineError)
            log.error(
                "model %s is refused: %s", asked.name, error, exc_info=None if foreseen else error
            )
            self._watcher.model_refused(asked.name)
            return str(error) or type(error).__name__
        self._swap_in(Offer(name=asked.name, version=asked.version, model=model))
        return None

    def _swap_in(self, offer: Offer) -> None:
        replaced = self._offers.get(offer.name)
        forgotten = self._before.pop(offer.name, None)
        self._put(offer)
        if replaced is not None:
            self._before[offer.name] = replaced.model
        if forgotten is not None and forgotten is not offer.model:
            forgotten.retire()
        self._watcher.model_swapped(offer.name)
        log.info(
            "model %s serves version %s (bundle %.12s)",
            offer.name,
            offer.version,
            offer.model.bundle.id,
        )

    def _put(self, offer: Offer) -> None:
        self._offers = {**self._offers, offer.name: offer}

    def _withdraw(self, name: str) -> None:
        offer = self._offers[name]
        self._offers = {other: kept for other, kept in self._offers.items() if other != name}
        offer.model.retire()
        if name in self._before:
            self._before.pop(name).retire()
        log.info("model %s is served no more", name)

    def _loaded_before(self, bundle: Bundle) -> LoadedModel | None:
        before = self._before.get(bundle.info.name)
        return before if before is not None and before.bundle.id == bundle.id else None

    def _load_as_set(self, bundle: Bundle) -> Backend:
        settings = self._settings
        return load_backend(
            bundle, backend=settings.backend, device=settings.device, precision=settings.precision
        )

    def _choose(self, name: str | None, scale: int | None) -> Offer:
        self.require_ready()
        offers = self._offers
        if name is not None and name not in offers:
            if name in self._awaited:
                raise NotReady(f"model {name} is still being loaded", seconds=5)
            raise UnknownModel(
                f"no model {name[:64]!r} is served; there are: " + ", ".join(sorted(offers))
            )
        named = [offers[name]] if name is not None else list(offers.values())
        fitting = [offer for offer in named if scale in (None, offer.scale)]
        if not fitting:
            if name is None and self._awaited:
                raise NotReady("some models are still being loaded", seconds=5)
            scales = sorted({offer.scale for offer in named})
            raise BadOptions(
                f"scale {scale} is not offered here; there is: "
                + ", ".join(str(offered) for offered in scales)
            )
        return min(fitting, key=self._by_preference)

    def _by_preference(self, model: "Offer | Wanted") -> tuple[bool, str]:
        """The default goes first, in loading as in choosing."""
        return (model.name != self._settings.default, model.name)


def _require_what_was_asked(bundle: Bundle, asked: Wanted) -> None:
    if asked.bundle_id is not None and bundle.id != asked.bundle_id:
        raise WrongAnswer(
            f"{asked.path} holds bundle {bundle.id[:12]}, not the one the index names"
        )
    if bundle.info.name != asked.name:
        raise WrongAnswer(
            f"{asked.path} holds a model called {bundle.info.name!r}, not {asked.name!r}"
        )
