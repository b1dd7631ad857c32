"""Resolve `--on` to pictures: a folder, a dataset by its id, or a fetched source."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from superres.common.environment import state_folder
from superres.common.errors import SharplineError, UsageError
from superres.dataset.manifest import INFO_NAME
from superres.evaluation.evaluate import PairSet, pairs_from_dataset, pairs_from_folder
from superres.image.codecs import list_pictures

# Usual names of a benchmark set's folder of high-resolution pictures.
TRUTH_FOLDERS = ("hr", "gt", "original")


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOut:
    """Held-out pictures: a dataset folder, or a folder of HR pictures and the set's name."""

    name: str
    folder: Path
    is_dataset: bool

    def pairs(self, scale: int, split: str) -> PairSet:
        """The pairs for a scale; the inputs of a plain folder are made by MATLAB's bicubic."""
        if self.is_dataset:
            return pairs_from_dataset(self.folder, scale, split)
        return pairs_from_folder(self.folder, scale, self.name)


def find_held_out(name: str) -> HeldOut:
    """Find held-out pictures by folder, dataset id or source name; UsageError lists the known."""
    path = Path(name)
    if path.is_dir():
        return _dataset(path) if (path / INFO_NAME).is_file() else _folder(path)
    dataset = state_folder() / "datasets" / name
    if (dataset / INFO_NAME).is_file():
        return _dataset(dataset)
    source = state_folder() / "sources" / name
    if (source / "source.json").is_file():
        return HeldOut(name=name, folder=_truth_of_source(source), is_dataset=False)
    sources = sorted(path.parent.name for path in state_folder().glob("sources/*/source.json"))
    datasets = sorted(path.parent.name for path in state_folder().glob(f"datasets/*/{INFO_NAME}"))
    raise UsageError(
        f"{name} is not a folder of pictures, a dataset or a source; there are: "
        f"{', '.join([*sources, *datasets]) or 'none'} (`sharpline data fetch` downloads sources)"
    )


def set_name(folder: Path) -> str:
    """The name of the set in `folder`: set5 for set5/HR."""
    path = folder.resolve()
    return path.parent.name if path.name.lower() in TRUTH_FOLDERS else path.name


def _dataset(path: Path) -> HeldOut:
    return HeldOut(name=path.resolve().name, folder=path, is_dataset=True)


def _folder(path: Path) -> HeldOut:
    """A folder of pictures, or one with an HR folder; set5/HR is named set5."""
    path = path.resolve()
    if path.name.lower() in TRUTH_FOLDERS:
        return HeldOut(name=set_name(path), folder=path, is_dataset=False)
    inner = [each for each in sorted(path.iterdir()) if each.name.lower() in TRUTH_FOLDERS]
    folder = inner[0] if inner and not list_pictures(path) else path
    return HeldOut(name=path.name, folder=folder, is_dataset=False)


def _truth_of_source(source: Path) -> Path:
    """The HR pictures of a fetched source (its validation split if any) or an added one."""
    record: dict[str, Any] = json.loads((source / "source.json").read_text())
    if "folder" in record:
        return Path(record["folder"])
    parts = [part for part in record.get("parts", []) if part["part"] == "hr"]
    if not parts:
        raise SharplineError(
            f"{source.name} lacks its HR pictures; run `sharpline data fetch {source.name}`"
        )
    held_out = [part for part in parts if part["split"] == "validation"]
    return source / (held_out or parts)[0]["folder"]
