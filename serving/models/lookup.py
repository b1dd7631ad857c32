"""What is served now, and which of it a request gets."""

import threading
from collections.abc import Generator, Mapping
from contextlib import contextmanager

from serving.errors import BadOptions, NotReady, UnknownModel
from serving.models.folder import Wanted
from serving.models.routing import Offer, Served
from serving.setting_groups import ModelSettings


class ServedModels:
    """Champions, canaries and shadows by name; a request keeps the model it began with."""

    def __init__(self, settings: ModelSettings) -> None:
        self._settings = settings
        self._served: Mapping[str, Served] = {}  # replaced whole, never changed
        self._problems: Mapping[str, str] = {}
        self._awaited: frozenset[str] = frozenset()  # wanted, not yet served or refused
        self._looked = threading.Event()

    @property
    def offers(self) -> Mapping[str, Offer]:
        """The champions, by name."""
        return {name: served.champion for name, served in self._served.items()}

    @property
    def served(self) -> Mapping[str, Served]:
        """Champions, canaries and shadows, by name."""
        return self._served

    @property
    def default_name(self) -> str | None:
        """The model of a request that names none; None while nothing is served."""
        return self._choose(None, None).champion.name if self._served else None

    @property
    def problems(self) -> Mapping[str, str]:
        """Why a model that the folder asks for is not served; the folder's own under its path."""
        return self._problems

    @property
    def looked(self) -> bool:
        """Whether the folder has been gone through once."""
        return self._looked.is_set()

    def require_ready(self) -> None:
        """Raise NotReady until there is a model to serve."""
        if not self._served:
            if not self.looked:
                raise NotReady("the models are being loaded", seconds=2)
            faults = "; ".join(f"{name}: {problem}" for name, problem in self._problems.items())
            folder = self._settings.folder
            raise NotReady(f"no model is served from {folder} yet. {faults}".strip(), seconds=5)

    @contextmanager
    def use(
        self, name: str | None = None, scale: int | None = None, client: str = ""
    ) -> Generator[Offer]:
        """The model of that name, or the best match, kept open for the caller.

        Raises NotReady, UnknownModel or BadOptions.
        """
        while True:
            served = self._choose(name, scale)
            offer = served.for_client(client)
            with offer.model.in_use():
                # A swap may have come between choosing and taking hold: then choose again.
                if self._served.get(offer.name) is served:
                    yield offer
                    return

    @contextmanager
    def use_shadow(self, name: str) -> Generator[Offer | None]:
        """The shadow of that name, kept open for the caller; None where there is none (now)."""
        served = self._served.get(name)
        if served is None or served.shadow is None:
            yield None
            return
        with served.shadow.model.in_use():
            still_served = self._served.get(name) is served
            yield served.shadow if still_served else None

    def _choose(self, name: str | None, scale: int | None) -> Served:
        self.require_ready()
        served = self._served
        if name is not None and name not in served:
            if name in self._awaited:
                raise NotReady(f"model {name} is still being loaded", seconds=5)
            raise UnknownModel(
                f"no model {name[:64]!r} is served; there are: " + ", ".join(sorted(served))
            )
        named = [served[name]] if name is not None else list(served.values())
        fitting = [one for one in named if scale in (None, one.champion.scale)]
        if not fitting:
            if name is None and self._awaited:
                raise NotReady("some models are still being loaded", seconds=5)
            scales = sorted({one.champion.scale for one in named})
            raise BadOptions(
                f"scale {scale} is not offered here; there is: "
                + ", ".join(str(offered) for offered in scales)
            )
        return min(fitting, key=lambda one: self._by_preference(one.champion))

    def _by_preference(self, model: "Offer | Wanted") -> tuple[bool, str]:
        """The default goes first, in loading as in choosing."""
        return (model.name != self._settings.default, model.name)
