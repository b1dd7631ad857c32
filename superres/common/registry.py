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
import re
from collections.abc import Collection, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from threading import RLock
from typing import Generic, Protocol, TypeVar, cast

from superres.common.errors import SharplineError, UsageError
from superres.common.names import unknown_name

log = logging.getLogger(__name__)

NAME = r"[a-z][a-z0-9_]*"


class PluginFailed(SharplineError):
    """A plug-in's function raised an error, or returned something else than it must."""


class Entry(Protocol):
    """What can be registered: anything with a name."""

    @property
    def name(self) -> str: ...


EntryT = TypeVar("EntryT", bound=Entry)


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
        self._plugins: tuple[Plugin, ...] = ()
        self._lock = RLock()

    def get(self, name: str) -> EntryT:
        """The entry of a name; raises the registry's error with the nearest known name."""
        if name in self._targets:
            module, _, attribute = self._targets[name].partition(":")
            return cast("EntryT", getattr(importlib.import_module(module), attribute))
        plugged_in = self._discovered()
        if name not in plugged_in:
            raise self._unknown(self._explanation(name))
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
        return self._plugins

    def package(self, name: str) -> str | None:
        """Name and version of the package that announced an entry; None for a built-in one."""
        if name in self._targets:
            return None
        return next((each.package for each in self.plugins() if each.name == name), None)

    @contextmanager
    def failures_of(self, name: str) -> Generator[None]:
        """Raise errors of a plug-in's functions as PluginFailed, which names entry and package.

        Errors of built-in entries, and those with a text for the user, are raised unchanged.
        """
        try:
            yield
        except Exception as error:
            package = None if isinstance(error, SharplineError) else self.package(name)
            if package is None:
                raise
            raise PluginFailed(
                f"{self.noun} {name!r} of {package} failed: {describe_exception(error)}"
            ) from error

    def __contains__(self, name: object) -> bool:
        return name in self._targets or name in self._discovered()

    def _explanation(self, name: str) -> str:
        """Why a name is unknown: its plug-in was left out, or there is none."""
        for plugin in self._plugins:
            if plugin.name == name:
                return f"no {self.noun} {name!r}: {plugin}"
        return unknown_name(self.noun, name, self.names())

    def _discovered(self) -> Mapping[str, EntryT]:
        with self._lock:
            if self._plugged_in is None:
                self._plugged_in = {}  # what a plug-in sees that looks up names on import
                try:
                    self._plugged_in = self._discover()
                except BaseException:
                    self._plugged_in = None
                    raise
            return self._plugged_in

    def _discover(self) -> dict[str, EntryT]:
        announced = sorted(entry_points(group=self.group), key=lambda each: (each.name, _of(each)))
        packages: dict[str, list[str]] = {name: ["Sharpline"] for name in self._targets}
        for point in announced:
            packages.setdefault(point.name, []).append(_of(point))
        found: dict[str, EntryT] = {}
        plugins: list[Plugin] = []
        for point in announced:
            others = list(packages[point.name])
            others.remove(_of(point))
            problem = f"{' and '.join(others)} has an entry of this name" if others else ""
            if not problem:
                try:
                    found[point.name] = self._load(point)
                except KeyboardInterrupt:
                    raise
                except BaseException as error:  # a plug-in may raise anything on import
                    problem = describe_exception(error)
            plugin = Plugin(group=self.group, name=point.name, package=_of(point), problem=problem)
            plugins.append(plugin)
            if problem:
                log.warning("%s", plugin)
        self._plugins = tuple(plugins)
        return found

    def _load(self, point: EntryPoint) -> EntryT:
        if not re.fullmatch(NAME, point.name):
            raise ValueError(f"its name does not match {NAME}")
        entry = point.load()
        if not isinstance(entry, self._entry_type):
            raise TypeError(
                f"{point.value} is of type {type(entry).__name__}, not "
                f"{self._entry_type.__module__}.{self._entry_type.__qualname__}"
            )
        if entry.name != point.name:
            raise ValueError(f"its entry is named {entry.name!r}")
        return entry


def check_fields(
    entry: Entry,
    *,
    functions: Sequence[str] = (),
    classes: Mapping[str, type] | None = None,
    subsets: Mapping[str, Collection[str]] | None = None,
) -> None:
    """Raise TypeError naming a field of `entry` that is no function, no subclass of its class, or
    no set with these values only.

    Entries call it when they are made, so that a bad one is left out before it is used.
    """
    for field in functions:
        if not callable(getattr(entry, field)):
            raise TypeError(f"`{field}` must be a function")
    for field, base in (classes or {}).items():
        value = getattr(entry, field)
        if not (isinstance(value, type) and issubclass(value, base)):
            raise TypeError(f"`{field}` must be a subclass of {base.__name__}")
    for field, allowed in (subsets or {}).items():
        value = getattr(entry, field)
        if not isinstance(value, frozenset) or not value <= set(allowed):
            raise TypeError(f"`{field}` must be a frozenset of {', '.join(sorted(allowed))}")


def describe_exception(error: BaseException) -> str:
    """The type and the first line of an exception."""
    first_line = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {first_line}"


def _of(point: EntryPoint) -> str:
    distribution = point.dist
    return f"{distribution.name} {distribution.version}" if distribution else "an unknown package"
