"""What is left of a picture after its job: nothing, and of a full disk: no part of a file."""

import asyncio
import errno
import os
import tempfile
import threading

import httpx
import numpy as np
import pytest
import sqlalchemy as sa

from bench.postgres import postgres, why_not_postgres
from serving.errors import JobGone, StorageFull
from serving.jobs.store import FolderStore, all_of, new_blob
from superres.dataset.consent import MARKER
from superres.image.codecs import Picture, encode

NAME = "marked-7f3a9c-holiday"
QUICK = {"heartbeat_seconds": 0.05, "poll_seconds": 0.05, "sweep_seconds": 0.05}


def marked_png():
    """A picture whose pixels cannot be there by chance."""
    rgb_hwc = np.random.default_rng(7).integers(0, 256, (24, 24, 3), np.uint8)
    return encode(Picture(rgb_hwc=rgb_hwc), "png")


def traces(folder, needles):
    """The files below a folder that hold any of the byte sequences."""
    found = []
    for path in folder.rglob("*"):
        if path.is_file() and any(needle in path.read_bytes() for needle in needles):
            found.append(path)
    return found


class Folder:
    """Pictures and table in one folder."""

    def __init__(self, folder):
        self.folder = folder
        self.settings = {"folder": folder}

    def traces(self, needles):
        return traces(self.folder, needles)

    def tables(self):
        """What the database's file and its write-ahead log hold."""
        return b"".join(path.read_bytes() for path in self.folder.glob("jobs.db*"))


class Bucket(Folder):
    """Pictures in a bucket, where nothing at all may be left."""

    def __init__(self, folder, s3):
        super().__init__(folder)
        self.s3, self.bucket = s3, s3.bucket()
        self.settings |= {"bucket": self.bucket, "bucket_endpoint": s3.endpoint}

    def traces(self, needles):
        return super().traces(needles) + list(self.s3.objects(self.bucket))


class Postgres(Folder):
    """The table on Postgres, as everybody sees it who may read it."""

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
def place(request, tmp_path):
    """Where jobs are kept."""
    if request.param == "folder":
        yield Folder(tmp_path / "jobs")
    elif request.param == "bucket":
        yield Bucket(tmp_path / "jobs", request.getfixturevalue("s3"))
    elif reason := why_not_postgres():
        pytest.skip(reason)
    else:
        with postgres() as url:
            yield Postgres(tmp_path / "jobs", url)


@pytest.mark.parametrize("how", ["delete", "expire", "cancel"])
def test_nothing_of_a_picture_is_left_after_its_job(
    picture_server, models_folder, tmp_path, monkeypatch, caplog, place, how
):
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    picture = marked_png()
    seconds = 0.5 if how == "expire" else 3600
    server = picture_server(
        models_folder, jobs={**QUICK, **place.settings, "result_seconds": seconds}
    )
    with httpx.Client(base_url=server.url, timeout=60) as api:
        files = {"file": (f"{NAME}.png", picture)}
        job = api.post("/v1/jobs", params={"format": "png"}, files=files).json()
        address = f"/v1/jobs/{job['id']}"
        needles = [picture[60:160], NAME.encode()]
        if how == "delete":
            assert api.get(address, params={"wait": 30}).json()["state"] == "done"
            needles.append(api.get(f"{address}/result").content[60:160])
            # It was there, and would be found.
            assert place.traces(needles)
            assert NAME.encode() in place.tables()
            assert place.folder.stat().st_mode & 0o777 == 0o700  # no other user looks in
        if how == "expire":
            server.wait_for(lambda: api.get(address).status_code == 404)
            server.wait_for(lambda: not place.traces(needles))
        else:
            assert api.delete(address).json()["job"] == job["id"]
            assert place.traces(needles) == []  # a receipt comes last
    server.stop()
    assert place.traces(needles) == []
    assert traces(temporary, needles) == []
    assert NAME not in caplog.text


class FullDisk:
    """A file that takes one chunk and no second."""

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


def test_full_disk_is_told_and_leaves_no_part_of_a_file(tmp_path, monkeypatch):
    store = FolderStore(tmp_path)
    opened = type(tmp_path).open
    monkeypatch.setattr(type(tmp_path), "open", lambda path, mode="r": FullDisk(opened(path, mode)))
    with pytest.raises(StorageFull) as full:
        asyncio.run(store.write(new_blob(), chunks(b"a", b"b")))
    assert full.value.status == 507
    assert [path.name for path in tmp_path.iterdir()] == [MARKER]


def test_source_that_breaks_off_leaves_no_part_of_a_file(tmp_path):
    async def broken():
        yield b"a"
        raise ConnectionError

    with pytest.raises(ConnectionError):
        asyncio.run(FolderStore(tmp_path).write(new_blob(), broken()))
    assert [path.name for path in tmp_path.iterdir()] == [MARKER]


def test_writer_that_is_stopped_at_any_moment_leaves_nothing(tmp_path):
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
            assert await store.modified_times() == {}

    async def stop_everywhere():
        for steps in range(100):
            await stop_after(steps)
            await store.delete(list(await store.modified_times()))

    asyncio.run(stop_everywhere())
    assert stopped >= 3  # how many beyond that is a matter of the threads' speed


def test_writer_that_is_stopped_waits_for_what_it_has_begun(tmp_path, monkeypatch):
    opened, begun, go_on = type(tmp_path).open, threading.Event(), threading.Event()

    def slowly(path, mode="r"):
        begun.set()
        assert go_on.wait(60)
        return opened(path, mode)

    async def stop():
        store = FolderStore(tmp_path)
        monkeypatch.setattr(type(tmp_path), "open", slowly)
        writing = asyncio.create_task(store.write(new_blob(), chunks(b"x")))
        await asyncio.to_thread(begun.wait, 60)
        writing.cancel()
        asyncio.get_running_loop().call_later(0.01, go_on.set)
        await asyncio.gather(writing, return_exceptions=True)
        assert go_on.is_set()
        assert await store.modified_times() == {}

    asyncio.run(stop())


def test_reader_that_is_stopped_at_any_moment_leaves_no_file_open(tmp_path, monkeypatch):
    store, blob, files = FolderStore(tmp_path), new_blob(), []
    opened, stopped = type(tmp_path).open, 0

    def remembered(path, mode="r"):
        files.append(opened(path, mode))
        return files[-1]

    async def stop_after(steps):
        nonlocal stopped
        reading = asyncio.create_task(all_of(store, blob))
        for _ in range(steps):
            await asyncio.sleep(0)
        stopped += reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        assert all(file.closed for file in files)

    async def stop_everywhere():
        await store.write(blob, chunks(b"x" * 9000))
        for steps in range(100):
            await stop_after(steps)

    monkeypatch.setattr(type(tmp_path), "open", remembered)
    asyncio.run(stop_everywhere())
    assert stopped >= 3  # how many beyond that is a matter of the threads' speed
    assert len(files) > 50


def test_reader_that_is_stopped_while_its_file_opens_leaves_no_file_open(tmp_path, monkeypatch):
    store, blob, files = FolderStore(tmp_path), new_blob(), []
    opened, begun, go_on = type(tmp_path).open, threading.Event(), threading.Event()

    def slowly(path, mode="r"):
        begun.set()
        assert go_on.wait(60)
        files.append(opened(path, mode))
        return files[-1]

    async def stop():
        await store.write(blob, chunks(b"x"))
        monkeypatch.setattr(type(tmp_path), "open", slowly)
        reading = asyncio.create_task(all_of(store, blob))
        await asyncio.to_thread(begun.wait, 60)
        reading.cancel()
        asyncio.get_running_loop().call_later(0.01, go_on.set)
        await asyncio.gather(reading, return_exceptions=True)
        assert reading.cancelled()
        assert [file.closed for file in files] == [True]

    asyncio.run(stop())


def test_blob_comes_back_as_it_was_written_until_it_is_deleted(tmp_path):
    store, blob = FolderStore(tmp_path), new_blob()

    async def round_trip():
        written = await store.write(blob, chunks(b"ab", b"c"))
        assert written.bytes == 3
        assert await all_of(store, blob) == b"abc"
        assert list(await store.modified_times()) == [blob]
        await store.delete([blob, blob])
        with pytest.raises(JobGone):
            await all_of(store, blob)
        with pytest.raises(ValueError, match="no name of a blob"):
            await all_of(store, "../escape")

    asyncio.run(round_trip())
