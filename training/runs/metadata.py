"""Parameters and tags of a run in MLflow: recipe, data, environment."""

import platform
from importlib import metadata
from pathlib import Path

import torch

from superres.common.files import sha256_bytes, sha256_file, write_bytes
from training.bundles.provenance import Provenance
from training.bundles.publish import git_commit
from training.bundles.validate import CHANNEL, held_out
from training.recipe import Stage
from training.runs.tracking import RunMetadata

CONSTRAINTS = Path(__file__).resolve().parents[2] / "constraints.txt"
PACKAGES_NAME = "packages.txt"


def run_metadata(
    provenance: Provenance, stage: Stage, *, name: str, parent_run: str | None
) -> RunMetadata:
    """The parameters and tags of a run; `parent_run` is the name of its parent run."""
    recipe, parent = provenance.recipe, provenance.parent
    flat = {
        f"recipe.{key}": value
        for key, value in recipe.as_dict().items()
        if key not in ("full", "finetune", "smoke", "arch")
    }
    flat |= {f"stage.{key}": value for key, value in stage.model_dump().items()}
    flat |= {f"arch.{key}": value for key, value in recipe.arch.parameters.items()}
    flat |= {
        "arch": recipe.arch.name,
        "profile": provenance.profile,
        "device": provenance.device,
        "threads": torch.get_num_threads(),
        "parent": parent.id if parent else None,
        **_environment(),
    }
    return RunMetadata(
        name=name,
        parameters={key: str(value) for key, value in flat.items()},
        tags={
            "recipe": recipe.name,
            "dataset_id": provenance.info.id,
            "git_commit": git_commit() or "none",
            "start": f"loaded {provenance.start}" if provenance.start else "from scratch",
            "validation_protocol": _protocol(provenance),
        },
        dataset_id=provenance.info.id,
        dataset_source=provenance.info.source,
        parent_run=parent_run,
    )


def write_packages(folder: Path) -> Path:
    """Write the installed packages as `name==version` lines to FOLDER/packages.txt."""
    path = folder / PACKAGES_NAME
    write_bytes(path, _packages())
    return path


def _protocol(provenance: Provenance) -> str:
    """The protocol of the metrics under validation/; only equal protocols are comparable."""
    pairs = held_out(provenance.dataset, provenance.profile)
    return str(pairs.protocol(CHANNEL)) if pairs else "none"


def _environment() -> dict[str, str]:
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": platform.platform(),
        "packages_sha256": sha256_bytes(_packages()),
        "constraints_sha256": sha256_file(CONSTRAINTS) if CONSTRAINTS.is_file() else "none",
    }


def _packages() -> bytes:
    lines = {
        f"{package.metadata['Name']}=={package.version}" for package in metadata.distributions()
    }
    return "".join(f"{line}\n" for line in sorted(lines, key=str.lower)).encode()
