"""The models that are served: found in the folder, proven, then swapped in between two batches.

A new model is loaded, verified and warmed up, and must repeat its golden answer, before it takes
over; one that fails is refused and the old one serves on. A request keeps the model it began with.
The model before stays loaded, so that going back to it is instant.
"""

import logging
import threading
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np

from serving.errors import BadOptions, NotReady, UnknownModel
from serving.folder import BrokenFolder, Fingerprint, Wanted, fingerprint, read_folder
from serving.scheduler import Tile
from serving.settings import ModelSettings
from superres.backends import Backend, load_backend
from superres.bundle import Bundle, load_bundle
from superres.errors import SharplineError
from superres.image import Picture
from superres.upscale import Upscaler

log = logging.getLogger(__name__)

Result = TypeVar("Result")
BackendLoader = Callable[[Bundle], Backend]

ROUNDING_LEVELS = 1.0  # the golden answer and ours are each rounded to whole levels
GOLDEN_SHARE = 99.9  # per cent of values that a precision bound speaks of


class WrongAnswer(SharplineError):
    """A model does not repeat the answer that it gave when it was made."""


class OnDevice(Protocol):
    """Runs a function on the thread that owns the device."""

    def __call__(self, errand: Callable[[], Result], /) -> Result: ...


class Watcher(Protocol):
    """Hears what becomes of new models."""

    def model_wanted(self, model: str) -> None: ...

    def model_swapped(self, model: str) -> None: ...

    def model_refused(self, model: str) -> None: ...


class LoadedModel:
    """A proven bundle on a backend; closed once it is retired and nobody uses it."""

    def __init__(self, bundle: Bundle, backend: Backend) -> None:
        self.bundle = bundle
        self.name = bundle.info.name
        self.upscaler = Upscaler(bundle, backend)
        self._lock = threading.Lock()
        self._users = 0
        self._retired = False

    def forward(self, tiles_bhwc: Tile) -> Tile:
        return self.upscaler.forward(tiles_bhwc)

    @contextmanager
    def in_use(self) -> Generator[None]:
        """Keep the model open, even if another takes its place meanwhile."""
        with self._lock:
            self._users += 1
        try:
            yield
        finally:
            self._leave()

    def retire(self) -> None:
        """Close as soon as the last user has gone."""
        with self._lock:
            self._retired = True
            close = self._users == 0
        if close:
            self.upscaler.backend.close()

    def _leave(self) -> None:
        with self._lock:
            self._users -= 1
            close = self._retired and self._users == 0
        if close:
            self.upscaler.backend.close()


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
        return self._choose(None, None).name if self.looked and self._offers else None

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
        """Raise NotReady until the folder has been gone through and there is a model to serve."""
        if not self.looked:
            raise NotReady("the models are being loaded", seconds=2)
        if not self._offers:
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
        for asked in wanted.values():
            self._watcher.model_wanted(asked.name)
            problem = self._follow(asked)
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
            model = self._loaded_before(bundle) or self._prove(bundle)
        except Exception as error:  # whatever is wrong with a new model, the old one serves on
            foreseen = isinstance(error, SharplineError)
            log.error(
                "model %s is refused: %s", asked.name, error, exc_info=None if foreseen else error
            )
            self._watcher.model_refused(asked.name)
            return str(error) or type(error).__name__
        self._swap_in(Offer(name=asked.name, version=asked.version, model=model))
        return None

    def _prove(self, bundle: Bundle) -> LoadedModel:
        """Load, warm up shape by shape so that batches go in between, replay the golden pair."""
        backend = self._load(bundle)
        try:
            for bucket in bundle.info.tile_buckets:
                self._on_device(lambda shape=bucket: backend.warm_up([shape]))
            model = LoadedModel(bundle, backend)
            golden_input, golden_output = bundle.golden()
            answer = self._on_device(lambda: model.upscaler.upscale(golden_input))
            require_golden(answer, golden_output, bundle, backend.precision)
        except BaseException:
            backend.close()
            raise
        return model

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
            raise UnknownModel(
                f"no model {name[:64]!r} is served; there are: " + ", ".join(sorted(offers))
            )
        named = [offers[name]] if name is not None else list(offers.values())
        fitting = [offer for offer in named if scale in (None, offer.scale)]
        if not fitting:
            scales = sorted({offer.scale for offer in named})
            raise BadOptions(
                f"scale {scale} is not offered here; there is: "
                + ", ".join(str(offered) for offered in scales)
            )
        return min(fitting, key=lambda offer: (offer.name != self._settings.default, offer.name))


def _require_what_was_asked(bundle: Bundle, asked: Wanted) -> None:
    if asked.bundle_id is not None and bundle.id != asked.bundle_id:
        raise WrongAnswer(
            f"{asked.path} holds bundle {bundle.id[:12]}, not the one the index names"
        )
    if bundle.info.name != asked.name:
        raise WrongAnswer(
            f"{asked.path} holds a model called {bundle.info.name!r}, not {asked.name!r}"
        )


def require_golden(answer: Picture, golden: Picture, bundle: Bundle, precision: str) -> None:
    """Raise WrongAnswer where the answer is further from the golden one than the bundle states."""
    if answer.rgb_hwc.shape != golden.rgb_hwc.shape:
        raise WrongAnswer(
            f"the golden answer has shape {golden.rgb_hwc.shape}, this one {answer.rgb_hwc.shape}"
        )
    bounds = bundle.info.bounds
    allowed = bounds.seam_levels + bounds.precision_levels.get(precision, 0.0) + ROUNDING_LEVELS
    levels = 255.0 / np.iinfo(golden.rgb_hwc.dtype).max
    off = np.abs(answer.rgb_hwc.astype(np.float64) - golden.rgb_hwc.astype(np.float64)) * levels
    worst = float(np.percentile(off, GOLDEN_SHARE))
    if not worst <= allowed:
        raise WrongAnswer(
            f"the golden answer is missed by {worst:.2f} levels, {allowed:.2f} are "
            f"allowed; the weights or this machine's {precision} arithmetic are bad"
        )
