"""Find bundles by folder, or by the name of a starter that ships with Sharpline."""

from pathlib import Path

from superres.common.errors import SharplineError
from superres.common.names import unknown_name
from superres.model.bundle import INFO_FILE, Bundle, load_bundle

STARTERS = Path(__file__).resolve().parents[2] / "models"


def find_bundle(name_or_folder: str) -> Bundle:
    """Load a bundle by folder, or a starter by name; SharplineError lists the starters."""
    folder = Path(name_or_folder)
    if (folder / INFO_FILE).is_file():
        return load_bundle(folder)
    if folder.exists():
        raise SharplineError(f"{folder} is not a model bundle: it has no {INFO_FILE}")
    starters = sorted(path.parent.name for path in STARTERS.glob(f"*/{INFO_FILE}"))
    if name_or_folder not in starters:
        raise SharplineError(
            unknown_name("model", name_or_folder, starters, ", or the folder of a bundle")
        )
    return load_bundle(STARTERS / name_or_folder)


def find_bundles(folder: Path = STARTERS) -> list[Bundle]:
    """Load every bundle in a folder, sorted by name; raises SharplineError if there is none."""
    bundles = [load_bundle(path.parent) for path in sorted(folder.glob(f"*/{INFO_FILE}"))]
    if not bundles:
        raise SharplineError(f"there are no model bundles in {folder}")
    return bundles
