"""A full disk, simulated by the kernel's file size limit, with a complete server."""

import resource

import httpx
import numpy as np
import pytest

from superres.dataset.consent import MARKER
from superres.image.codecs import Picture, encode


def limit_file_size(process, max_bytes):
    """Limit every file of the process like a full disk; the error is EFBIG instead of ENOSPC."""
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (max_bytes, max_bytes))


@pytest.fixture
def large():
    """A file that does not fit on the disk, nor does its answer."""
    noise = np.random.default_rng(0).integers(0, 256, (700, 700, 3), np.uint8)
    return encode(Picture(rgb_hwc=noise), "png")


def stored_files(folder):
    return [path.name for path in (folder / "pictures").iterdir() if path.name != MARKER]


def test_full_disk_answers_507_and_leaves_no_partial_file(fake_server, flat_png, large, tmp_path):
    process, url = fake_server(SHARPLINE_JOBS__FOLDER=str(tmp_path / "jobs"))
    limit_file_size(process, len(large) - 1)
    with httpx.Client(base_url=url, timeout=60) as api:
        upload = api.post("/v1/uploads", json={"bytes": len(large)}).json()
        for refused in (
            api.post("/v1/jobs", content=large),
            api.post("/v1/jobs", files=[("file", ("a.png", large))]),
            api.put(upload["url"], content=large),
        ):
            assert refused.status_code == 507
            assert refused.json()["type"] == "/problems/storage-full"
        assert stored_files(tmp_path / "jobs") == []
        job = api.post("/v1/jobs", content=flat_png(1)).json()
        assert api.get(f"/v1/jobs/{job['id']}?wait=30").json()["state"] == "done"


def test_answer_that_does_not_fit_on_the_disk_fails_its_job_with_507(fake_server, large, tmp_path):
    process, url = fake_server(SHARPLINE_JOBS__FOLDER=str(tmp_path / "jobs"))
    limit_file_size(process, len(large) + 1)
    with httpx.Client(base_url=url, timeout=60) as api:
        job = api.post("/v1/jobs?format=png", content=large).json()
        view = api.get(f"/v1/jobs/{job['id']}?wait=30").json()
        assert (view["state"], view["problem"]["status"]) == ("failed", 507)
        assert stored_files(tmp_path / "jobs") == []
