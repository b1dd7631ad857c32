"""The folder of one training: run.json, checkpoints/, samples/, tracking.jsonl and the bundle."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from superres.common.files import sha256_bytes, write_json

STATE_NAME = "run.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunKey:
    """What makes two trainings the same one, so that one can go on where the other broke off."""

    recipe: dict[str, Any]
    profile: str
    dataset_id: str
    parent_id: str | None
    minutes: float | None

    @property
    def digest(self) -> str:
        """Eight hex digits over all of it."""
        fields = [self.recipe, self.profile, self.dataset_id, self.parent_id, self.minutes]
        return sha256_bytes(json.dumps(fields, sort_keys=True).encode())[:8]


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One training's folder."""

    folder: Path

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    @property
    def samples(self) -> Path:
        return self.folder / "samples"

    @property
    def finished(self) -> bool:
        """Whether the bundle has been published."""
        return json.loads((self.folder / STATE_NAME).read_bytes())["finished"]

    def finish(self, result: dict[str, object]) -> None:
        """Note the result: the run is over and will not be resumed."""
        state = json.loads((self.folder / STATE_NAME).read_bytes())
        write_json(self.folder / STATE_NAME, state | {"finished": True, "result": result})


def unfinished_run(root: Path, name: str, key: RunKey) -> Run | None:
    """The newest run of a key that has not published its bundle."""
    for folder in sorted(root.glob(f"{_prefix(name, key)}*"), reverse=True):
        if (folder / STATE_NAME).is_file() and not Run(folder=folder).finished:
            return Run(folder=folder)
    return None


def open_run(root: Path, name: str, key: RunKey, *, resume: bool) -> tuple[Run, bool]:
    """A new run's folder, or with `resume` that of the newest unfinished one of the same key.

    Returns the run and whether it was there before.
    """
    found = unfinished_run(root, name, key) if resume else None
    if found is not None:
        return found, True
    folder = root / (_prefix(name, key) + datetime.now(UTC).strftime("%Y%m%d-%H%M%S-%f"))
    write_json(
        folder / STATE_NAME,
        {
            "recipe": key.recipe,
            "profile": key.profile,
            "dataset": key.dataset_id,
            "parent": key.parent_id,
            "minutes": key.minutes,
            "finished": False,
        },
    )
    return Run(folder=folder.resolve()), False


def _prefix(name: str, key: RunKey) -> str:
    return f"{name}-{key.profile}-{key.digest}-"
