"""Reads the model folder: the models of its index.json or, without one, all bundles in it."""

import json
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from superres.common.errors import SharplineError
from superres.model.bundle import INFO_FILE, load_bundle

INDEX_FILE = "index.json"
STORE = "by-sha"
UNREGISTERED = "local"  # the version of a bundle without a registry version

FolderState = tuple[tuple[str, int, int, int], ...]


class BrokenFolder(SharplineError):
    """The model folder cannot be read."""


class IndexEntry(BaseModel):
    """One model of index.json; values are bundle ids, `versions` maps them to registry versions."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    champion: str | None
    previous: str | None = None
    canary: str | None = None
    canary_percent: float = 0.0
    shadow: str | None = None
    versions: dict[str, str | int] = Field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexedBundle:
    """One bundle of a model; `bundle_id` is None if there is no index."""

    version: str
    path: Path
    bundle_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DesiredModel:
    """The desired state of one model.

    The champion serves requests, except for `canary_percent` of the clients, which the canary
    serves. The shadow is only compared, `previous` stays loaded for a rollback.
    """

    name: str
    champion: IndexedBundle
    previous: IndexedBundle | None = None
    canary: IndexedBundle | None = None
    canary_percent: float = 0.0
    shadow: IndexedBundle | None = None


_INDEX = TypeAdapter(dict[str, IndexEntry])


def read_folder(folder: Path) -> dict[str, DesiredModel]:
    """The desired models of the folder, by name. Raises BrokenFolder."""
    if not folder.is_dir():
        raise BrokenFolder(f"there is no models folder {folder}; name one with --models")
    index = folder / INDEX_FILE
    if index.is_file():
        return _from_index(folder, index)
    desired: dict[str, DesiredModel] = {}
    for path in _bundles_in(folder):
        name = _declared_name(path)
        # A second bundle of a name goes under its folder's name and is refused later.
        name = path.name if name in desired else name
        desired[name] = DesiredModel(
            name=name, champion=IndexedBundle(version=UNREGISTERED, path=path)
        )
    return desired


def folder_state(folder: Path) -> FolderState:
    """A value that changes with the index and the bundles; costs a few stat calls."""
    paths = [folder / INDEX_FILE]
    for bundle in [*_bundles_in(folder), *_bundles_in(folder / STORE)]:
        paths += [bundle / INFO_FILE, *bundle.glob("*.safetensors")]
    stats: list[tuple[str, int, int, int]] = []
    for path in paths:
        try:
            stat = path.stat()
        except OSError:
            continue  # just replaced; the next poll sees it
        stats.append((str(path), stat.st_mtime_ns, stat.st_ino, stat.st_size))
    return tuple(stats)


def require_models(folder: Path) -> None:
    """Raise BrokenFolder if no model of the folder can be served, with the reason for each bundle.

    An empty folder or one with an index passes: `sharpline models follow` may fill it later.
    """
    desired = read_folder(folder)
    if not desired:
        if (folder / INDEX_FILE).is_file() or not any(folder.iterdir()):
            return
        raise BrokenFolder(
            f"{folder} holds no model: put a bundle's folder into it or fill it "
            f"with `sharpline models follow --to {folder}`"
        )
    faults = []
    for desired_model in desired.values():
        try:
            load_bundle(desired_model.champion.path)
        except SharplineError as error:
            faults.append(f"  {desired_model.name}: {error}")
    if len(faults) == len(desired):
        raise BrokenFolder("\n".join([f"no model in {folder} can be used:", *faults]))


def _bundles_in(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(
        path
        for path in folder.iterdir()
        if not path.name.startswith(".") and (path / INFO_FILE).is_file()
    )


def _declared_name(bundle: Path) -> str:
    """The name in the bundle's description, or its folder's name if that cannot be read."""
    try:
        return str(json.loads((bundle / INFO_FILE).read_bytes())["name"])
    except (OSError, ValueError, KeyError, TypeError):
        return bundle.name


def _from_index(folder: Path, index: Path) -> dict[str, DesiredModel]:
    try:
        entries = _INDEX.validate_python(json.loads(index.read_bytes()))
    except (OSError, ValueError, ValidationError) as error:
        raise BrokenFolder(
            f"{index} cannot be read ({error}); `sharpline models follow` rewrites it"
        ) from error
    return {
        name: _desired_model(folder, name, entry)
        for name, entry in entries.items()
        if entry.champion is not None
    }


def _desired_model(folder: Path, name: str, entry: IndexEntry) -> DesiredModel:
    def indexed(bundle_id: str | None) -> IndexedBundle | None:
        if bundle_id is None:
            return None
        version = str(entry.versions.get(bundle_id, UNREGISTERED))
        return IndexedBundle(version=version, path=folder / STORE / bundle_id, bundle_id=bundle_id)

    champion = indexed(entry.champion)
    assert champion is not None  # `_from_index` skips models without one
    return DesiredModel(
        name=name,
        champion=champion,
        previous=indexed(entry.previous),
        canary=indexed(entry.canary),
        canary_percent=entry.canary_percent,
        shadow=indexed(entry.shadow),
    )
