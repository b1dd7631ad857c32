"""Manifests and descriptions round-trip; broken ones are refused."""

from pathlib import Path

import pytest

from superres.common.errors import SharplineError
from superres.dataset.manifest import (
    INFO_NAME,
    MANIFEST_NAME,
    SCHEMA,
    DatasetInfo,
    LeftOut,
    ManifestRow,
    read_info,
    read_manifest,
    write_info,
    write_manifest,
)

INFO = DatasetInfo(
    id="0123456789abcdef",
    source="garden",
    scale=4,
    degradation="bicubic",
    splits={"train": 2, "validation": 0},
    licences=["CC0-1.0"],
    left_out=[LeftOut(name="x", reason="too small")],
    reference={"noise": {"mean": 1.0, "std": 0.5, "p05": 0.1, "p50": 1.0, "p95": 2.0}},
    pack_sha256="0" * 64,
)


def row(name: str) -> ManifestRow:
    return ManifestRow(
        split="train",
        name=name,
        hr_path=f"pairs/train/HR/{name}.png",
        lr_path=f"pairs/train/LR/{name}.png",
        hr_sha256="a" * 64,
        lr_sha256="b" * 64,
        hr_bytes=10,
        lr_bytes=5,
        width=64,
        height=48,
        scale=4,
        degradation="bicubic",
        parameters="{}",
        seed=2**32 - 1,
        source="garden",
        licence="CC0-1.0",
        author="Zoë",
        phash="f" * 16,
    )


def test_rows_round_trip_in_order(tmp_path: Path) -> None:
    rows = [row("b"), row("a")]
    write_manifest(tmp_path / MANIFEST_NAME, rows)
    assert read_manifest(tmp_path / MANIFEST_NAME) == rows
    assert read_manifest(tmp_path) == rows


def test_the_same_rows_are_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_manifest(tmp_path / name, [row("a"), row("b")])
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_a_row_has_the_schemas_columns() -> None:
    assert list(row("a").as_dict()) == SCHEMA.names


def test_a_description_round_trips(tmp_path: Path) -> None:
    write_info(tmp_path, INFO)
    assert read_info(tmp_path) == INFO


def test_a_folder_without_dataset_json_is_refused_with_instructions(tmp_path: Path) -> None:
    with pytest.raises(SharplineError, match="sharpline data build"):
        read_info(tmp_path)


@pytest.mark.parametrize("text", ["{", "{}", '{"id": 3}'])
def test_a_broken_description_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / INFO_NAME).write_text(text)
    with pytest.raises(SharplineError, match="is broken or of another version"):
        read_info(tmp_path)


@pytest.mark.parametrize("content", [None, b"", b"PAR1 and nothing more"])
def test_a_broken_manifest_is_refused(content: bytes | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / MANIFEST_NAME).write_bytes(content)
    with pytest.raises(SharplineError, match="build the dataset again"):
        read_manifest(tmp_path)
