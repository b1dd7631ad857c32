"""The catalogue of sources that can be fetched: public sets and own `catalogue.yaml` entries."""

import yaml
from pydantic import TypeAdapter

from superres.common.errors import SharplineError
from training.data.sources.entries import Entry
from training.data.sources.public import PUBLIC
from training.data.sources.records import sources_folder

OWN_CATALOGUE = "catalogue.yaml"


def read_catalogue() -> dict[str, Entry]:
    """Every entry by name: the public sets, and those of `catalogue.yaml` in the sources folder.

    An own entry replaces the public one of its name. Raises SharplineError where the file is
    invalid.
    """
    return {entry.name: entry for entry in (*PUBLIC, *_own_entries())}


def _own_entries() -> list[Entry]:
    path = sources_folder() / OWN_CATALOGUE
    try:
        written = yaml.safe_load(path.read_text())
        return TypeAdapter(list[Entry]).validate_python(written or [])
    except (FileNotFoundError, NotADirectoryError):
        return []
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise SharplineError(f"{path} is not a list of catalogue entries: {error}") from error
