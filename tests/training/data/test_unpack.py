"""Pictures are unpacked into the given folders; an unsafe archive is rejected as a whole."""

import gzip
import io
import stat
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from superres.common.errors import SharplineError
from training.data.fetch import unpack as unpacking
from training.data.fetch.unpack import BadArchive, UnsafeArchive, unpack

Files = dict[str, bytes]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """The folder that pictures are unpacked into."""
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


def zipped(path: Path, files: Files) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


MODES = {".gz": "w:gz", ".xz": "w:xz", ".bz2": "w:bz2"}


def tarred(path: Path, files: Files) -> Path:
    with tarfile.open(path, MODES.get(path.suffix, "w")) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


PACKERS = [
    (zipped, "a.zip"),
    (tarred, "a.tar"),
    (tarred, "a.tar.gz"),
    (tarred, "a.tar.xz"),
    (tarred, "a.tar.bz2"),
]
Packer = Callable[[Path, Files], Path]


@pytest.mark.parametrize(("pack", "name"), PACKERS)
def test_only_pictures_of_the_target_folder_are_unpacked(
    pack: Packer, name: str, tmp_path: Path, out: Path
) -> None:
    archive = pack(
        tmp_path / name,
        {
            "set/HR/1.png": b"one",
            "set/HR/2.JPG": b"two",
            "set/HR/readme.txt": b"text",
            "set/HR/._1.png": b"AppleDouble file of 1.png",
            "set/LR/1.png": b"small",
            "1.png": b"elsewhere",
        },
    )
    unpacked = unpack([archive], {"set/HR": out})["set/HR"]
    assert {path.name: path.read_bytes() for path in out.iterdir()} == {
        "1.png": b"one",
        "2.JPG": b"two",
    }
    assert unpacked.bytes == 6


def test_a_pattern_unpacks_several_archives_and_folders_into_one(tmp_path: Path, out: Path) -> None:
    first = tarred(tmp_path / "a.tar", {"0001000/1.png": b"one", "0002000/2.png": b"two"})
    second = tarred(tmp_path / "b.tar", {"0003000/3.png": b"three", "notes/4.png": b"four"})
    unpacked = unpack([first, second], {"[0-9]*": out})["[0-9]*"]
    assert sorted(unpacked.pictures) == ["1.png", "2.png", "3.png"]


def test_the_content_hash_covers_names_and_bytes(tmp_path: Path, out: Path) -> None:
    def content(name: str, files: Files, pack: Packer = zipped) -> str:
        archive = pack(tmp_path / name, files)
        return unpack([archive], {"a": out})["a"].content_sha256

    same = {"a/1.png": b"one", "a/2.png": b"two"}
    reordered = dict(reversed(same.items()))
    first = content("1.zip", same)
    assert first == content("2.zip", reordered) == content("1.tar", same, tarred)
    assert first != content("3.zip", same | {"a/2.png": b"owt"})
    assert first != content("4.zip", {"a/1.png": b"one", "a/3.png": b"two"})


@pytest.mark.parametrize(("pack", "name"), PACKERS)
@pytest.mark.parametrize(
    "path",
    ["../1.png", "a/../../1.png", "/etc/1.png", "..\\1.png", "C:\\1.png", "\\\\host\\1.png"],
)
def test_a_path_outside_the_archive_is_rejected(
    pack: Packer, name: str, path: str, tmp_path: Path, out: Path
) -> None:
    archive = pack(tmp_path / name, {path: b"evil"})
    with pytest.raises(UnsafeArchive, match="outside the archive"):
        unpack([archive], {"*": out})
    assert list(out.iterdir()) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == [name, "out"]


@pytest.mark.parametrize(
    "kind",
    [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE],
)
def test_links_and_devices_in_a_tar_are_rejected(kind: bytes, tmp_path: Path, out: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        info = tarfile.TarInfo("a/1.png")
        info.type, info.linkname = kind, "/etc/passwd"
        archive.addfile(info)
    with pytest.raises(UnsafeArchive, match="link"):
        unpack([tmp_path / "a.tar"], {"a": out})
    assert list(out.iterdir()) == []


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFIFO, stat.S_IFSOCK])
def test_links_and_devices_in_a_zip_are_rejected(kind: int, tmp_path: Path, out: Path) -> None:
    info = zipfile.ZipInfo("a/1.png")
    info.external_attr = (kind | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(UnsafeArchive, match="link"):
        unpack([tmp_path / "a.zip"], {"a": out})
    assert list(out.iterdir()) == []


@pytest.mark.parametrize(("pack", "name"), [(zipped, "a.zip"), (tarred, "a.tar.gz")])
@pytest.mark.parametrize("path", ["a/1.png", "unwanted/bomb.bin"])
def test_a_decompression_bomb_is_rejected_before_it_is_read(
    pack: Packer, name: str, path: str, tmp_path: Path, out: Path
) -> None:
    archive = pack(tmp_path / name, {path: bytes(3 * 1024**2)})
    with pytest.raises(UnsafeArchive, match="10 times the archive's size"):
        unpack([archive], {"a": out})
    assert list(out.iterdir()) == []


def test_a_zip_with_wrong_sizes_is_rejected(tmp_path: Path, out: Path) -> None:
    data = zipped(tmp_path / "a.zip", {"a/1.png": bytes(3 * 1024**2)}).read_bytes()
    size = struct.pack("<I", 3 * 1024**2)
    (tmp_path / "a.zip").write_bytes(data.replace(size, struct.pack("<I", 100)))
    with pytest.raises(BadArchive, match="damaged"):
        unpack([tmp_path / "a.zip"], {"a": out})
    assert list(out.iterdir()) == []


def test_a_huge_picture_is_rejected(
    tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unpacking, "MAX_PICTURE_BYTES", 10)
    with pytest.raises(UnsafeArchive, match="11 bytes"):
        unpack([zipped(tmp_path / "a.zip", {"a/1.png": b"x" * 11})], {"a": out})


def test_a_huge_declared_header_is_rejected_before_it_is_read(tmp_path: Path, out: Path) -> None:
    header = tarfile.TarInfo("a/1.png")
    header.type, header.size = tarfile.XHDTYPE, 8 * 1024**3
    with gzip.open(tmp_path / "a.tar.gz", "wb") as file:
        file.write(header.tobuf(tarfile.GNU_FORMAT) + bytes(10_000))
    with pytest.raises(UnsafeArchive, match="header that declares"):
        unpack([tmp_path / "a.tar.gz"], {"a": out})


def test_too_many_files_are_rejected(
    tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unpacking, "MAX_ENTRIES", 2)
    with pytest.raises(UnsafeArchive):
        unpack([zipped(tmp_path / "a.zip", {f"a/{n}.png": b"x" for n in range(3)})], {"a": out})


def test_a_duplicate_name_is_rejected(tmp_path: Path, out: Path) -> None:
    archive = zipped(tmp_path / "a.zip", {"a/1/1.png": b"x", "a/2/1.png": b"y"})
    with pytest.raises(UnsafeArchive, match=r"1\.png twice"):
        unpack([archive], {"a/*": out})


@pytest.mark.parametrize(("pack", "name"), PACKERS)
@pytest.mark.parametrize("damage", ["cut", "flipped", "text"])
def test_a_damaged_archive_is_rejected(
    pack: Packer, name: str, damage: str, tmp_path: Path, out: Path
) -> None:
    import numpy as np

    noise = np.random.default_rng(1).integers(0, 255, 4000, dtype=np.uint8).tobytes()
    data = bytearray(pack(tmp_path / name, {"a/1.png": noise, "a/2.png": noise}).read_bytes())
    if damage == "cut":
        del data[len(data) // 2 :]
    elif damage == "flipped" and name != "a.tar":  # a plain tar has no checksum over its files
        data[600] ^= 255
    else:
        data = bytearray(b"not an archive at all, only text" * 100)
    (tmp_path / name).write_bytes(data)
    with pytest.raises(BadArchive, match=r"not an archive or is damaged|bytes instead of"):
        unpack([tmp_path / name], {"a": out})


def test_an_encrypted_zip_is_rejected(tmp_path: Path, out: Path) -> None:
    data = bytearray(zipped(tmp_path / "a.zip", {"a/1.png": b"x"}).read_bytes())
    data[6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "a.zip").write_bytes(data)
    with pytest.raises(BadArchive, match="encrypted"):
        unpack([tmp_path / "a.zip"], {"a": out})


def test_a_full_disk_is_reported(
    tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, _: bytes) -> None:
        raise SharplineError(f"cannot write {path}: No space left on device; free space")

    monkeypatch.setattr(unpacking, "write_bytes", full)
    with pytest.raises(SharplineError, match="No space left") as failure:
        unpack([zipped(tmp_path / "a.zip", {"a/1.png": b"x"})], {"a": out})
    assert not isinstance(failure.value, BadArchive)
