"""The folder of one run: run.json, checkpoints/, samples/, tracking.jsonl and the bundle."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from superres.common.files import sha256_bytes, write_json

STATE_NAME = "run.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunKey:
    """Identifies a training: a run can resume an unfinished run with an equal key."""

    recipe: dict[str, Any]
    profile: str
    dataset_id: str
    parent_id: str | None
    minutes: float | None

    @property
    def digest(self) -> str:
        """The first eight hex digits of the key's sha256."""
        fields = [self.recipe, self.profile, self.dataset_id, self.parent_id, self.minutes]
        return sha256_bytes(json.dumps(fields, sort_keys=True).encode())[:8]


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """The folder of one run."""

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
        """Record the result and mark the run as finished: it will not be resumed."""
        state = json.loads((self.folder / STATE_NAME).read_bytes())
        write_json(self.folder / STATE_NAME, state | {"finished": True, "result": result})


def unfinished_run(root: Path, name: str, key: RunKey) -> Run | None:
    """The newest run of a key without a published bundle."""
    for folder in sorted(root.glob(f"{_prefix(name, key)}*"), reverse=True):
        if (folder / STATE_NAME).is_file() and not Run(folder=folder).finished:
            return Run(folder=folder)
    return None


def open_run(root: Path, name: str, key: RunKey, *, resume: bool) -> tuple[Run, bool]:
    """Create a run, or with `resume` reuse the newest unfinished one of the same key.

    Returns the run and whether it already existed.
    """
    unfinished = unfinished_run(root, name, key) if resume else None
    if unfinished is not None:
        return unfinished, True
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
