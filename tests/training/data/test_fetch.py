"""A source comes whole, verified and once, whatever the server does and whenever the fetch dies."""

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
HASTY = RetryPolicy(attempts=2, first_wait_seconds=0.0)
SHORT = RetryPolicy(attempts=2, first_wait_seconds=0.0, silence_seconds=0.5)


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
    """The source `alps`: the archives are other ways to the same pictures."""
    ways = tuple(
        Copy.model_validate({"archives": (archive,), "folder": "alps"} | copy)
        for archive in archives
    )
    return Entry(
        name="alps",
        title="Alps",
        authors="Doe 2001",
        licence="research use",
        conditions="none",
        parts=(Part(split="train", pictures=pictures, copies=ways),),
    )


@pytest.fixture
def alps(mirror: Mirror, state: Path) -> Callable[..., FetchReport]:
    """Offer the source `alps` on the mirror, as it is described, and fetch it hastily."""

    def bring(*archives: Archive, **more: Any) -> FetchReport:
        described = archives or (mirror.describe("alps.zip", ALPS_ZIP),)
        mirror.offer(state, entry(*described, **more))
        return fetch("alps", retry_policy=HASTY)

    return bring


def here() -> dict[str, bytes]:
    folder = sources_folder() / "alps" / "train" / "hr"
    return {path.name: path.read_bytes() for path in folder.iterdir()} if folder.is_dir() else {}


def leftovers() -> list[str]:
    """Everything of the source that is neither a picture, its record nor its lock."""
    known = {".lock", "source.json"}
    files = [path for path in (sources_folder() / "alps").rglob("*") if path.is_file()]
    return [path.name for path in files if path.suffix != ".png" and path.name not in known]


@pytest.mark.parametrize(
    ("manner", "requests"),
    [("", 1), ("cuts-once", 2), ("redirects", 2), ("busy-once", 2)],
)
def test_a_source_comes_whole(
    alps: Callable[..., FetchReport], mirror: Mirror, manner: str, requests: int
) -> None:
    mirror.manners["alps.zip"] = manner
    report = alps()
    assert report.downloaded == ["train/hr"]
    assert here() == PICTURES
    assert leftovers() == []
    assert len(mirror.asked) == requests
    [archive] = report.record.parts[0].archives
    assert archive.verified == "published sha256"
    assert archive.sha256 == hashlib.sha256(ALPS_ZIP).hexdigest()


def test_what_broke_off_goes_on_where_it_did(
    alps: Callable[..., FetchReport], mirror: Mirror
) -> None:
    mirror.manners["alps.zip"] = "cuts-once"
    alps()
    assert mirror.asked == [("alps.zip", None), ("alps.zip", f"bytes={len(ALPS_ZIP) // 2}-")]


def test_a_server_that_ignores_range_starts_over(
    alps: Callable[..., FetchReport], mirror: Mirror, state: Path
) -> None:
    mirror.manners["alps.zip"] = "cuts"
    with pytest.raises(SharplineError, match="2 times without getting any further"):
        alps()
    assert leftovers() == ["alps.zip.partial", "alps.zip.partial.json"]
    mirror.manners["alps.zip"] = "ignores-range"
    alps()
    assert mirror.asked[-1] == ("alps.zip", f"bytes={len(ALPS_ZIP) // 2}-")
    assert here() == PICTURES
    assert leftovers() == []


def test_a_file_that_changed_meanwhile_starts_over(
    alps: Callable[..., FetchReport], mirror: Mirror
) -> None:
    new = zipped({f"alps/{index:04}.png": png(9 + index) for index in range(1, 5)})
    mirror.files["alps.new.zip"] = new
    mirror.manners["alps.zip"] = "changes"
    old = mirror.describe("alps.zip", ALPS_ZIP, sha256=None, bytes=None)
    report = alps(old)
    assert report.record.parts[0].archives[0].sha256 == hashlib.sha256(new).hexdigest()
    assert here()["0001.png"] == png(10)


@pytest.mark.parametrize(
    ("manner", "reason"),
    [
        ("wrong", "checksum"),
        ("cuts", "without getting any further"),
        ("page", "a page of text"),
        ("page-as-archive", "instead of"),
        ("404", "answered 404"),
        ("401", "asks for an account"),
        ("500", "answered 500"),
    ],
)
def test_a_bad_mirror_is_said_and_the_next_one_asked(
    alps: Callable[..., FetchReport],
    mirror: Mirror,
    manner: str,
    reason: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    good = mirror.describe("alps.zip", ALPS_ZIP)
    mirror.files["bad.zip"] = ALPS_ZIP
    mirror.manners["bad.zip"] = manner
    both = (f"{mirror.address}/bad.zip", *good.mirrors)
    alps(good.model_copy(update={"mirrors": both}))
    assert here() == PICTURES
    assert f"{mirror.address}/bad.zip: " in capsys.readouterr().err
    mirror.manners["alps.zip"] = "404"
    (sources_folder() / "alps" / "train" / "hr" / "0001.png").unlink()
    with pytest.raises(SharplineError, match=reason) as failure:
        alps(good.model_copy(update={"mirrors": both}))
    assert "alps.zip: the server answered 404" in str(failure.value)


def test_a_server_that_falls_silent_is_left_for_the_next_one(
    mirror: Mirror, state: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = mirror.describe("alps.zip", ALPS_ZIP)
    mirror.files["bad.zip"] = ALPS_ZIP
    mirror.manners["bad.zip"] = "stalls"
    both = (f"{mirror.address}/bad.zip", *good.mirrors)
    mirror.offer(state, entry(good.model_copy(update={"mirrors": both})))
    fetch("alps", retry_policy=SHORT)
    assert here() == PICTURES
    assert "bad.zip: the server fell silent" in capsys.readouterr().err


def test_a_server_that_goes_on_elsewhere_is_made_to_start_over(
    alps: Callable[..., FetchReport], mirror: Mirror
) -> None:
    archive = mirror.describe("alps.zip", ALPS_ZIP)
    _break_off_once(mirror, "alps.zip")
    mirror.manners["alps.zip"] = "lies"
    alps(archive)
    assert [asked for _, asked in mirror.asked] == [f"bytes={len(ALPS_ZIP) // 2}-", None]
    assert here() == PICTURES


def _break_off_once(mirror: Mirror, name: str) -> None:
    """Leave half of a file behind, as a fetch that was cut would."""
    content = mirror.files[name]
    folder = sources_folder() / "alps" / "downloads"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "alps.zip.partial").write_bytes(content[: len(content) // 2])
    note = {
        "address": f"{mirror.address}/{name}",
        "validator": f'"{hashlib.sha256(content).hexdigest()}"',
        "total": len(content),
    }
    (folder / "alps.zip.partial.json").write_text(json.dumps(note))


def test_wrong_bytes_of_two_goes_are_asked_for_again_in_one(
    alps: Callable[..., FetchReport], mirror: Mirror
) -> None:
    archive = mirror.describe("alps.zip", ALPS_ZIP)
    _break_off_once(mirror, "alps.zip")
    partial = sources_folder() / "alps" / "downloads" / "alps.zip.partial"
    partial.write_bytes(bytes(len(partial.read_bytes())))
    alps(archive)
    assert here() == PICTURES
    assert [asked for _, asked in mirror.asked] == [f"bytes={len(ALPS_ZIP) // 2}-", None]


@pytest.mark.parametrize("note", ["", "{}", '{"address": "http://elsewhere/alps.zip"}', "gone"])
def test_a_beginning_of_unknown_origin_is_not_gone_on_with(
    alps: Callable[..., FetchReport], mirror: Mirror, note: str
) -> None:
    archive = mirror.describe("alps.zip", ALPS_ZIP)
    _break_off_once(mirror, "alps.zip")
    path = sources_folder() / "alps" / "downloads" / "alps.zip.partial.json"
    path.write_text(note)
    if note == "gone":
        path.unlink()
    alps(archive)
    assert mirror.asked == [("alps.zip", None)]
    assert here() == PICTURES


def test_a_partial_longer_than_the_file_starts_over(
    alps: Callable[..., FetchReport], mirror: Mirror
) -> None:
    archive = mirror.describe("alps.zip", ALPS_ZIP)
    _break_off_once(mirror, "alps.zip")
    partial = sources_folder() / "alps" / "downloads" / "alps.zip.partial"
    partial.write_bytes(ALPS_ZIP + b"more")
    alps(archive)
    assert mirror.asked == [("alps.zip", None)]


def test_what_came_whole_before_a_kill_is_not_asked_for_again(
    alps: Callable[..., FetchReport], mirror: Mirror
) -> None:
    archive = mirror.describe("alps.zip", ALPS_ZIP)
    _break_off_once(mirror, "alps.zip")
    downloads_folder = sources_folder() / "alps" / "downloads"
    (downloads_folder / "alps.zip.partial").write_bytes(ALPS_ZIP)
    alps(archive)
    assert mirror.asked == []
    downloads_folder.mkdir()
    (downloads_folder / "alps.zip").write_bytes(ALPS_ZIP)
    (sources_folder() / "alps" / "train" / "hr" / "0001.png").unlink()
    alps(archive)
    assert mirror.asked == []
    assert here() == PICTURES


def test_fetched_already_asks_no_server(alps: Callable[..., FetchReport], mirror: Mirror) -> None:
    first = alps()
    again = alps()
    assert (again.downloaded, again.record) == ([], first.record)
    assert len(mirror.asked) == 1


def test_without_a_published_checksum_the_first_use_decides(
    alps: Callable[..., FetchReport], mirror: Mirror
) -> None:
    trusted = mirror.describe("alps.zip", ALPS_ZIP, sha256=None, bytes=None)
    report = alps(trusted)
    assert report.record.parts[0].archives[0].verified == "first use"
    (sources_folder() / "alps" / "train" / "hr" / "0001.png").unlink()
    other = zipped({f"alps/{index:04}.png": png(20 + index) for index in range(1, 5)})
    mirror.files["alps.zip"] = other
    with pytest.raises(SharplineError, match="the first fetched one is"):
        alps(trusted)
    mirror.files["alps.zip"] = ALPS_ZIP
    alps(trusted)
    assert here() == PICTURES


def test_a_published_md5_counts(alps: Callable[..., FetchReport], mirror: Mirror) -> None:
    md5 = hashlib.md5(ALPS_ZIP).hexdigest()
    report = alps(mirror.describe("alps.zip", ALPS_ZIP, sha256=None, md5=md5))
    assert report.record.parts[0].archives[0].verified == "published md5"
    (sources_folder() / "alps" / "train" / "hr" / "0001.png").unlink()
    with pytest.raises(SharplineError, match="the published one is 00ff"):
        alps(mirror.describe("alps.zip", ALPS_ZIP, sha256=None, md5="00ff"))


def test_a_published_md5_of_the_pictures_counts(
    alps: Callable[..., FetchReport], mirror: Mirror
) -> None:
    each = "".join(hashlib.md5(PICTURES[name]).hexdigest() for name in sorted(PICTURES))
    archive = mirror.describe("alps.zip", ALPS_ZIP)
    alps(archive, pictures_md5=hashlib.md5(each.encode()).hexdigest())
    (sources_folder() / "alps" / "train" / "hr" / "0001.png").unlink()
    with pytest.raises(SharplineError, match="the published one is 00ff"):
        alps(archive, pictures_md5="00ff")
    assert leftovers() == []


def test_another_size_than_published_is_seen_before_it_is_fetched(
    alps: Callable[..., FetchReport], mirror: Mirror
) -> None:
    with pytest.raises(SharplineError, match="bytes there instead of 12"):
        alps(mirror.describe("alps.zip", ALPS_ZIP, bytes=12))
    assert leftovers() == []


def test_another_number_of_pictures_is_another_archive(
    alps: Callable[..., FetchReport], mirror: Mirror
) -> None:
    with pytest.raises(SharplineError, match="holds 4 pictures in alps instead of 5"):
        alps(pictures=5)
    assert here() == {}
    assert leftovers() == []


def test_the_next_copy_is_tried_where_one_fails(
    alps: Callable[..., FetchReport], mirror: Mirror
) -> None:
    tarred = io.BytesIO()
    with tarfile.open(fileobj=tarred, mode="w:gz") as archive:
        for name, content in PICTURES.items():
            info = tarfile.TarInfo(f"./alps/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    broken = mirror.describe("alps.zip", ALPS_ZIP[:-30], sha256=None)
    report = alps(broken, mirror.describe("alps.tar.gz", tarred.getvalue()))
    assert [one.name for one in report.record.parts[0].archives] == ["alps.tar.gz"]
    assert here() == PICTURES


def test_a_folder_a_file_and_a_mirror_are_verified_like_any_other(
    mirror: Mirror, state: Path, tmp_path: Path
) -> None:
    archive = mirror.describe("alps.zip", ALPS_ZIP, mirrors=())
    mirror.offer(state, entry(archive))
    places = [mirror.address, f"{mirror.address}/alps.zip?x=1", str(tmp_path)]
    places += [str(tmp_path / "alps.zip")]
    (tmp_path / "alps.zip").write_bytes(ALPS_ZIP)
    for place in places:
        for name in here():
            (sources_folder() / "alps" / "train" / "hr" / name).unlink()
        fetch("alps", origin=place, retry_policy=HASTY)
        assert here() == PICTURES
    assert (tmp_path / "alps.zip").exists()
    (sources_folder() / "alps" / "train" / "hr" / "0001.png").unlink()
    (tmp_path / "alps.zip").write_bytes(ALPS_ZIP[:-1] + b"x")
    with pytest.raises(SharplineError, match="checksum"):
        fetch("alps", origin=str(tmp_path))
    assert (tmp_path / "alps.zip").exists()


def test_what_opens_a_mirror_is_neither_told_nor_kept(
    mirror: Mirror, state: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mirror.offer(state, entry(mirror.describe("alps.zip", ALPS_ZIP)))
    closed = mirror.address.replace("http://", "http://me:secret@")
    mirror.manners["alps.zip"] = "cuts"
    with pytest.raises(SharplineError) as failure:
        fetch("alps", origin=f"{closed}/alps.zip?token=secret", retry_policy=HASTY)
    mirror.manners["alps.zip"] = ""
    fetch("alps", origin=f"{closed}/alps.zip?token=secret2", retry_policy=HASTY)
    assert mirror.asked[-1][1] is not None  # another token goes on with the same file
    kept = (sources_folder() / "alps" / "source.json").read_text()
    assert f'"{mirror.address}/alps.zip"' in kept
    assert "secret" not in kept + str(failure.value) + capsys.readouterr().err


def test_a_place_without_the_archive_says_what_it_should_hold(
    mirror: Mirror, state: Path, tmp_path: Path
) -> None:
    mirror.offer(state, entry(mirror.describe("alps.zip", ALPS_ZIP)))
    with pytest.raises(SharplineError, match=r"alps\.zip is not there"):
        fetch("alps", origin=str(tmp_path))
    with pytest.raises(UsageError, match=r"it may be alps\.zip"):
        fetch("alps", origin=str(tmp_path / "andes.zip"))


def test_two_fetches_of_one_source_do_not_mix(mirror: Mirror, state: Path) -> None:
    mirror.offer(state, entry(mirror.describe("alps.zip", ALPS_ZIP)))
    lock = sources_folder() / "alps" / ".lock"
    with file_lock(lock), pytest.raises(SharplineError, match="another process"):
        fetch("alps")
    assert mirror.asked == []


@pytest.mark.parametrize(("name", "part"), [("alpes", "hr"), ("sample", "hr"), ("alps", "lr")])
def test_what_the_catalogue_does_not_know_is_refused(
    mirror: Mirror, state: Path, name: str, part: str
) -> None:
    mirror.offer(state, entry(mirror.describe("alps.zip", ALPS_ZIP)))
    with pytest.raises(UsageError):
        fetch(name, parts=[part])


def test_too_little_space_is_said_before_anything_is_written(
    alps: Callable[..., FetchReport], monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = transfer.shutil.disk_usage("/")._replace(free=10)
    monkeypatch.setattr(transfer.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(SharplineError, match="10 bytes left; free some"):
        alps()
    assert leftovers() == ["alps.zip.partial.json"]


def test_a_disk_that_takes_no_more_says_so_and_the_next_fetch_goes_on(
    alps: Callable[..., FetchReport], mirror: Mirror
) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        with pytest.raises(SharplineError, match=r"cannot write .*alps\.zip\.partial: File too"):
            alps()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    alps()
    assert mirror.asked == [("alps.zip", None), ("alps.zip", "bytes=10000-")]
    assert here() == PICTURES


def test_a_state_folder_that_cannot_be_written_says_so(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("SHARPLINE_STATE", str(tmp_path / "file" / "state"))
    with pytest.raises(SharplineError, match="cannot write"):
        fetch("div2k", origin=mirror.address)


def test_div2k_from_a_mirror_in_its_exact_form(
    mirror: Mirror, state: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train, validation = [picture(1), picture(2), picture(3)], [picture(4)]
    mirror.offer_div2k(state, train=train, validation=validation, scales=(2, 4))
    assert data(["fetch", "div2k", "--from", mirror.address, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["downloaded"] == ["train/hr", "validation/hr"]
    assert (answer["pictures"], answer["unchanged"]) == (4, False)
    found = find_pictures(["div2k"], split_every=2)
    assert [(one.name, one.split) for one in found] == [
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
    assert "here already" in capsys.readouterr().err


def test_one_archive_of_several_leaves_the_source_partly_here(
    mirror: Mirror, state: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mirror.offer_div2k(state, train=[picture(1)], validation=[picture(2)])
    states = []
    for name in ("DIV2K_train_HR.zip", "DIV2K_valid_HR.zip"):
        (tmp_path / name).write_bytes(mirror.files[name])
        fetch("div2k", origin=str(tmp_path / name))
        states += [one.state for one in list_sources() if one.name == "div2k"]
    assert states == ["partly", "fetched"]
    assert mirror.asked == []


def test_parts_in_one_archive_are_brought_by_one_download(mirror: Mirror, state: Path) -> None:
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
    mirror.offer(state, high.model_copy(update={"parts": (*high.parts, low)}))
    assert fetch("alps", parts=["all"]).downloaded == ["train/hr", "train/bicubic_x2"]
    assert len(mirror.asked) == 1


# Fetches in children that kill themselves with SIGKILL at a random step on disk or network, then in
# ones that may end. Prints, per state folder, at which step of how many its fetch was killed.
DYING = """
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
        mirror.offer_div2k(state, train=train, validation=validation)
    mirror.manners["DIV2K_train_HR.zip"] = "cuts-first"
    done = subprocess.run(
        [sys.executable, "-c", DYING, *map(str, states)],
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
