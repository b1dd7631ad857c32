"""The catalogue of public sets, own entries that extend it, and the list of sources."""

from pathlib import Path

import pytest

from superres.common.errors import SharplineError, UsageError
from training.bundles.licence import commercial_use
from training.data.cli import data
from training.data.sources.catalogue import OWN_CATALOGUE, read_catalogue
from training.data.sources.entries import Entry
from training.data.sources.listing import list_sources
from training.data.sources.public import PUBLIC
from training.data.sources.records import RECORD_NAME, read_record, read_records, sources_folder

OWN = """
- name: herbarium
  title: Our herbarium
  authors: us
  licence: CC0-1.0
  conditions: none
  parts:
    - split: train
      pictures: 12
      copies:
        - folder: scans
          archives: [{name: herbarium.zip, mirrors: ["http://archive.lan/herbarium.zip"], bytes: 7}]
"""


def own_catalogue(text: str) -> Path:
    sources_folder().mkdir(parents=True, exist_ok=True)
    path = sources_folder() / OWN_CATALOGUE
    path.write_text(text)
    return path


def test_the_catalogue_has_the_usual_public_sets() -> None:
    assert list(read_catalogue()) == [
        "div2k",
        "flickr2k",
        "lsdir",
        "set5",
        "set14",
        "bsd100",
        "urban100",
    ]
    roles = {entry.name for entry in PUBLIC if entry.role == "benchmark"}
    assert roles == {"set5", "set14", "bsd100", "urban100"}


@pytest.mark.parametrize("entry", PUBLIC, ids=lambda entry: entry.name)
def test_checksums_and_urls_are_complete(entry: Entry) -> None:
    copies = [copy for part in entry.parts for copy in part.copies]
    for archive in {archive for copy in copies for archive in copy.archives}:
        assert archive.sha256 is None or len(archive.sha256) == 64
        assert archive.md5 is None or len(archive.md5) == 32
        assert archive.mirrors
        assert all(url.startswith("https://") for url in archive.mirrors)
        assert all(url.endswith(f"/{archive.name}") for url in archive.mirrors)
    assert all(len(copy.pictures_md5 or "-" * 32) == 32 for copy in copies)
    names = [(part.name, part.split) for part in entry.parts]
    assert len(set(names)) == len(names)


def test_div2k_has_every_track_of_both_challenges_each_with_its_checksum() -> None:
    div2k = read_catalogue()["div2k"]
    assert div2k.part_names() == [
        "hr",
        *(f"bicubic_x{scale}" for scale in (2, 3, 4, 8)),
        *(f"unknown_x{scale}" for scale in (2, 3, 4)),
        "mild_x4",
        "difficult_x4",
        "wild_x4",
    ]
    archives = [part.copies[0].archives[0] for part in div2k.parts]
    assert len({archive.sha256 for archive in archives}) == len(archives) == 22
    folders = {part.name: part.copies[0].folder for part in div2k.parts if part.split == "train"}
    assert folders["hr"] == "DIV2K_train_HR"
    assert folders["bicubic_x4"] == "DIV2K_train_LR_bicubic/X4"
    assert folders["bicubic_x8"] == "DIV2K_train_LR_x8"
    assert folders["mild_x4"] == "DIV2K_train_LR_mild"


def test_no_public_training_set_allows_commercial_use() -> None:
    assert {commercial_use([url.licence]) for url in PUBLIC if url.role == "training"} == {"no"}


def test_parts_are_chosen_by_name_track_or_all() -> None:
    div2k = read_catalogue()["div2k"]
    assert {part.name for part in div2k.choose(["unknown"])} == {
        "unknown_x2",
        "unknown_x3",
        "unknown_x4",
    }
    assert [part.split for part in div2k.choose(["hr"])] == ["train", "validation"]
    assert len(div2k.choose(["all"])) == len(div2k.parts)
    with pytest.raises(UsageError, match="bicubic_x8"):
        div2k.choose(["bicubic_x16"])


def test_own_entries_extend_and_override_the_public_ones() -> None:
    own_catalogue(OWN)
    assert [*read_catalogue()][-1] == "herbarium"
    own_catalogue(OWN.replace("herbarium\n", "set5\n", 1))
    assert read_catalogue()["set5"].title == "Our herbarium"
    assert len(read_catalogue()) == len(PUBLIC)


@pytest.mark.parametrize(
    "text",
    [
        OWN.replace("pictures: 12", "pictures: many"),
        OWN.replace("title", "titel"),
        OWN.replace("name: herbarium.zip", "name: ../herbarium.zip"),
        OWN.replace("name: herbarium\n", "name: her/barium\n"),
        "- [",
        "text",
    ],
)
def test_an_invalid_own_catalogue_is_reported_with_its_path(text: str) -> None:
    path = own_catalogue(text)
    with pytest.raises(SharplineError, match=str(path)):
        read_catalogue()


def test_the_list_shows_state_size_and_licence_of_everything(
    pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own_catalogue(OWN)
    assert data(["list"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert "embedded" in lines["sample"]
    assert "not fetched         900 pictures   3.98 GB  DIV2K: academic" in lines["div2k"]
    assert "benchmark" in lines["set5"]
    assert "7 bytes  CC0-1.0" in lines["herbarium"]
    assert "added                 6 pictures" in lines["garden"]


def test_an_added_folder_that_is_gone_is_listed_as_not_there(
    tmp_path: Path, pictures: Path
) -> None:
    [garden] = [source for source in list_sources() if source.name == "garden"]
    assert (garden.available, garden.kind, garden.state) == (True, "added", "added")
    record = sources_folder() / "garden" / RECORD_NAME
    record.write_text(record.read_text().replace(str(pictures), str(tmp_path / "gone")))
    [garden] = [source for source in list_sources() if source.name == "garden"]
    assert (garden.available, garden.pictures) == (False, 0)


@pytest.mark.parametrize("text", ["", "{}", '{"kind": "added", "name": "x"}', '{"kind": "new"}'])
def test_a_broken_record_says_what_to_do(text: str) -> None:
    path = sources_folder() / "alps" / RECORD_NAME
    path.parent.mkdir(parents=True)
    path.write_text(text)
    for reading in (lambda: read_record("alps"), read_records):
        with pytest.raises(SharplineError, match="fetch or add the source again"):
            reading()
