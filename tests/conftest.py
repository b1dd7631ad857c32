"""Fixtures of all tests: Hypothesis profiles, reference data, servers; skips of markers."""

import contextlib
import hashlib
import http.server
import io
import json
import os
import signal
import threading
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from hypothesis import settings

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from xdist.scheduler import LoadFileScheduling

    from serving.models.loaded import BackendLoader
    from serving.services import Services
    from serving.settings import Settings
    from sharpline.local.processes import Services as LocalServices
    from superres.model.bundle import Bundle
    from training.data.sources.entries import Archive, Entry, Part


MLFLOW_TESTS = (
    "tests/release/",
    "tests/training/test_cli.py",
    "tests/training/runs/test_tracking.py",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--soak", action="store_true", help="run every test with its full count")


def pytest_configure(config: pytest.Config) -> None:
    _keep_probes()
    # A shell starts background pipelines with SIGINT ignored, which the tests' subprocesses would
    # inherit.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # The tests' tiny networks gain nothing from threads, and on a busy machine every layer would
    # wait for a thread that is not scheduled.
    os.environ.setdefault("SHARPLINE_THREADS", "1")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    # No deadline, because shared machines pause. The short profile is deterministic, so that runs
    # agree; the soak profile tries new examples.
    settings.register_profile("short", max_examples=25, deadline=None, derandomize=True)
    settings.register_profile("soak", max_examples=2000, deadline=None)
    settings.load_profile("soak" if config.getoption("--soak") else "short")


def _keep_probes() -> None:
    """Keep SlipCover's probes: removing them from code that other threads run can hang a server."""
    from slipcover import pytest_plugin

    slipcover = pytest_plugin._slipcover_instance
    if slipcover is not None:
        slipcover.d_miss_threshold = 2**31 - 1


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> "LoadFileScheduling | None":
    """Schedule the files that share an MLflow server on one worker, so that it starts once."""
    if config.getoption("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return "MLflow" if nodeid.startswith(MLFLOW_TESTS) else super()._split_scope(nodeid)

    return Scheduling(config, log)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") is not None:
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA device")
    if item.get_closest_marker("cluster") is not None and "KUBECONFIG" not in os.environ:
        pytest.skip("needs a Kubernetes API server: set KUBECONFIG")


@pytest.fixture(scope="session")
def soak(pytestconfig: pytest.Config) -> bool:
    """Whether tests should run their full counts (`make soak`) instead of the short ones."""
    return bool(pytestconfig.getoption("--soak"))


@pytest.fixture(scope="session")
def reference_data() -> Path:
    """The folder of reference pictures and weights; skips the test if REFERENCE_DATA is not set."""
    folder = os.environ.get("REFERENCE_DATA")
    if not folder:
        pytest.skip("needs reference pictures: set REFERENCE_DATA to their folder")
    return Path(folder)


def wait_until(
    condition: Callable[[], Any],
    what: str = "the condition",
    *,
    seconds: float = 60.0,
    check: Callable[[], object] = lambda: None,
) -> Any:
    """Return the value of `condition()` once it is true; a failed connection counts as false.

    `check` is called at each poll and may raise. Fails the test after `seconds`.
    """
    deadline = time.monotonic() + seconds
    while True:
        with contextlib.suppress(httpx.TransportError):
            if value := condition():
                return value
        check()
        if time.monotonic() > deadline:
            pytest.fail(f"timed out after {seconds:.0f} s waiting for {what}")
        time.sleep(0.02)


@pytest.fixture(scope="session")
def await_true() -> Callable[..., Any]:
    """The function `wait_until`, which waits until a condition is true and returns its value."""
    return wait_until


@pytest.fixture
def plug_in(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Add entries to a registry as an installed package would: `plug_in(LOSSES, entry, ...)`."""
    from superres.common.registry import Plugin

    def add(registry: Any, *entries: Any) -> None:
        plugins = [
            Plugin(group=registry.group, name=entry.name, package="acme 1.0") for entry in entries
        ]
        monkeypatch.setattr(registry, "_plugged_in", {entry.name: entry for entry in entries})
        monkeypatch.setattr(registry, "_plugins", tuple(plugins))

    return add


ServeHttp = Callable[[type[http.server.BaseHTTPRequestHandler]], str]


@contextlib.contextmanager
def http_servers() -> Iterator[ServeHttp]:
    """Factory of web servers, each in a thread, which are stopped when the block exits."""
    with contextlib.ExitStack() as running:

        def start(handler: type[http.server.BaseHTTPRequestHandler]) -> str:
            quiet = type("QuietHandler", (handler,), {"log_message": lambda *_: None})
            server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), quiet)
            running.enter_context(server)
            thread = threading.Thread(target=server.serve_forever, args=(0.02,))
            thread.start()
            running.callback(thread.join)
            running.callback(server.shutdown)
            return f"http://127.0.0.1:{server.server_port}"

        yield start


@pytest.fixture
def serve_http() -> Iterator[ServeHttp]:
    """Factory of web servers on free ports: `serve_http(handler_class)` returns the URL."""
    with http_servers() as start:
        yield start


@pytest.fixture(scope="module")
def module_serve_http() -> Iterator[ServeHttp]:
    """The same with module scope."""
    with http_servers() as start:
        yield start


@pytest.fixture(scope="session")
def files_of() -> Callable[[Path], dict[str, bytes]]:
    """A function that reads every file below a folder, by relative path."""

    def read(folder: Path) -> dict[str, bytes]:
        files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        return {str(path.relative_to(folder)): path.read_bytes() for path in files}

    return read


@pytest.fixture(scope="session")
def mlflow_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator["MlflowServer"]:
    """A real MLflow server, initially empty and shared by the test session.

    A test that kills it must start it again.
    """
    from sharpline.local.processes import Services

    folder = tmp_path_factory.mktemp("mlflow")
    with Services(folder / "logs") as services:
        server = MlflowServer(folder, services)
        server.start()
        yield server


@pytest.fixture(scope="session")
def mlflow_server(request: pytest.FixtureRequest) -> str:
    """The address of a real MLflow server: that of TEST_MLFLOW_URI, if set, else a new one's.

    A server takes seconds to start, too long for many short test runs.
    """
    return os.environ.get("TEST_MLFLOW_URI") or request.getfixturevalue("mlflow_process").uri


class MlflowServer:
    """MLflow on a free port, as the local stack runs it, with its state in a folder."""

    def __init__(self, folder: Path, services: "LocalServices") -> None:
        from sharpline.local.processes import choose_ports, local_url

        self._folder, self._services = folder, services
        [self._port] = choose_ports(0)
        self.uri = local_url(self._port)

    def start(self) -> None:
        """Start the server and return once it is ready."""
        from sharpline.local import mlflow

        self._service = mlflow.start(self._services, self._folder, self._port, os.environ)
        self._service.await_ready(lambda: mlflow.is_up(self.uri), timeout_seconds=120)

    def kill(self) -> None:
        """Kill the server and its workers with SIGKILL."""
        os.killpg(self._service.supervisor.pid, signal.SIGKILL)
        self._service.supervisor.wait(timeout=60)
        self._services.running.remove(self._service)


@pytest.fixture(scope="session")
def airflow_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated Airflow database to copy, because migrating is slow.

    All workers of a test run share the one that the first of them creates.
    """
    from sharpline.local import airflow
    from sharpline.local.processes import Services
    from superres.common.files import file_lock

    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    database = shared / "airflow.db"
    with file_lock(shared / "airflow.lock", timeout_seconds=200):
        if not database.exists():
            config = airflow.prepare(shared / "airflow", 0)
            with Services(shared / "airflow-logs") as services:
                airflow.migrate(services, config, os.environ)
            (config.home / "airflow.db").rename(database)
    return database


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., "Bundle"]:
    """Factory of tiny bundles: `tiny_bundle(name=..., error_levels=..., scale=..., reference=...)`.

    The network repeats each pixel `scale` times a side and adds `error_levels` grey levels, so its
    error on pictures of repeated pixels is known: 0 is exact. The same arguments give the same
    bytes and bundle id.
    """

    def make(
        *,
        name: str = "compact_x2",
        error_levels: int = 0,
        scale: int = 2,
        mlflow_run: str | None = None,
        reference: Mapping[str, Mapping[str, float]] | None = None,
    ) -> "Bundle":
        import numpy as np
        import torch

        from superres.image.codecs import Picture
        from superres.model.archs import build, facts
        from superres.model.bundle import BundleInfo, write_bundle

        parameters = {"num_feat": 8, "num_conv": 2, "upscale": scale}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            network = build("compact", parameters)
        weights = {key: value.numpy() for key, value in network.state_dict().items()}
        *_, last_weight, last_bias = sorted(weights, key=lambda key: int(key.split(".")[1]))
        weights[last_weight] = np.zeros_like(weights[last_weight])
        weights[last_bias] = np.full_like(weights[last_bias], error_levels / 255)

        lr = np.random.default_rng(0).integers(40, 200, (16, 24, 3), dtype=np.uint8)
        large = lr.repeat(scale, axis=0).repeat(scale, axis=1) + np.uint8(error_levels)
        draft = BundleInfo.model_validate(
            {
                "name": name,
                "task": "super-resolution",
                "scale": scale,
                "arch": {"name": "compact", "parameters": parameters},
                "halo": facts("compact", parameters).receptive_field,
                "size_multiple": 1,
                "window": None,
                "tile_buckets": [[32, 32], [64, 64]],
                "bounds": {"seam_levels": 0.01, "precision_levels": {}},
                "training": {
                    "datasets": [{"id": "none", "source": "made by hand", "licence": "CC0-1.0"}],
                    "degradation": "bicubic",
                    "reference": reference or {},
                    "steps": 0,
                    "seconds": 0.0,
                    "device": "cpu",
                },
                "scores": [],
                "licence": {"weights": "CC0-1.0", "lineage": [], "commercial_use": "yes"},
                "git_commit": None,
                "mlflow_run": mlflow_run,
                "created": "2026-01-01T00:00:00+00:00",
            }
        )
        return write_bundle(
            tmp_path_factory.mktemp("bundle") / name,
            draft,
            weights,
            Picture(rgb_hwc=lr),
            Picture(rgb_hwc=large),
            f"# {name}\n\nTest model: repeats pixels.\n",
        )

    return make


class PictureServer:
    """A real picture server on a free port, in a thread of this process."""

    def __init__(self, settings: "Settings", load_backend: "BackendLoader | None" = None) -> None:
        import httpx
        import uvicorn

        from serving.app import create_app
        from serving.cli.serve import listen

        self.app = app = create_app(settings, load_backend=load_backend)
        self.services: Services = app.state.services
        self._listener = listen("127.0.0.1", 0)
        self.port: int = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.client = httpx.Client(base_url=self.url, timeout=60)
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            server_header=False,
            # Else a pause on a busy machine lets the server close a connection that is reused.
            timeout_keep_alive=600,
            timeout_graceful_shutdown=20,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [self._listener]}
        )

    def start(self, *, until: str = "/readyz") -> None:
        """Start, and return once a GET of `until` returns 200."""
        self._thread.start()
        self.wait_for(lambda: self.client.get(until).status_code == 200)

    def wait_for(self, condition: Callable[[], object]) -> None:
        """Return once the condition is true; fails the test after a minute."""
        wait_until(condition, "the picture server")

    def stop(self) -> None:
        self.client.close()
        self._server.should_exit = True
        self._thread.join(timeout=60)
        self._listener.close()


@contextlib.contextmanager
def picture_servers() -> Iterator[Callable[..., PictureServer]]:
    """Factory of running servers, which are stopped when the block exits."""
    from serving.settings import Settings

    started: list[PictureServer] = []

    def start(
        folder: Path,
        *,
        until: str = "/readyz",
        load_backend: "BackendLoader | None" = None,
        **settings: object,
    ) -> PictureServer:
        models = {"folder": folder, "poll_seconds": 0.05, "backend": "torch", "device": "cpu"}
        jobs = {"folder": folder.with_name(f"{folder.name}-jobs")}
        no_timeouts = {"queue": {"max_wait_seconds": 1e6}, "limits": {"deadline_seconds": 1e6}}
        defaults = {"models": models, "jobs": jobs, **no_timeouts}
        merged = {
            **settings,
            **{name: {**values, **settings.get(name, {})} for name, values in defaults.items()},
        }
        server = PictureServer(Settings(**merged), load_backend)
        started.append(server)
        server.start(until=until)
        return server

    try:
        yield start
    finally:
        for server in started:
            server.stop()


@pytest.fixture
def picture_server() -> Iterator[Callable[..., PictureServer]]:
    """Factory of running servers: `picture_server(folder, load_backend=..., **settings)`.

    `settings` are sections of `serving.settings.Settings` as dicts, `until` the path that must
    return 200 first. Wait and deadline limits are off unless `queue` or `limits` set them. The
    servers stop at the end of the test, or earlier by `stop`: an idle server still polls its models
    twenty times a second.
    """
    with picture_servers() as start:
        yield start


@pytest.fixture(scope="module")
def module_picture_server() -> Iterator[Callable[..., PictureServer]]:
    """The same with module scope."""
    with picture_servers() as start:
        yield start


@pytest.fixture(scope="session")
def session_picture_server() -> Iterator[Callable[..., PictureServer]]:
    """The same with session scope."""
    with picture_servers() as start:
        yield start


class Mirror:
    """A web server with archives of pictures, like a publisher's server or a company's mirror.

    `files` holds the files by name, `behaviours` the behaviour for a file by name: ignores-range,
    cuts (closes the connection at half and ignores Range), cuts-first (but resumes by Range),
    cuts-once, changes (another file after the first response), lies (resumes at another offset),
    wrong (other bytes), page, page-as-archive, stalls (at half), redirects, busy-once, or a status
    as "404".
    `requests` holds each request's name and Range header.
    """

    def __init__(self, serve_http: ServeHttp) -> None:
        self.files: dict[str, bytes] = {}
        self.behaviours: dict[str, str] = {}
        self.requests: list[tuple[str, str | None]] = []
        self.stop = threading.Event()  # ends the stalls
        mirror = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                mirror._answer(self)

        self.address = serve_http(Handler)

    def write_catalogue(self, state: Path, *entries: "Entry") -> None:
        """Write `entries` as the user catalogue of a state folder."""
        path = state / "sources" / "catalogue.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps([entry.model_dump(mode="json") for entry in entries]))

    def write_div2k_catalogue(
        self,
        state: Path,
        *,
        train: "Sequence[npt.NDArray[np.uint8]]",
        validation: "Sequence[npt.NDArray[np.uint8]]" = (),
        scales: Sequence[int] = (4,),
    ) -> None:
        """Serve small archives in DIV2K's layout; write its catalogue entry with their checksums.

        Only the bicubic track is served, at `scales`; HR sides must be multiples of these.
        """
        from training.data.sources.public import PUBLIC

        entry = next(entry for entry in PUBLIC if entry.name == "div2k")
        pictures = {"train": (1, train), "validation": (801, validation)}
        parts = []
        for part in entry.parts:
            first, of_split = pictures[part.split]
            if of_split and (
                part.track is None or (part.track == "bicubic" and part.scale in scales)
            ):
                parts.append(self._pack(part, first, of_split))
        self.write_catalogue(state, entry.model_copy(update={"parts": tuple(parts)}))

    def _pack(
        self, part: "Part", first: int, pictures: "Sequence[npt.NDArray[np.uint8]]"
    ) -> "Part":
        from superres.image.codecs import Picture, encode
        from superres.image.resize import imresize

        [copy] = part.copies
        tail = "" if part.track is None else f"x{part.scale}"
        small = (
            pixels if part.track is None else imresize(pixels, scale=1 / part.scale)
            for pixels in pictures
        )
        archive = zip_of(
            {
                f"{copy.folder}/{number:04}{tail}.png": encode(Picture(rgb_hwc=pixels), "png")
                for number, pixels in enumerate(small, start=first)
            }
        )
        described = self.describe(copy.archives[0].name, archive)
        served_copy = copy.model_copy(update={"archives": (described,)})
        return part.model_copy(update={"pictures": len(pictures), "copies": (served_copy,)})

    def describe(self, name: str, data: bytes, **facts: object) -> "Archive":
        """Serve a file and return its catalogue entry with its size and sha256."""
        from training.data.sources.entries import Archive

        self.files[name] = data
        facts = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()} | facts
        return Archive.model_validate(
            {"name": name, "mirrors": (f"{self.address}/{name}",)} | facts
        )

    def _answer(self, request: "http.server.BaseHTTPRequestHandler") -> None:
        name = request.path.partition("?")[0].rpartition("/")[2]
        behaviour, range_header = self.behaviours.get(name, ""), request.headers.get("Range")
        self.requests.append((name, range_header))
        if behaviour in ("cuts-once", "busy-once", "changes"):
            self.behaviours[name] = ""
        if behaviour == "redirects" and not request.path.startswith("/elsewhere/"):
            self._send(request, 302, b"", Location=f"/elsewhere/{name}")
        elif behaviour == "page":
            self._send(request, 200, b"<html>sign in</html>", **{"Content-Type": "text/html"})
        elif behaviour == "busy-once":
            self._send(request, 503, b"", **{"Retry-After": "0"})
        elif behaviour.isdigit() or name not in self.files:
            self._send(request, int(behaviour or 404), b"gone")
        else:
            self._send_file(request, name, behaviour, range_header)

    def _send_file(
        self,
        request: "http.server.BaseHTTPRequestHandler",
        name: str,
        behaviour: str,
        range_header: str | None,
    ) -> None:
        data = self.files[name]
        if behaviour == "wrong":
            data = data[:-1] + bytes([data[-1] ^ 1])
        elif behaviour == "page-as-archive":
            data = b"<!doctype html><html>not here</html>"
        etag = f'"{hashlib.sha256(data).hexdigest()}"'
        fresh = request.headers.get("If-Range") in (None, etag)
        total, status, fields = len(data), 200, {"ETag": etag}
        if range_header and fresh and behaviour not in ("ignores-range", "cuts", "stalls"):
            start = int(range_header.removeprefix("bytes=").rstrip("-"))
            shown = start + 1 if behaviour == "lies" else start
            fields["Content-Range"] = f"bytes {shown}-{total - 1}/{total}"
            data, status = data[start:], 206
        breaks_off = behaviour in ("cuts", "cuts-once", "changes", "stalls")
        breaks_off |= behaviour == "cuts-first" and status == 200
        sent = data[: len(data) // 2] if breaks_off else data
        self._send(request, status, sent, length=len(data), **fields)
        if behaviour == "changes":
            self.files[name] = self.files[name.replace(".zip", ".new.zip")]
        if behaviour == "stalls":
            self.stop.wait(60)
        if len(sent) < len(data):
            request.close_connection = True

    def _send(
        self,
        request: "http.server.BaseHTTPRequestHandler",
        status: int,
        body: bytes,
        length: int | None = None,
        **fields: str,
    ) -> None:
        with contextlib.suppress(OSError):  # a client that was killed
            request.send_response(status)
            request.send_header("Content-Length", str(len(body) if length is None else length))
            for field, value in fields.items():
                request.send_header(field, value)
            request.end_headers()
            request.wfile.write(body)
            request.wfile.flush()


def zip_of(files: dict[str, bytes]) -> bytes:
    """A deterministic zip archive of these paths and bytes, with folder entries first."""
    buffer = io.BytesIO()
    folders = {f"{path.rpartition('/')[0]}/" for path in files if "/" in path}
    with zipfile.ZipFile(buffer, "w") as archive:
        for path, data in {**dict.fromkeys(sorted(folders), b""), **files}.items():
            archive.writestr(zipfile.ZipInfo(path), data)
    return buffer.getvalue()


@pytest.fixture
def mirror(serve_http: ServeHttp) -> Iterator[Mirror]:
    """A local mirror of public picture sets."""
    server = Mirror(serve_http)
    yield server
    server.stop.set()
