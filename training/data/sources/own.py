"""Own folders become sources by one way only: with a licence and the word of whoever adds them."""

import re
import shlex
from pathlib import Path

from superres.common.environment import person, state_folder
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
    """Record an own folder as the source `name`; its pictures stay where they are.

    The same words again only set whether it is watched; another licence or folder for a name needs
    `replace`, and the terms that it had stay on record. Raises UsageError where the words are not
    enough, ClientsPictures where clients sent what is in the folder.
    """
    stated = (licence or "").strip()
    if not owns_the_rights or not stated:
        raise UsageError(
            "pictures are trained on only by someone's word that this is allowed, and under a "
            "licence that every model made from them inherits: run\n  "
            + add_command(folder, name, licence)
        )
    _require_free_name(name)
    folder = _require_own_pictures(folder, may_be_empty=watched)
    if lr_folder is not None:
        lr_folder = _require_own_pictures(lr_folder, may_be_empty=watched)
    with file_lock(sources_folder() / ".added.lock", timeout_seconds=LOCK_WAIT_SECONDS):
        before = read_record(name)
        _require_one_name(folder, name)
        record = AddedSource(
            name=name,
            folder=folder,
            lr_folder=lr_folder,
            scale=scale,
            watched=watched,
            terms=UsageTerms(licence=stated, statement=STATEMENT, by=person(), at=now()),
        )
        if isinstance(before, AddedSource):
            record = _after(before, record, replace)
        if record != before:
            write_record(record)
    return record


def added_at(folder: Path) -> AddedSource | None:
    """The source that this folder has been added as, if it has."""
    resolved = folder.resolve()
    added = (record for record in read_records() if isinstance(record, AddedSource))
    return next((record for record in added if record.folder == resolved), None)


def add_command(folder: Path, name: str | None = None, licence: str | None = None) -> str:
    """The command that adds a folder, for messages."""
    fit = re.sub(r"[^A-Za-z0-9._-]", "_", name or folder.resolve().name).lstrip("._-") or "pictures"
    stated = shlex.quote(licence.strip()) if licence and licence.strip() else "'LICENCE'"
    return (
        f"sharpline data add {shlex.quote(str(folder))} --name {fit} "
        f"--i-own-the-rights --licence {stated}"
    )


def _after(before: AddedSource, record: AddedSource, replace: bool) -> AddedSource:
    """The record that stands once `record` is added over `before`."""
    if record.terms.licence == before.terms.licence and record.folder == before.folder:
        record = record.model_copy(update={"terms": before.terms, "earlier": before.earlier})
    else:
        record = record.model_copy(update={"earlier": [*before.earlier, before.terms]})
    aside = {"watched": before.watched}
    if record.model_copy(update=aside) != before and not replace:
        raise UsageError(
            f"{record.name} is {before.folder} under the licence {before.terms.licence!r}, as "
            f"{before.terms.by} stated at {before.terms.at}; datasets built from it say so. "
            "Choose another --name, or run again with --replace to state it anew"
        )
    return record


def _require_free_name(name: str) -> None:
    from training.data.sources.catalogue import read_catalogue
    from training.data.sources.sample import SAMPLE

    if NAME_FORM.fullmatch(name) is None:
        raise UsageError(
            f"--name {name!r}: take up to 64 of A-Z a-z 0-9 . _ - with a letter or digit first"
        )
    if name == SAMPLE or name in read_catalogue():
        raise UsageError(f"--name {name}: that is a public source's name; choose another")


def _require_own_pictures(folder: Path, *, may_be_empty: bool) -> Path:
    """The folder, resolved, where it is one that training may read and that holds pictures."""
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder")
    refuse_clients_pictures(folder)
    resolved, state = folder.resolve(), state_folder()
    if state == resolved or state in resolved.parents or resolved in state.parents:
        raise UsageError(
            f"{folder} lies in the state folder {state} or around it, where Sharpline keeps what "
            "it makes and what clients sent; keep own pictures in a folder of their own"
        )
    refuse_marked_below(resolved)
    if not may_be_empty and not list_pictures(resolved):
        raise UsageError(f"{folder} holds no pictures (those of folders below it do not count)")
    return resolved


def _require_one_name(folder: Path, name: str) -> None:
    other = added_at(folder)
    if other is not None and other.name != name:
        raise UsageError(
            f"{folder} is a source already, as {other.name} under the licence "
            f"{other.terms.licence!r}; one folder has one name and one licence"
        )
