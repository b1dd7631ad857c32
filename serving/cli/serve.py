"""`sharpline serve`: runs the picture server."""

import argparse
import os
import socket
import threading
import time
from pathlib import Path
from types import FrameType

import uvicorn

from serving.app import create_app
from serving.models.folder import require_models
from serving.requests.client_address import is_loopback
from serving.services import Services
from serving.settings import Settings, load_settings
from serving.telemetry.logs import configure_logs
from superres.common.console import emit, say
from superres.common.errors import SharplineError, UsageError

EXIT_LOST = 1
LOST_SECONDS = 8.0  # from the loss of a device to the exit, at most, even if a thread hangs
FLUSH_SECONDS = 5  # for the last responses to reach slow clients after the drain


def serve(argv: list[str]) -> int:
    """Serve models over HTTP until SIGTERM or Ctrl-C, then finish the requests in flight."""
    arguments = _parser().parse_args(argv)
    settings = _settings(arguments)
    require_models(settings.models.folder)
    refuse_without_keys(settings)
    configure_logs(settings.logs)
    with listen(settings.host, settings.port) as listener:
        app = create_app(settings)
        services: Services = app.state.services
        config = uvicorn.Config(
            app,
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,  # client_address reads them, from trusted proxies only
            timeout_graceful_shutdown=FLUSH_SECONDS,
        )
        _print_address(listener, settings, as_json=arguments.json)
        DrainingServer(config, services).run(sockets=[listener])
    if services.engines.lost:
        say(f"exiting: a device is lost: {services.engines.lost}")
        os._exit(EXIT_LOST)  # skips the driver's exit handlers, which may hang
    say("stopped")
    return 0


def refuse_without_keys(settings: Settings) -> None:
    """Raise UsageError if other machines can reach the server, without keys or `open`."""
    security = settings.security
    if security.keys_file is None and not security.open and not is_loopback(settings.host):
        raise UsageError(
            f"on {settings.host} other machines could use the server without a key: set "
            "SHARPLINE_SECURITY__KEYS_FILE to a key file (`sharpline keys add` writes it), or set "
            "SHARPLINE_SECURITY__OPEN=true if a proxy or network policy controls access"
        )


def listen(host: str, port: int) -> socket.socket:
    """A bound socket. Raises SharplineError, with advice, if the address cannot be bound."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=512)
    except OSError as error:
        # str(error) repeats the address; a name that does not resolve has no usable errno.
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
        raise SharplineError(
            f"cannot listen on {host}:{port}: {reason}; stop the process that uses it, or choose "
            "another address with --host and --port (0 picks a free port)"
        ) from error


class DrainingServer(uvicorn.Server):
    """Drains on the first signal: refuses new pictures and exits after those in flight.

    It keeps listening meanwhile, so health checks and new clients get 503 instead of a refused
    connection. If a device is lost it exits at once: all pictures have failed by then, and only a
    new process can use the device again.
    """

    def __init__(self, config: uvicorn.Config, services: Services) -> None:
        super().__init__(config)
        self._services = services
        self._drain_began_seconds: float | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._drain_began_seconds is None:
            self._drain_began_seconds = time.monotonic()
            self._services.pictures.admission.drain()
        else:
            super().handle_exit(sig, frame)

    async def on_tick(self, counter: int) -> bool:
        if self._services.engines.lost and not self.should_exit:
            exit_within(LOST_SECONDS)
            self._services.pictures.admission.drain()
            self.should_exit = True
        if self._drain_began_seconds is not None:
            drain = self._services.pictures.settings.drain
            passed_seconds = time.monotonic() - self._drain_began_seconds
            done = self._services.pictures.admission.in_flight == 0
            if (done and passed_seconds >= drain.linger_seconds) or (
                passed_seconds >= drain.max_seconds
            ):
                self.should_exit = True
        return await super().on_tick(counter)


def exit_within(seconds: float) -> None:
    """Kill the process after `seconds` at the latest: a broken driver may hang even at exit."""
    watchdog = threading.Timer(seconds, os._exit, [EXIT_LOST])
    watchdog.daemon = True
    watchdog.start()


def _print_address(listener: socket.socket, settings: Settings, *, as_json: bool) -> None:
    """Print the bound address; connections from now on wait until the server accepts them."""
    host, port = listener.getsockname()[:2]
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    say(f"serving {settings.models.folder} on {url}  (API: {url}/docs, metrics: {url}/metrics)")
    if settings.security.keys_file is None and not is_loopback(settings.host):
        say("no API keys: anyone who can reach this address may use it (SHARPLINE_SECURITY__OPEN)")
    if as_json:
        emit({"url": url, "host": host, "port": port})


def _settings(arguments: argparse.Namespace) -> Settings:
    overrides = {
        name: value
        for name, value in (("host", arguments.host), ("port", arguments.port))
        if value is not None
    }
    if arguments.models is not None:
        overrides["models"] = {"folder": arguments.models}
    return load_settings(**overrides)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sharpline serve",
        description="Serve models over HTTP.",
        epilog="All other settings are environment variables, see docs/settings.md.",
    )
    parser.add_argument("--host", help="address to listen on (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, help="port; 0 picks a free one (default: 8000)")
    parser.add_argument(
        "--models",
        type=Path,
        metavar="FOLDER",
        help="folder of models, or the one that `sharpline models follow` syncs (default: models)",
    )
    parser.add_argument(
        "--json", action="store_true", help="print the address as one JSON line to stdout"
    )
    return parser
