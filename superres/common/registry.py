"""Registries: the networks, losses, degradations, quality metrics and optimizers by name.

Built-in entries are a table of `name: "module:attribute"`, imported when looked up. An installed
package announces its own with an entry point of the registry's group, named like the entry:

    [project.entry-points."sharpline.losses"]
    edges = "acme_losses.edges:LOSS"

Plug-ins are imported when a name is not built in, or when all names are listed. One that fails to
import, is not an entry or takes a name is left out with a warning; everything else works.
"""

import importlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from threading import RLock
from typing import Generic, Protocol, TypeVar, cast

from superres.common.errors import SharplineError, UsageError
from superres.common.strict import did_you_mean

log = logging.getLogger(__name__)


class Entry(Protocol):
    """What can be registered: anything with a name."""

    @property
    def name(self) -> str: ...


EntryT = TypeVar("EntryT", bound=Entry)


def check_fields(
    entry: Entry, *, functions: Sequence[str], classes: Mapping[str, type] | None = None
) -> None:
    """Raise TypeError naming a field of `entry` that is no function, or no subclass of its class.

    Entries call it when they are made, so that a bad one is left out before it is used.
    """
    for field in functions:
        if not callable(getattr(entry, field)):
            raise TypeError(f"`{field}` of {entry.name!r} must be a function")
    for field, base in (classes or {}).items():
        value = getattr(entry, field)
        if not (isinstance(value, type) and issubclass(value, base)):
            raise TypeError(f"`{field}` of {entry.name!r} must be a subclass of {base.__name__}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugin:
    """An announced entry: where it comes from, and why it was left out (empty: it is usable)."""

    group: str
    name: str
    package: str
    problem: str = ""

    @property
    def origin(self) -> str:
        """The package and the problem, as text."""
        return self.package + (f" is left out: {self.problem}" if self.problem else "")

    def __str__(self) -> str:
        return f"{self.group} {self.name!r} of {self.origin}"


class EntryRegistry(Generic[EntryT]):
    """The entries of one kind. `noun` names the kind in errors, `unknown` is the error raised for a
    name that is not registered."""

    def __init__(
        self,
        *,
        group: str,
        noun: str,
        entry_type: type[EntryT],
        built_in: Mapping[str, str],
        unknown: type[SharplineError] = UsageError,
    ) -> None:
        self.group, self.noun, self.built_in = group, noun, tuple(built_in)
        self._entry_type, self._unknown = entry_type, unknown
        self._targets = dict(built_in)
        self._plugged_in: dict[str, EntryT] | None = None
        self._plugins: list[Plugin] = []
        self._lock = RLock()

    def get(self, name: str) -> EntryT:
        """The entry of a name; raises the registry's error with the nearest known name."""
        if name in self._targets:
            module, _, attribute = self._targets[name].partition(":")
            return cast("EntryT", getattr(importlib.import_module(module), attribute))
        plugged_in = self._discovered()
        if name not in plugged_in:
            raise self._unknown(f"no {self.noun} {name!r}{self._explanation(name)}")
        return plugged_in[name]

    def names(self) -> tuple[str, ...]:
        """Every name: the built-in ones, then those of plug-ins."""
        return (*self._targets, *self._discovered())

    def listed(self) -> str:
        """Every name, for an error text."""
        return ", ".join(self.names())

    def plugins(self) -> tuple[Plugin, ...]:
        """Every announced entry of other packages, usable or left out."""
        self._discovered()
        return tuple(self._plugins)

    def __contains__(self, name: object) -> bool:
        return name in self._targets or name in self._discovered()

    def _explanation(self, name: str) -> str:
        for plugin in self._plugins:
            if plugin.name == name:
                return f": {plugin}"
        hint = did_you_mean(name, self.names())
        return f"{hint or ';'} available: {self.listed()}"

    def _discovered(self) -> Mapping[str, EntryT]:
        with self._lock:
            if self._plugged_in is None:
                self._plugged_in = {}  # what a plug-in sees that looks up names on import
                self._plugged_in = self._discover()
            return self._plugged_in

    def _discover(self) -> dict[str, EntryT]:
        found: dict[str, EntryT] = {}
        announced = entry_points(group=self.group)
        for entry_point in sorted(announced, key=lambda each: (_package(each), each.name)):
            problem = ""
            try:
                if entry_point.name in self._targets or entry_point.name in found:
                    raise ValueError("the name is taken")
                found[entry_point.name] = self._load(entry_point)
            except (Exception, SystemExit) as error:  # a plug-in may raise anything on import
                problem = f"{type(error).__name__}: {error}"
            plugin = Plugin(
                group=self.group,
                name=entry_point.name,
                package=_package(entry_point),
                problem=problem,
            )
            self._plugins.append(plugin)
            if problem:
                log.warning("%s", plugin)
        return found

    def _load(self, entry_point: EntryPoint) -> EntryT:
        entry = entry_point.load()
        if not isinstance(entry, self._entry_type):
            raise TypeError(
                f"{entry_point.value} is a {type(entry).__name__}, not a "
                f"{self._entry_type.__module__}.{self._entry_type.__qualname__}"
            )
        if entry.name != entry_point.name:
            raise ValueError(f"its entry is named {entry.name!r}")
        return entry


def _package(entry_point: EntryPoint) -> str:
    distribution = entry_point.dist
    return f"{distribution.name} {distribution.version}" if distribution else "an unknown package"
