"""Official weights by name: downloaded, verified and recorded."""

import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import torch

from superres.common.errors import UsageError
from superres.model.archs import build
from superres.model.bundle import Arch, load_bundle
from training.weights.cli import pull
from training.weights.external import ExternalWeights
from training.weights.official import PUBLISHED, PublishedWeights
from training.weights.pull import ChecksumMismatch, fetch_file, find_published, obtain

CONTENT = b"these are weights"
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    """The URL of a file on a real HTTP server."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "net.pth").write_bytes(CONTENT)
    handler = partial(QuietHandler, directory=str(tmp_path / "site"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/net.pth"
        server.shutdown()
        thread.join()


def entry(url: str = "https://example.org/net.pth", sha256: str | None = None) -> PublishedWeights:
    return PublishedWeights(
        name="net_x2",
        url=url,
        sha256=sha256,
        licence="MIT",
        trained_on=(("garden", "CC0-1.0"),),
        adversarial=False,
    )


def no_fetch(url: str, target: Path) -> None:
    raise AssertionError(f"{url} was requested")


def test_weights_are_downloaded_once_and_verified(url: str, tmp_path: Path) -> None:
    store = tmp_path / "store"
    for sha256 in (SHA256, SHA256[:8]):
        path = obtain(entry(url, sha256), None, store, fetch_file)
        assert path.read_bytes() == CONTENT
        assert obtain(entry(url, sha256), None, store, no_fetch) == path
        assert sorted(file.name for file in store.iterdir()) == ["net.pth", "net.pth.json"]


def test_a_download_with_another_checksum_is_deleted(url: str, tmp_path: Path) -> None:
    store = tmp_path / "store"
    with pytest.raises(ChecksumMismatch, match="the one published is 0000"):
        obtain(entry(url, "0" * 64), None, store, fetch_file)
    assert not (store / "net.pth").exists()
    assert not (store / "net.pth.json").exists()


def test_without_a_published_checksum_the_first_one_is_trusted_and_recorded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mirror, store = tmp_path / "net.pth", tmp_path / "store"
    mirror.write_bytes(CONTENT)
    assert obtain(entry(), mirror, store, no_fetch) == mirror
    assert f"trusting {SHA256}" in capsys.readouterr().err
    record = json.loads((store / "net.pth.json").read_bytes())
    assert (record["sha256"], record["checked"]) == (SHA256, "first use")
    assert obtain(entry(), tmp_path, store, no_fetch) == mirror
    assert capsys.readouterr().err == ""
    mirror.write_bytes(CONTENT + b"!")
    with pytest.raises(ChecksumMismatch, match=f"recorded on .* is {SHA256}"):
        obtain(entry(), mirror, store, no_fetch)
    assert mirror.exists(), "the user's file is not deleted"


def test_a_mirror_without_the_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"there is no file .*net\.pth"):
        obtain(entry(), tmp_path, tmp_path, no_fetch)


def test_the_authors_file_names_are_accepted() -> None:
    for name in ("RealESRGAN_x4plus", "RealESRGAN_x4plus.pth", "realesrgan_x4plus"):
        assert find_published(name).name == "realesrgan_x4plus"


def test_an_unknown_name_lists_the_available_ones() -> None:
    with pytest.raises(UsageError, match="swinir_lightweight_x4"):
        find_published("swinir")


@pytest.mark.parametrize("published", PUBLISHED, ids=lambda published: published.name)
def test_the_list_is_well_formed(published: PublishedWeights) -> None:
    url = urlsplit(published.url)
    assert (url.scheme, url.hostname) == ("https", "github.com")
    assert published.file_name.endswith(".pth")
    assert published.sha256 is None or len(bytes.fromhex(published.sha256)) in (4, 32)
    assert published.trained_on
    assert published.name == published.name.lower()


def test_no_two_published_weights_share_a_name_or_a_file() -> None:
    for values in ([each.name for each in PUBLISHED], [each.file_name for each in PUBLISHED]):
        assert len(set(values)) == len(values)


def test_pulled_weights_are_a_bundle_with_their_lineage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The reading process is replaced; it has its own test."""
    parameters = {"num_feat": 8, "num_conv": 2, "upscale": 2}
    state = build("compact", parameters).state_dict()
    torch.save(state, tmp_path / "net.pth")
    published = replace(
        entry(), sha256=hashlib.sha256((tmp_path / "net.pth").read_bytes()).hexdigest()
    )
    monkeypatch.setattr("training.weights.pull.PUBLISHED", (published,))
    monkeypatch.setenv("SHARPLINE_STATE", str(tmp_path / "state"))

    def read(path: Path) -> ExternalWeights:
        return ExternalWeights(
            path=path,
            sha256=str(published.sha256),
            arch=Arch(name="compact", parameters=parameters),
            weights={key: value.numpy() for key, value in state.items()},
        )

    monkeypatch.setattr("training.weights.external.read_external", read)
    assert pull(["net_x2", "--from", str(tmp_path), "--json"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    bundle = load_bundle(Path(result["bundle"]))
    assert bundle.root == tmp_path / "state" / "models" / "net_x2"
    assert bundle.info.training.sources == ("garden",)
    assert bundle.info.licence.lineage == ("CC0-1.0", "MIT")
    assert result["commercial_use"] == "yes"
