"""Keep a folder of bundles equal to the registry's aliases, so that serving needs no registry.

FOLDER/index.json              who stands where, by bundle id; replaced in one rename
FOLDER/by-sha/<bundle id>/     the bundles that the index names, verified before it does
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
LONGEST_WAIT_SECONDS = 60.0


class IndexEntry(BaseModel):
    """Who stands where in one model, by bundle id, and which version each of those bundles is.

    `canary_percent` is the share of requests in [0, 100] that goes to the canary.
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
    """What one look at the registry led to; `problems` are models that could not be followed."""

    index: dict[str, IndexEntry]
    changed: bool
    problems: tuple[str, ...]


class Follower:
    """Brings one folder in line with one registry; a folder has one follower at a time."""

    def __init__(self, registry: Registry, folder: Path) -> None:
        self._registry = registry
        self._folder = folder
        self._bundles = folder / BUNDLES_FOLDER
        self._verified: set[str] = set()

    def poll(self) -> FollowResult:
        """Fetch what is new, replace the index if it changed, remove what nobody names any more.

        A model whose champion cannot be fetched whole keeps the entry it had. Raises RegistryAway,
        with the folder as it was, where the registry does not answer.
        """
        self._begin()
        before = read_index(self._folder)
        index: dict[str, IndexEntry] = {}
        problems: list[str] = []
        for model in self._registry.models():
            state = self._registry.state(model)
            try:
                entry = self._entry(state, problems)
            except SharplineError as error:
                # A champion that cannot be had whole is no reason to drop the one that serves.
                problems.append(f"{model}: {error}")
                entry = before.get(model)
            if entry is not None:
                index[model] = entry
        changed = index != before or not (self._folder / INDEX_FILE).is_file()
        if changed:
            write_json(self._folder / INDEX_FILE, INDEX.dump_python(index, mode="json"))
        # What the last index named stays for one more look: a server may be loading it just now.
        self._prune(_named(before) | _named(index))
        return FollowResult(index=index, changed=changed, problems=tuple(problems))

    def _begin(self) -> None:
        """Make an empty folder a model folder that serves nothing yet, so that a server may start.

        A folder that holds something else stays as it is until the registry has answered.
        """
        if not self._folder.is_dir() or not any(self._folder.iterdir()):
            write_json(self._folder / INDEX_FILE, {})
        self._bundles.mkdir(parents=True, exist_ok=True)

    def _entry(self, state: ReleaseState, problems: list[str]) -> IndexEntry | None:
        """The model's entry, None where nobody stands anywhere; raises if its champion fails."""
        champion = self._held(state.champion)
        others: dict[str, str | None] = {}
        for role in ("previous", "canary", "shadow"):
            try:
                others[role] = self._held(getattr(state, role))
            except SharplineError as error:
                problems.append(f"{state.model}, {role}: {error}")
                others[role] = None
        if champion is None and not any(others.values()):
            return None
        return _entry_of(state, champion, others)

    def _held(self, version: Version | None) -> str | None:
        """The version's bundle id once its verified bundle lies in the folder.

        Raises SharplineError where the registry sends nothing or anything else.
        """
        if version is None:
            return None
        folder = self._bundles / version.bundle_id
        known = version.bundle_id in self._verified and folder.is_dir()
        if not known and not _is_sound(folder, version.bundle_id):
            shutil.rmtree(folder, ignore_errors=True)
            self._registry.fetch(version, folder)
        self._verified.add(version.bundle_id)
        return version.bundle_id

    def _prune(self, keep: set[str]) -> None:
        for folder in self._bundles.iterdir():
            # A fetch that was killed leaves its scratch folder behind.
            if folder.name not in keep or folder.name.startswith(FETCH_PREFIX):
                shutil.rmtree(folder, ignore_errors=True)
                self._verified.discard(folder.name)


def follow(
    follower: Follower,
    every_seconds: float,
    on_change: Callable[[FollowResult], None],
    wait: Callable[[float], object] = time.sleep,
) -> None:
    """Look again and again until interrupted; trouble is said once, and asked about ever later."""
    said: str | None = None
    in_a_row = 0
    while True:
        try:
            poll = follower.poll()
            trouble = "; ".join(poll.problems) or None
            if poll.changed:
                on_change(poll)
        except RegistryUnavailable as error:
            trouble = "the registry is away; the folder stays as it is"
            if said != trouble:
                say(str(error))
        if trouble != said:
            say(trouble or "the registry and its bundles are in order again")
        said = trouble
        in_a_row = in_a_row + 1 if trouble else 0
        wait(min(every_seconds * 2**in_a_row, max(every_seconds, LONGEST_WAIT_SECONDS)))


def read_index(folder: Path) -> dict[str, IndexEntry]:
    """The folder's index, empty where there is none; a damaged one is as good as none."""
    try:
        return INDEX.validate_json((folder / INDEX_FILE).read_bytes())
    except (FileNotFoundError, ValidationError):
        return {}


def _entry_of(
    state: ReleaseState, champion: str | None, others: dict[str, str | None]
) -> IndexEntry:
    named: list[tuple[Version | None, str | None]] = [(state.champion, champion)]
    named += [(getattr(state, role), bundle_id) for role, bundle_id in others.items()]
    canary = others["canary"]
    return IndexEntry(
        champion=champion,
        previous=others["previous"],
        canary=canary,
        canary_percent=(state.canary_percent or 0) if canary else 0,
        shadow=others["shadow"],
        versions={
            bundle_id: version.number for version, bundle_id in named if version and bundle_id
        },
    )


def _is_sound(folder: Path, bundle_id: str) -> bool:
    try:
        return load_bundle(folder, verify=True).id == bundle_id
    except BrokenBundle:
        return False


def _named(index: dict[str, IndexEntry]) -> set[str]:
    return {bundle_id for entry in index.values() for bundle_id in entry.versions}
