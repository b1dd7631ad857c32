"""No trace of a picture is left after its job, and no partial file after an error."""

import asyncio
import errno
import os
import tempfile
import threading

import httpx
import numpy as np
import pytest
import sqlalchemy as sa

from bench.postgres import postgres, postgres_unavailable_reason
from serving.errors import JobGone, StorageFull
from serving.jobs.store import FolderStore, new_blob, read_all
from superres.dataset.consent import MARKER
from superres.image.codecs import Picture, encode

NAME = "marked-7f3a9c-holiday"
FAST_POLLING = {"heartbeat_seconds": 0.05, "poll_seconds": 0.05, "sweep_seconds": 0.05}


def marked_png():
    """A picture with unique pixels."""
    rgb_hwc = np.random.default_rng(7).integers(0, 256, (24, 24, 3), np.uint8)
    return encode(Picture(rgb_hwc=rgb_hwc), "png")


def traces(folder, needles):
    """The files below a folder that contain any of the byte sequences."""
    found = []
    for path in folder.rglob("*"):
        if path.is_file() and any(needle in path.read_bytes() for needle in needles):
            found.append(path)
    return found


class Folder:
    """Pictures and database in one folder."""

    def __init__(self, folder):
        self.folder = folder
        self.settings = {"folder": folder}

    def traces(self, needles):
        return traces(self.folder, needles)

    def tables(self):
        """The bytes of the database file and its write-ahead log."""
        return b"".join(path.read_bytes() for path in self.folder.glob("jobs.db*"))


class Bucket(Folder):
    """Pictures in a bucket, which must be empty afterwards."""

    def __init__(self, folder, s3):
        super().__init__(folder)
        self.s3, self.bucket = s3, s3.bucket()
        self.settings |= {"bucket": self.bucket, "bucket_endpoint": s3.endpoint}

    def traces(self, needles):
        return super().traces(needles) + list(self.s3.objects(self.bucket))


class Postgres(Folder):
    """The database on Postgres, as its rows are visible to a reader."""

    def __init__(self, folder, url):
        super().__init__(folder)
        self.settings |= {"database": url}
        self.engine = sa.create_engine(url, poolclass=sa.NullPool)

    def traces(self, needles):
        rows = self.tables()
        return super().traces(needles) + [rows for needle in needles if needle in rows]

    def tables(self):
        names = ("jobs", "job_pictures", "uploads")
        query = " UNION ALL ".join(f"SELECT {name}::text FROM {name}" for name in names)
        with self.engine.connect() as connection:
            return "\n".join(connection.execute(sa.text(query)).scalars()).encode()


@pytest.fixture(params=["folder", "bucket", "postgres"])
def storage(request, tmp_path):
    """Where jobs are stored."""
    if request.param == "folder":
        yield Folder(tmp_path / "jobs")
    elif request.param == "bucket":
        yield Bucket(tmp_path / "jobs", request.getfixturevalue("s3"))
    elif reason := postgres_unavailable_reason():
        pytest.skip(reason)
    else:
        with postgres() as url:
            yield Postgres(tmp_path / "jobs", url)


@pytest.mark.parametrize("ending", ["delete", "expire", "cancel"])
def test_no_trace_of_a_picture_is_left_after_its_job(
    picture_server, models_folder, tmp_path, monkeypatch, caplog, storage, ending
):
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    picture = marked_png()
    seconds = 0.5 if ending == "expire" else 3600
    server = picture_server(
        models_folder, jobs={**FAST_POLLING, **storage.settings, "result_seconds": seconds}
    )
    with httpx.Client(base_url=server.url, timeout=60) as api:
        files = {"file": (f"{NAME}.png", picture)}
        job = api.post("/v1/jobs", params={"format": "png"}, files=files).json()
        address = f"/v1/jobs/{job['id']}"
        needles = [picture[60:160], NAME.encode()]
        if ending == "delete":
            assert api.get(address, params={"wait": 30}).json()["state"] == "done"
            needles.append(api.get(f"{address}/result").content[60:160])
            # The search finds the picture before its deletion.
            assert storage.traces(needles)
            assert NAME.encode() in storage.tables()
            assert storage.folder.stat().st_mode & 0o777 == 0o700  # for this user only
        if ending == "expire":
            server.wait_for(lambda: api.get(address).status_code == 404)
            server.wait_for(lambda: not storage.traces(needles))
        else:
            assert api.delete(address).json()["job"] == job["id"]
            assert storage.traces(needles) == []  # the receipt comes last
    server.stop()
    assert storage.traces(needles) == []
    assert traces(temporary, needles) == []
    assert NAME not in caplog.text


class FullDisk:
    """A file that accepts only one chunk."""

    def __init__(self, file):
        self._file = file
        self.full = False

    def write(self, chunk):
        if self.full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.full = True
        return self._file.write(chunk)

    def __getattr__(self, name):
        return getattr(self._file, name)


async def chunks(*values):
    for value in values:
        yield value


def test_full_disk_raises_and_leaves_no_partial_file(tmp_path, monkeypatch):
    store = FolderStore(tmp_path)
    opened = type(tmp_path).open
    monkeypatch.setattr(type(tmp_path), "open", lambda path, mode="r": FullDisk(opened(path, mode)))
    with pytest.raises(StorageFull) as full:
        asyncio.run(store.write(new_blob(), chunks(b"a", b"b")))
    assert full.value.status == 507
    assert [path.name for path in tmp_path.iterdir()] == [MARKER]


def test_failing_source_leaves_no_partial_file(tmp_path):
    async def broken():
        yield b"a"
        raise ConnectionError

    with pytest.raises(ConnectionError):
        asyncio.run(FolderStore(tmp_path).write(new_blob(), broken()))
    assert [path.name for path in tmp_path.iterdir()] == [MARKER]


def test_writer_cancelled_at_any_moment_leaves_nothing(tmp_path):
    store = FolderStore(tmp_path)
    stopped = 0

    async def stop_after(steps):
        nonlocal stopped
        writing = asyncio.create_task(store.write(new_blob(), chunks(*[b"x" * 9000] * 4)))
        for _ in range(steps):
            await asyncio.sleep(0)
        stopped += writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)
        if writing.cancelled():
            assert await store.change_markers() == {}

    async def stop_everywhere():
        for steps in range(100):
            await stop_after(steps)
            await store.delete(list(await store.change_markers()))

    asyncio.run(stop_everywhere())
    assert stopped >= 3  # how many beyond that is a matter of the threads' speed


def test_cancelled_writer_waits_for_its_running_call(tmp_path, monkeypatch):
    opened, started, resume = type(tmp_path).open, threading.Event(), threading.Event()

    def delayed_open(path, mode="r"):
        started.set()
        assert resume.wait(60)
        return opened(path, mode)

    async def stop():
        store = FolderStore(tmp_path)
        monkeypatch.setattr(type(tmp_path), "open", delayed_open)
        writing = asyncio.create_task(store.write(new_blob(), chunks(b"x")))
        await asyncio.to_thread(started.wait, 60)
        writing.cancel()
        asyncio.get_running_loop().call_later(0.01, resume.set)
        await asyncio.gather(writing, return_exceptions=True)
        assert resume.is_set()
        assert await store.change_markers() == {}

    asyncio.run(stop())


def test_reader_cancelled_at_any_moment_leaves_no_file_open(tmp_path, monkeypatch):
    store, blob, files = FolderStore(tmp_path), new_blob(), []
    opened, stopped = type(tmp_path).open, 0

    def recorded_open(path, mode="r"):
        files.append(opened(path, mode))
        return files[-1]

    async def stop_after(steps):
        nonlocal stopped
        reading = asyncio.create_task(read_all(store, blob))
        for _ in range(steps):
            await asyncio.sleep(0)
        stopped += reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        assert all(file.closed for file in files)

    async def stop_everywhere():
        await store.write(blob, chunks(b"x" * 9000))
        for steps in range(100):
            await stop_after(steps)

    monkeypatch.setattr(type(tmp_path), "open", recorded_open)
    asyncio.run(stop_everywhere())
    assert stopped >= 3  # how many beyond that is a matter of the threads' speed
    assert len(files) > 50


def test_reader_cancelled_while_opening_leaves_no_file_open(tmp_path, monkeypatch):
    store, blob, files = FolderStore(tmp_path), new_blob(), []
    opened, started, resume = type(tmp_path).open, threading.Event(), threading.Event()

    def delayed_open(path, mode="r"):
        started.set()
        assert resume.wait(60)
        files.append(opened(path, mode))
        return files[-1]

    async def stop():
        await store.write(blob, chunks(b"x"))
        monkeypatch.setattr(type(tmp_path), "open", delayed_open)
        reading = asyncio.create_task(read_all(store, blob))
        await asyncio.to_thread(started.wait, 60)
        reading.cancel()
        asyncio.get_running_loop().call_later(0.01, resume.set)
        await asyncio.gather(reading, return_exceptions=True)
        assert reading.cancelled()
        assert [file.closed for file in files] == [True]

    asyncio.run(stop())


def test_blob_is_read_as_written_until_it_is_deleted(tmp_path):
    store, blob = FolderStore(tmp_path), new_blob()

    async def round_trip():
        written = await store.write(blob, chunks(b"ab", b"c"))
        assert written.bytes == 3
        assert await read_all(store, blob) == b"abc"
        assert list(await store.change_markers()) == [blob]
        await store.delete([blob, blob])
        with pytest.raises(JobGone):
            await read_all(store, blob)
        with pytest.raises(ValueError, match="not a valid blob name"):
            await read_all(store, "../escape")

    asyncio.run(round_trip())
