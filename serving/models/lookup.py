"""The models that are served now, and the choice of one for a request."""

import threading
from collections.abc import Generator, Mapping
from contextlib import contextmanager

from serving.errors import BadOptions, NotReady, UnknownModel
from serving.models.folder import DesiredModel
from serving.models.routing import ModelRoute, ModelVersion
from serving.setting_groups import ModelSettings


class ServedModels:
    """Champions, canaries and shadows by name; a request keeps the model it started with."""

    def __init__(self, settings: ModelSettings) -> None:
        self._settings = settings
        self._routes: Mapping[str, ModelRoute] = {}  # replaced as a whole, never mutated
        self._problems: Mapping[str, str] = {}
        self._loading: frozenset[str] = frozenset()  # desired, not yet served or refused
        self._loaded_once = threading.Event()

    @property
    def champions(self) -> Mapping[str, ModelVersion]:
        """The champions, by name."""
        return {name: route.champion for name, route in self._routes.items()}

    @property
    def routes(self) -> Mapping[str, ModelRoute]:
        """Champions, canaries and shadows, by name."""
        return self._routes

    @property
    def default_name(self) -> str | None:
        """The model of a request that names none; None while nothing is served."""
        return self._choose(None, None).champion.name if self._routes else None

    @property
    def problems(self) -> Mapping[str, str]:
        """Why desired models are not served, by name; the folder's own problem under its path."""
        return self._problems

    @property
    def loaded_once(self) -> bool:
        """Whether the folder has been polled once, and its models loaded or refused."""
        return self._loaded_once.is_set()

    def require_ready(self) -> None:
        """Raise NotReady until there is a model to serve."""
        if not self._routes:
            if not self.loaded_once:
                raise NotReady("the models are being loaded", seconds=2)
            faults = "; ".join(f"{name}: {problem}" for name, problem in self._problems.items())
            folder = self._settings.folder
            raise NotReady(f"no model is served from {folder} yet. {faults}".strip(), seconds=5)

    @contextmanager
    def use(
        self, name: str | None = None, scale: int | None = None, client: str = ""
    ) -> Generator[ModelVersion]:
        """The model of that name or the best match, kept open for the caller.

        Raises NotReady, UnknownModel or BadOptions.
        """
        while True:
            route = self._choose(name, scale)
            model_version = route.for_client(client)
            with model_version.model.in_use():
                # If the model was swapped in between, choose again.
                if self._routes.get(model_version.name) is route:
                    yield model_version
                    return

    @contextmanager
    def use_shadow(self, name: str) -> Generator[ModelVersion | None]:
        """The shadow of that name, kept open for the caller; None if there is none (any more)."""
        route = self._routes.get(name)
        if route is None or route.shadow is None:
            yield None
            return
        with route.shadow.model.in_use():
            still_served = self._routes.get(name) is route
            yield route.shadow if still_served else None

    def _choose(self, name: str | None, scale: int | None) -> ModelRoute:
        self.require_ready()
        routes = self._routes
        if name is not None and name not in routes:
            if name in self._loading:
                raise NotReady(f"model {name} is still being loaded", seconds=5)
            raise UnknownModel(
                f"no model {name[:64]!r} is served; available: " + ", ".join(sorted(routes))
            )
        candidates = [routes[name]] if name is not None else list(routes.values())
        matching = [route for route in candidates if scale in (None, route.champion.scale)]
        if not matching:
            if name is None and self._loading:
                raise NotReady("some models are still being loaded", seconds=5)
            scales = sorted({route.champion.scale for route in candidates})
            raise BadOptions(
                f"scale {scale} is not available; available: "
                + ", ".join(str(available) for available in scales)
            )
        return min(matching, key=lambda route: self._by_preference(route.champion))

    def _by_preference(self, model: "ModelVersion | DesiredModel") -> tuple[bool, str]:
        """Sort key: the default model first, for loading and for choosing."""
        return (model.name != self._settings.default, model.name)
