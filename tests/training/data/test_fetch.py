"""A source is fetched completely, verified and once, despite server failures and kills."""

import hashlib
import io
import json
import resource
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from superres.common.errors import SharplineError, UsageError
from superres.common.files import file_lock
from superres.image.codecs import Picture, encode, read
from training.data.cli import data
from training.data.fetch import transfer
from training.data.fetch.fetch import FetchReport, fetch
from training.data.fetch.transfer import RetryPolicy
from training.data.sources.entries import Archive, Copy, Entry, Part
from training.data.sources.listing import list_sources
from training.data.sources.records import FetchedSource, read_record, sources_folder
from training.data.sources.resolve import find_pictures

Mirror = Any  # tests/conftest.py's, which cannot be imported from here
FAST_RETRY = RetryPolicy(attempts=2, first_wait_seconds=0.0)
SHORT_TIMEOUT = RetryPolicy(attempts=2, first_wait_seconds=0.0, read_timeout_seconds=0.5)


def picture(seed: int, side: int = 48) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (side, side, 3), dtype=np.uint8)


def png(seed: int) -> bytes:
    return encode(Picture(rgb_hwc=picture(seed)), "png")


PICTURES = {f"{index:04}.png": png(index) for index in range(1, 5)}


def zipped(files: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for path, content in files.items():
            archive.writestr(zipfile.ZipInfo(path), content)
    return packed.getvalue()


ALPS_ZIP = zipped({f"alps/{name}": content for name, content in PICTURES.items()})


def entry(*archives: Archive, pictures: int | None = 4, **copy: str) -> Entry:
    """The source `alps`: each archive is another copy of the same pictures."""
    copies = tuple(
        Copy.model_validate({"archives": (archive,), "folder": "alps"} | copy)
        for archive in archives
    )
    return Entry(
        name="alps",
        title="Alps",
        authors="Doe 2001",
        licence="research use",
        conditions="none",
        parts=(Part(split="train", pictures=pictures, copies=copies),),
    )


@pytest.fixture
def fetch_alps(mirror: Mirror, state: Path) -> Callable[..., FetchReport]:
    """Put the source `alps` on the mirror and fetch it with a short retry policy."""

    def offer_and_fetch(*archives: Archive, **more: Any) -> FetchReport:
        described = archives or (mirror.describe("alps.zip", ALPS_ZIP),)
        mirror.write_catalogue(state, entry(*described, **more))
        return fetch("alps", retry_policy=FAST_RETRY)

    return offer_and_fetch


def local_pictures() -> dict[str, bytes]:
    folder = sources_folder() / "alps" / "train" / "hr"
    return {path.name: path.read_bytes() for path in folder.iterdir()} if folder.is_dir() else {}


def leftovers() -> list[str]:
    """Files of the source other than pictures, its record and its lock."""
    expected = {".lock", "source.json"}
    files = [path for path in (sources_folder() / "alps").rglob("*") if path.is_file()]
    return [path.name for path in files if path.suffix != ".png" and path.name not in expected]


@pytest.mark.parametrize(
    ("behaviour", "requests"),
    [("", 1), ("cuts-once", 2), ("redirects", 2), ("busy-once", 2)],
)
def test_a_source_is_fetched_completely(
    fetch_alps: Callable[..., FetchReport], mirror: Mirror, behaviour: str, requests: int
) -> None:
    mirror.behaviours["alps.zip"] = behaviour
    report = fetch_alps()
    assert report.downloaded == ["train/hr"]
    assert local_pictures() == PICTURES
    assert leftovers() == []
    assert len(mirror.requests) == requests
    [archive] = report.record.parts[0].archives
    assert archive.verified == "published sha256"
    assert archive.sha256 == hashlib.sha256(ALPS_ZIP).hexdigest()


def test_a_broken_download_resumes(fetch_alps: Callable[..., FetchReport], mirror: Mirror) -> None:
    mirror.behaviours["alps.zip"] = "cuts-once"
    fetch_alps()
    assert mirror.requests == [("alps.zip", None), ("alps.zip", f"bytes={len(ALPS_ZIP) // 2}-")]


def test_a_download_restarts_if_the_server_ignores_range(
    fetch_alps: Callable[..., FetchReport], mirror: Mirror, state: Path
) -> None:
    mirror.behaviours["alps.zip"] = "cuts"
    with pytest.raises(SharplineError, match="2 times without progress"):
        fetch_alps()
    assert leftovers() == ["alps.zip.partial", "alps.zip.partial.json"]
    mirror.behaviours["alps.zip"] = "ignores-range"
    fetch_alps()
    assert mirror.requests[-1] == ("alps.zip", f"bytes={len(ALPS_ZIP) // 2}-")
    assert local_pictures() == PICTURES
    assert leftovers() == []


def test_a_download_restarts_if_the_file_changed(
    fetch_alps: Callable[..., FetchReport], mirror: Mirror
) -> None:
    new = zipped({f"alps/{index:04}.png": png(9 + index) for index in range(1, 5)})
    mirror.files["alps.new.zip"] = new
    mirror.behaviours["alps.zip"] = "changes"
    old = mirror.describe("alps.zip", ALPS_ZIP, sha256=None, bytes=None)
    report = fetch_alps(old)
    assert report.record.parts[0].archives[0].sha256 == hashlib.sha256(new).hexdigest()
    assert local_pictures()["0001.png"] == png(10)


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        ("wrong", "checksum"),
        ("cuts", "without progress"),
        ("page", "a text page"),
        ("page-as-archive", "instead of"),
        ("404", "answered 404"),
        ("401", "requires an account"),
        ("500", "answered 500"),
    ],
)
def test_a_failing_mirror_is_reported_and_the_next_is_used(
    fetch_alps: Callable[..., FetchReport],
    mirror: Mirror,
    behaviour: str,
    reason: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    good = mirror.describe("alps.zip", ALPS_ZIP)
    mirror.files["bad.zip"] = ALPS_ZIP
    mirror.behaviours["bad.zip"] = behaviour
    both = (f"{mirror.address}/bad.zip", *good.mirrors)
    fetch_alps(good.model_copy(update={"mirrors": both}))
    assert local_pictures() == PICTURES
    assert f"{mirror.address}/bad.zip: " in capsys.readouterr().err
    mirror.behaviours["alps.zip"] = "404"
    (sources_folder() / "alps" / "train" / "hr" / "0001.png").unlink()
    with pytest.raises(SharplineError, match=reason) as failure:
        fetch_alps(good.model_copy(update={"mirrors": both}))
    assert "alps.zip: the server answered 404" in str(failure.value)


def test_the_next_mirror_is_used_after_a_timeout(
    mirror: Mirror, state: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = mirror.describe("alps.zip", ALPS_ZIP)
    mirror.files["bad.zip"] = ALPS_ZIP
    mirror.behaviours["bad.zip"] = "stalls"
    both = (f"{mirror.address}/bad.zip", *good.mirrors)
    mirror.write_catalogue(state, entry(good.model_copy(update={"mirrors": both})))
    fetch("alps", retry_policy=SHORT_TIMEOUT)
    assert local_pictures() == PICTURES
    assert "bad.zip: the server timed out" in capsys.readouterr().err


def test_a_download_restarts_if_the_server_resumes_at_another_offset(
    fetch_alps: Callable[..., FetchReport], mirror: Mirror
) -> None:
    archive = mirror.describe("alps.zip", ALPS_ZIP)
    _leave_partial_download(mirror, "alps.zip")
    mirror.behaviours["alps.zip"] = "lies"
    fetch_alps(archive)
    assert [range_header for _, range_header in mirror.requests] == [
        f"bytes={len(ALPS_ZIP) // 2}-",
        None,
    ]
    assert local_pictures() == PICTURES


def _leave_partial_download(mirror: Mirror, name: str) -> None:
    """Leave half of a file, as an interrupted fetch does."""
    content = mirror.files[name]
    folder = sources_folder() / "alps" / "downloads"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "alps.zip.partial").write_bytes(content[: len(content) // 2])
    metadata = {
        "address": f"{mirror.address}/{name}",
        "validator": f'"{hashlib.sha256(content).hexdigest()}"',
        "total": len(content),
    }
    (folder / "alps.zip.partial.json").write_text(json.dumps(metadata))


def test_a_resumed_download_with_wrong_bytes_is_retried_from_the_start(
    fetch_alps: Callable[..., FetchReport], mirror: Mirror
) -> None:
    archive = mirror.describe("alps.zip", ALPS_ZIP)
    _leave_partial_download(mirror, "alps.zip")
    partial = sources_folder() / "alps" / "downloads" / "alps.zip.partial"
    partial.write_bytes(bytes(len(partial.read_bytes())))
    fetch_alps(archive)
    assert local_pictures() == PICTURES
    assert [range_header for _, range_header in mirror.requests] == [
        f"bytes={len(ALPS_ZIP) // 2}-",
        None,
    ]


@pytest.mark.parametrize("metadata", ["", "{}", '{"address": "http://elsewhere/alps.zip"}', "gone"])
def test_a_partial_download_without_valid_metadata_is_not_resumed(
    fetch_alps: Callable[..., FetchReport], mirror: Mirror, metadata: str
) -> None:
    archive = mirror.describe("alps.zip", ALPS_ZIP)
    _leave_partial_download(mirror, "alps.zip")
    path = sources_folder() / "alps" / "downloads" / "alps.zip.partial.json"
    path.write_text(metadata)
    if metadata == "gone":
        path.unlink()
    fetch_alps(archive)
    assert mirror.requests == [("alps.zip", None)]
    assert local_pictures() == PICTURES


def test_a_partial_download_longer_than_the_file_is_restarted(
    fetch_alps: Callable[..., FetchReport], mirror: Mirror
) -> None:
    archive = mirror.describe("alps.zip", ALPS_ZIP)
    _leave_partial_download(mirror, "alps.zip")
    partial = sources_folder() / "alps" / "downloads" / "alps.zip.partial"
    partial.write_bytes(ALPS_ZIP + b"more")
    fetch_alps(archive)
    assert mirror.requests == [("alps.zip", None)]


def test_a_complete_download_is_not_repeated_after_a_kill(
    fetch_alps: Callable[..., FetchReport], mirror: Mirror
) -> None:
    archive = mirror.describe("alps.zip", ALPS_ZIP)
    _leave_partial_download(mirror, "alps.zip")
    downloads_folder = sources_folder() / "alps" / "downloads"
    (downloads_folder / "alps.zip.partial").write_bytes(ALPS_ZIP)
    fetch_alps(archive)
    assert mirror.requests == []
    downloads_folder.mkdir()
    (downloads_folder / "alps.zip").write_bytes(ALPS_ZIP)
    (sources_folder() / "alps" / "train" / "hr" / "0001.png").unlink()
    fetch_alps(archive)
    assert mirror.requests == []
    assert local_pictures() == PICTURES


def test_a_fetched_source_makes_no_request(
    fetch_alps: Callable[..., FetchReport], mirror: Mirror
) -> None:
    first = fetch_alps()
    again = fetch_alps()
    assert (again.downloaded, again.record) == ([], first.record)
    assert len(mirror.requests) == 1


def test_without_a_published_checksum_the_first_use_is_trusted(
    fetch_alps: Callable[..., FetchReport], mirror: Mirror
) -> None:
    trusted = mirror.describe("alps.zip", ALPS_ZIP, sha256=None, bytes=None)
    report = fetch_alps(trusted)
    assert report.record.parts[0].archives[0].verified == "first use"
    (sources_folder() / "alps" / "train" / "hr" / "0001.png").unlink()
    other = zipped({f"alps/{index:04}.png": png(20 + index) for index in range(1, 5)})
    mirror.files["alps.zip"] = other
    with pytest.raises(SharplineError, match="the first fetched one is"):
        fetch_alps(trusted)
    mirror.files["alps.zip"] = ALPS_ZIP
    fetch_alps(trusted)
    assert local_pictures() == PICTURES


def test_a_published_md5_is_verified(
    fetch_alps: Callable[..., FetchReport], mirror: Mirror
) -> None:
    md5 = hashlib.md5(ALPS_ZIP).hexdigest()
    report = fetch_alps(mirror.describe("alps.zip", ALPS_ZIP, sha256=None, md5=md5))
    assert report.record.parts[0].archives[0].verified == "published md5"
    (sources_folder() / "alps" / "train" / "hr" / "0001.png").unlink()
    with pytest.raises(SharplineError, match="the published one is 00ff"):
        fetch_alps(mirror.describe("alps.zip", ALPS_ZIP, sha256=None, md5="00ff"))


def test_a_published_md5_of_the_pictures_is_verified(
    fetch_alps: Callable[..., FetchReport], mirror: Mirror
) -> None:
    each = "".join(hashlib.md5(PICTURES[name]).hexdigest() for name in sorted(PICTURES))
    archive = mirror.describe("alps.zip", ALPS_ZIP)
    fetch_alps(archive, pictures_md5=hashlib.md5(each.encode()).hexdigest())
    (sources_folder() / "alps" / "train" / "hr" / "0001.png").unlink()
    with pytest.raises(SharplineError, match="the published one is 00ff"):
        fetch_alps(archive, pictures_md5="00ff")
    assert leftovers() == []


def test_a_wrong_size_is_detected_before_the_download(
    fetch_alps: Callable[..., FetchReport], mirror: Mirror
) -> None:
    with pytest.raises(SharplineError, match="bytes instead of 12"):
        fetch_alps(mirror.describe("alps.zip", ALPS_ZIP, bytes=12))
    assert leftovers() == []


def test_a_wrong_number_of_pictures_is_rejected(
    fetch_alps: Callable[..., FetchReport], mirror: Mirror
) -> None:
    with pytest.raises(SharplineError, match="holds 4 pictures in alps instead of 5"):
        fetch_alps(pictures=5)
    assert local_pictures() == {}
    assert leftovers() == []


def test_the_next_copy_is_tried_where_one_fails(
    fetch_alps: Callable[..., FetchReport], mirror: Mirror
) -> None:
    tarred = io.BytesIO()
    with tarfile.open(fileobj=tarred, mode="w:gz") as archive:
        for name, content in PICTURES.items():
            info = tarfile.TarInfo(f"./alps/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    broken = mirror.describe("alps.zip", ALPS_ZIP[:-30], sha256=None)
    report = fetch_alps(broken, mirror.describe("alps.tar.gz", tarred.getvalue()))
    assert [archive.name for archive in report.record.parts[0].archives] == ["alps.tar.gz"]
    assert local_pictures() == PICTURES


def test_archives_from_a_folder_a_file_or_a_mirror_are_verified(
    mirror: Mirror, state: Path, tmp_path: Path
) -> None:
    archive = mirror.describe("alps.zip", ALPS_ZIP, mirrors=())
    mirror.write_catalogue(state, entry(archive))
    origins = [mirror.address, f"{mirror.address}/alps.zip?x=1", str(tmp_path)]
    origins += [str(tmp_path / "alps.zip")]
    (tmp_path / "alps.zip").write_bytes(ALPS_ZIP)
    for origin in origins:
        for name in local_pictures():
            (sources_folder() / "alps" / "train" / "hr" / name).unlink()
        fetch("alps", origin=origin, retry_policy=FAST_RETRY)
        assert local_pictures() == PICTURES
    assert (tmp_path / "alps.zip").exists()
    (sources_folder() / "alps" / "train" / "hr" / "0001.png").unlink()
    (tmp_path / "alps.zip").write_bytes(ALPS_ZIP[:-1] + b"x")
    with pytest.raises(SharplineError, match="checksum"):
        fetch("alps", origin=str(tmp_path))
    assert (tmp_path / "alps.zip").exists()


def test_credentials_of_a_mirror_are_neither_printed_nor_stored(
    mirror: Mirror, state: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mirror.write_catalogue(state, entry(mirror.describe("alps.zip", ALPS_ZIP)))
    with_password = mirror.address.replace("http://", "http://me:secret@")
    mirror.behaviours["alps.zip"] = "cuts"
    with pytest.raises(SharplineError) as failure:
        fetch("alps", origin=f"{with_password}/alps.zip?token=secret", retry_policy=FAST_RETRY)
    mirror.behaviours["alps.zip"] = ""
    fetch("alps", origin=f"{with_password}/alps.zip?token=secret2", retry_policy=FAST_RETRY)
    assert mirror.requests[-1][1] is not None  # another token resumes the same file
    kept = (sources_folder() / "alps" / "source.json").read_text()
    assert f'"{mirror.address}/alps.zip"' in kept
    assert "secret" not in kept + str(failure.value) + capsys.readouterr().err


def test_a_folder_without_the_archive_is_an_error_that_names_it(
    mirror: Mirror, state: Path, tmp_path: Path
) -> None:
    mirror.write_catalogue(state, entry(mirror.describe("alps.zip", ALPS_ZIP)))
    with pytest.raises(SharplineError, match=r"alps\.zip is not there"):
        fetch("alps", origin=str(tmp_path))
    with pytest.raises(UsageError, match=r"it may be alps\.zip"):
        fetch("alps", origin=str(tmp_path / "andes.zip"))


def test_concurrent_fetches_of_one_source_are_rejected(mirror: Mirror, state: Path) -> None:
    mirror.write_catalogue(state, entry(mirror.describe("alps.zip", ALPS_ZIP)))
    lock = sources_folder() / "alps" / ".lock"
    with file_lock(lock), pytest.raises(SharplineError, match="another process"):
        fetch("alps")
    assert mirror.requests == []


@pytest.mark.parametrize(("name", "part"), [("alpes", "hr"), ("sample", "hr"), ("alps", "lr")])
def test_unknown_sources_and_parts_are_rejected(
    mirror: Mirror, state: Path, name: str, part: str
) -> None:
    mirror.write_catalogue(state, entry(mirror.describe("alps.zip", ALPS_ZIP)))
    with pytest.raises(UsageError):
        fetch(name, parts=[part])


def test_too_little_space_is_detected_before_writing(
    fetch_alps: Callable[..., FetchReport], monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = transfer.shutil.disk_usage("/")._replace(free=10)
    monkeypatch.setattr(transfer.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(SharplineError, match="10 bytes left; free some"):
        fetch_alps()
    assert leftovers() == ["alps.zip.partial.json"]


def test_a_full_disk_is_reported_and_the_next_fetch_resumes(
    fetch_alps: Callable[..., FetchReport], mirror: Mirror
) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        with pytest.raises(SharplineError, match=r"cannot write .*alps\.zip\.partial: File too"):
            fetch_alps()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    fetch_alps()
    assert mirror.requests == [("alps.zip", None), ("alps.zip", "bytes=10000-")]
    assert local_pictures() == PICTURES


def test_an_unwritable_state_folder_is_reported(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("SHARPLINE_STATE", str(tmp_path / "file" / "state"))
    with pytest.raises(SharplineError, match="cannot write"):
        fetch("div2k", origin=mirror.address)


def test_div2k_is_fetched_from_a_mirror_with_its_exact_layout(
    mirror: Mirror, state: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train, validation = [picture(1), picture(2), picture(3)], [picture(4)]
    mirror.write_div2k_catalogue(state, train=train, validation=validation, scales=(2, 4))
    assert data(["fetch", "div2k", "--from", mirror.address, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["downloaded"] == ["train/hr", "validation/hr"]
    assert (result["pictures"], result["unchanged"]) == (4, False)
    found = find_pictures(["div2k"], split_every=2)
    assert [(picture.name, picture.split) for picture in found] == [
        ("div2k-0001", "train"),
        ("div2k-0002", "train"),
        ("div2k-0003", "train"),
        ("div2k-0801", "validation"),
    ]
    assert np.array_equal(read(found[0].path).rgb_hwc, train[0])
    assert data(["fetch", "div2k", "--part", "bicubic", "--from", mirror.address]) == 0
    [*_, last] = find_pictures(["div2k"], scale=4, degradation="given:bicubic")
    assert last.lr_path is not None
    assert last.lr_path.name == "0801x4.png"
    assert read(last.lr_path).rgb_hwc.shape == (12, 12, 3)
    assert data(["fetch", "div2k", "--part", "all"]) == 0
    assert "already here" in capsys.readouterr().err


def test_one_archive_of_several_fetches_the_source_partly(
    mirror: Mirror, state: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mirror.write_div2k_catalogue(state, train=[picture(1)], validation=[picture(2)])
    states = []
    for name in ("DIV2K_train_HR.zip", "DIV2K_valid_HR.zip"):
        (tmp_path / name).write_bytes(mirror.files[name])
        fetch("div2k", origin=str(tmp_path / name))
        states += [source.state for source in list_sources() if source.name == "div2k"]
    assert states == ["partial", "fetched"]
    assert mirror.requests == []


def test_parts_in_one_archive_need_one_download(mirror: Mirror, state: Path) -> None:
    small = {f"alps/small/{name}": content for name, content in PICTURES.items()}
    large = {f"alps/{name}": content for name, content in PICTURES.items()}
    archive = mirror.describe("alps.zip", zipped(large | small))
    high = entry(archive)
    low = Part(
        split="train",
        track="bicubic",
        scale=2,
        pictures=4,
        copies=(Copy(archives=(archive,), folder="alps/small"),),
    )
    mirror.write_catalogue(state, high.model_copy(update={"parts": (*high.parts, low)}))
    assert fetch("alps", parts=["all"]).downloaded == ["train/hr", "train/bicubic_x2"]
    assert len(mirror.requests) == 1


# Fetches in child processes that kill themselves with SIGKILL at a random disk or network step,
# then without a kill. Prints the step of the kill for each state folder, and the number of steps.
KILLED_FETCHES = """
import json, os, random, signal, sys
from pathlib import Path
from training.data.fetch.fetch import fetch
from training.data.fetch.transfer import RetryPolicy

STEPS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "socket.connect"}

def run(state, last):
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    count = 0
    def step(event, arguments):
        nonlocal count
        if event in STEPS:
            count += 1
            if count == last:
                os.kill(os.getpid(), signal.SIGKILL)
    os.environ["SHARPLINE_STATE"] = str(state)
    sys.addaudithook(step)
    fetch("div2k", parts=["all"], retry_policy=RetryPolicy(first_wait_seconds=0.0))
    (state / "steps").write_text(str(count))
    os._exit(0)

smooth, *states = map(Path, sys.argv[1:])
assert run(smooth, -1) == 0
steps = int((smooth / "steps").read_text())
killed_at = []
for state in states:
    killed_at.append(random.randint(1, steps))
    died = run(state, killed_at[-1])
    assert died == signal.SIGKILL, (died, killed_at, steps)
    assert run(state, -1) == 0, killed_at
print(json.dumps([killed_at, steps]))
"""


def test_killed_at_any_moment_a_fetch_ends_with_the_same_files(
    mirror: Mirror, tmp_path: Path, soak: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, validation = [picture(seed) for seed in range(3)], [picture(7)]
    states = [tmp_path / f"state-{index}" for index in range(1 + (20 if soak else 3))]
    for state in states:
        mirror.write_div2k_catalogue(state, train=train, validation=validation)
    mirror.behaviours["DIV2K_train_HR.zip"] = "cuts-first"
    done = subprocess.run(
        [sys.executable, "-c", KILLED_FETCHES, *map(str, states)],
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert done.returncode == 0, done.stderr
    ends = []
    for state in states:
        monkeypatch.setenv("SHARPLINE_STATE", str(state))
        record = read_record("div2k")
        assert isinstance(record, FetchedSource)
        home = sources_folder() / "div2k"
        files = {
            str(path.relative_to(home)): path.read_bytes()
            for path in home.rglob("*")
            if path.is_file() and path.name != "source.json"
        }
        ends.append((record.content_sha256, files))
    assert len(ends[0][1]) == 9  # eight pictures and the lock
    for content_sha256, files in ends:
        assert sorted(files) == sorted(ends[0][1]), done.stdout
        assert (content_sha256, files) == ends[0], done.stdout
