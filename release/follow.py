"""Keep a folder of bundles equal to the registry's aliases, so that serving needs no registry.

FOLDER/index.json              bundle ids by role; replaced atomically
FOLDER/by-sha/<bundle id>/     the bundles in the index, verified before they enter it
"""

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from release.registry import FETCH_PREFIX, Registry
from release.versions import RegistryUnavailable, ReleaseState, Version
from superres.common.console import say
from superres.common.errors import SharplineError
from superres.common.files import write_json
from superres.model.bundle import BrokenBundle, load_bundle

INDEX_FILE, BUNDLES_FOLDER = "index.json", "by-sha"
MAX_BACKOFF_SECONDS = 60.0


class IndexEntry(BaseModel):
    """The bundle id of each role of one model, and the version number of each bundle.

    `canary_percent` is the share of clients in [0, 99] that the canary serves.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    champion: str | None
    previous: str | None
    canary: str | None
    canary_percent: int
    shadow: str | None
    versions: dict[str, int]


INDEX = TypeAdapter(dict[str, IndexEntry])


@dataclass(frozen=True, slots=True, kw_only=True)
class FollowResult:
    """The result of one poll of the registry; `problems` are models that could not be followed."""

    index: dict[str, IndexEntry]
    changed: bool
    problems: tuple[str, ...]


class Follower:
    """Syncs one folder with one registry; a folder has one follower at a time."""

    def __init__(self, registry: Registry, folder: Path) -> None:
        self._registry = registry
        self._folder = folder
        self._bundles = folder / BUNDLES_FOLDER
        self._verified: set[str] = set()

    def poll(self) -> FollowResult:
        """Fetch new bundles, replace the index if it changed, remove unreferenced bundles.

        A model whose champion cannot be fetched keeps its previous entry. Raises
        RegistryUnavailable, leaving the folder unchanged, where the registry does not respond.
        """
        self._ensure_folder()
        before = read_index(self._folder)
        index: dict[str, IndexEntry] = {}
        problems: list[str] = []
        for model in self._registry.models():
            state = self._registry.state(model)
            try:
                entry = self._entry(state, problems)
            except SharplineError as error:
                # A champion that cannot be fetched must not remove the one that serves.
                problems.append(f"{model}: {error}")
                entry = before.get(model)
            if entry is not None:
                index[model] = entry
        changed = index != before or not (self._folder / INDEX_FILE).is_file()
        if changed:
            write_json(self._folder / INDEX_FILE, INDEX.dump_python(index, mode="json"))
        # Bundles of the last index stay for one more poll: a server may be loading one.
        self._prune(_bundle_ids(before) | _bundle_ids(index))
        return FollowResult(index=index, changed=changed, problems=tuple(problems))

    def _ensure_folder(self) -> None:
        """Write an empty index into an empty folder, so that a server may start on it.

        A non-empty folder stays unchanged until the registry has responded.
        """
        if not self._folder.is_dir() or not any(self._folder.iterdir()):
            write_json(self._folder / INDEX_FILE, {})
        self._bundles.mkdir(parents=True, exist_ok=True)

    def _entry(self, state: ReleaseState, problems: list[str]) -> IndexEntry | None:
        """The model's entry, None where no role has a version; raises if the champion fails."""
        champion = self._ensure_bundle(state.champion)
        others: dict[str, str | None] = {}
        for role in ("previous", "canary", "shadow"):
            try:
                others[role] = self._ensure_bundle(getattr(state, role))
            except SharplineError as error:
                problems.append(f"{state.model}, {role}: {error}")
                others[role] = None
        if champion is None and not any(others.values()):
            return None
        return _entry_of(state, champion, others)

    def _ensure_bundle(self, version: Version | None) -> str | None:
        """Fetch the version's bundle unless a verified copy is in the folder; return its id.

        Raises SharplineError where the registry sends no bundle or a different one.
        """
        if version is None:
            return None
        folder = self._bundles / version.bundle_id
        verified = version.bundle_id in self._verified and folder.is_dir()
        if not verified and not _is_intact(folder, version.bundle_id):
            shutil.rmtree(folder, ignore_errors=True)
            self._registry.fetch(version, folder)
        self._verified.add(version.bundle_id)
        return version.bundle_id

    def _prune(self, keep: set[str]) -> None:
        for folder in self._bundles.iterdir():
            # A killed fetch leaves its temporary folder behind.
            if folder.name not in keep or folder.name.startswith(FETCH_PREFIX):
                shutil.rmtree(folder, ignore_errors=True)
                self._verified.discard(folder.name)


def follow(
    follower: Follower,
    every_seconds: float,
    on_change: Callable[[FollowResult], None],
    wait: Callable[[float], object] = time.sleep,
) -> None:
    """Poll until interrupted, with exponential backoff on errors; each problem is logged once."""
    last_problem: str | None = None
    failures = 0
    while True:
        try:
            result = follower.poll()
            problem = "; ".join(result.problems) or None
            if result.changed:
                on_change(result)
        except RegistryUnavailable as error:
            problem = "the registry is unavailable; the folder stays unchanged"
            if last_problem != problem:
                say(str(error))
        if problem != last_problem:
            say(problem or "the registry and its bundles are available again")
        last_problem = problem
        failures = failures + 1 if problem else 0
        wait(min(every_seconds * 2**failures, max(every_seconds, MAX_BACKOFF_SECONDS)))


def read_index(folder: Path) -> dict[str, IndexEntry]:
    """The folder's index; empty where it is missing or damaged."""
    try:
        return INDEX.validate_json((folder / INDEX_FILE).read_bytes())
    except (FileNotFoundError, ValidationError):
        return {}


def _entry_of(
    state: ReleaseState, champion: str | None, others: dict[str, str | None]
) -> IndexEntry:
    versions: list[tuple[Version | None, str | None]] = [(state.champion, champion)]
    versions += [(getattr(state, role), bundle_id) for role, bundle_id in others.items()]
    canary = others["canary"]
    return IndexEntry(
        champion=champion,
        previous=others["previous"],
        canary=canary,
        canary_percent=(state.canary_percent or 0) if canary else 0,
        shadow=others["shadow"],
        versions={
            bundle_id: version.number for version, bundle_id in versions if version and bundle_id
        },
    )


def _is_intact(folder: Path, bundle_id: str) -> bool:
    try:
        return load_bundle(folder, verify=True).id == bundle_id
    except BrokenBundle:
        return False


def _bundle_ids(index: dict[str, IndexEntry]) -> set[str]:
    return {bundle_id for entry in index.values() for bundle_id in entry.versions}
