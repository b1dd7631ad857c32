"""Adds a user's own folder as a source, with its licence and a statement of rights."""

import re
import shlex
from pathlib import Path

from superres.common.environment import state_folder, user_at_host
from superres.common.errors import UsageError
from superres.common.files import file_lock
from superres.dataset.consent import refuse_clients_pictures, refuse_marked_below
from superres.image.codecs import list_pictures
from training.data.sources.records import (
    AddedSource,
    UsageTerms,
    now,
    read_record,
    read_records,
    sources_folder,
    write_record,
)

STATEMENT = "I own the rights to these pictures, or have the permission to train models on them."
NAME_FORM = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
LOCK_WAIT_SECONDS = 30.0


def add_folder(
    folder: Path,
    *,
    name: str,
    licence: str | None,
    owns_the_rights: bool,
    lr_folder: Path | None = None,
    scale: int | None = None,
    watched: bool = False,
    replace: bool = False,
) -> AddedSource:
    """Record an own folder as the source `name`; its pictures are not copied.

    Adding it again with the same terms only sets `watched`; another licence or folder for a name
    needs `replace`, and the earlier terms stay on record. Raises UsageError on missing or invalid
    arguments, ClientsPictures where the folder holds pictures that clients sent.
    """
    stated = (licence or "").strip()
    if not owns_the_rights or not stated:
        raise UsageError(
            "training on pictures needs a statement that it is allowed, and a licence, which "
            "every model trained on them inherits: run\n  " + add_command(folder, name, licence)
        )
    _require_free_name(name)
    folder = _require_own_pictures(folder, may_be_empty=watched)
    if lr_folder is not None:
        lr_folder = _require_own_pictures(lr_folder, may_be_empty=watched)
    with file_lock(sources_folder() / ".added.lock", timeout_seconds=LOCK_WAIT_SECONDS):
        previous = read_record(name)
        _require_one_name(folder, name)
        record = AddedSource(
            name=name,
            folder=folder,
            lr_folder=lr_folder,
            scale=scale,
            watched=watched,
            terms=UsageTerms(licence=stated, statement=STATEMENT, by=user_at_host(), at=now()),
        )
        if isinstance(previous, AddedSource):
            record = _updated(previous, record, replace)
        if record != previous:
            write_record(record)
    return record


def added_at(folder: Path) -> AddedSource | None:
    """The source that this folder was added as, or None."""
    resolved = folder.resolve()
    added = (record for record in read_records() if isinstance(record, AddedSource))
    return next((record for record in added if record.folder == resolved), None)


def add_command(folder: Path, name: str | None = None, licence: str | None = None) -> str:
    """The command that adds a folder, for error messages."""
    valid_name = (
        re.sub(r"[^A-Za-z0-9._-]", "_", name or folder.resolve().name).lstrip("._-") or "pictures"
    )
    stated = shlex.quote(licence.strip()) if licence and licence.strip() else "'LICENCE'"
    return (
        f"sharpline data add {shlex.quote(str(folder))} --name {valid_name} "
        f"--i-own-the-rights --licence {stated}"
    )


def _updated(previous: AddedSource, record: AddedSource, replace: bool) -> AddedSource:
    """The new record; changed terms keep those of `previous` in `earlier`.

    Raises UsageError if the change needs `replace`.
    """
    if record.terms.licence == previous.terms.licence and record.folder == previous.folder:
        record = record.model_copy(update={"terms": previous.terms, "earlier": previous.earlier})
    else:
        record = record.model_copy(update={"earlier": [*previous.earlier, previous.terms]})
    ignored = {"watched": previous.watched}
    if record.model_copy(update=ignored) != previous and not replace:
        raise UsageError(
            f"{record.name} is {previous.folder} under the licence {previous.terms.licence!r}, as "
            f"{previous.terms.by} stated at {previous.terms.at}; datasets built from it state "
            "that licence. Choose another --name, or use --replace"
        )
    return record


def _require_free_name(name: str) -> None:
    from training.data.sources.catalogue import read_catalogue
    from training.data.sources.sample import SAMPLE

    if NAME_FORM.fullmatch(name) is None:
        raise UsageError(
            f"--name {name!r}: use up to 64 of A-Z a-z 0-9 . _ - with a letter or digit first"
        )
    if name == SAMPLE or name in read_catalogue():
        raise UsageError(f"--name {name}: a public source has that name; choose another")


def _require_own_pictures(folder: Path, *, may_be_empty: bool) -> Path:
    """The resolved folder; raises where training must not read it or it holds no pictures."""
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder")
    refuse_clients_pictures(folder)
    resolved, state = folder.resolve(), state_folder()
    if state == resolved or state in resolved.parents or resolved in state.parents:
        raise UsageError(
            f"{folder} is in the state folder {state} or contains it, where Sharpline keeps its "
            "output and clients' pictures; keep your pictures in a separate folder"
        )
    refuse_marked_below(resolved)
    if not may_be_empty and not list_pictures(resolved):
        raise UsageError(f"{folder} holds no pictures (subfolders do not count)")
    return resolved


def _require_one_name(folder: Path, name: str) -> None:
    other = added_at(folder)
    if other is not None and other.name != name:
        raise UsageError(
            f"{folder} is already the source {other.name} under the licence "
            f"{other.terms.licence!r}; a folder has one name and one licence"
        )
