"""`sharpline serve`: the server as a command."""

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
LOST_SECONDS = 8.0  # from a device's loss to the end of the process, whatever hangs in it
FLUSH_SECONDS = 5  # for the last answers to reach slow clients, after every picture is done


def serve(argv: list[str]) -> int:
    """Answer pictures over HTTP until SIGTERM or Ctrl-C, then finish what is in flight."""
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
            proxy_headers=False,  # client_address reads them, from trusted proxies alone
            timeout_graceful_shutdown=FLUSH_SECONDS,
        )
        _announce(listener, settings, as_json=arguments.json)
        DrainingServer(config, services).run(sockets=[listener])
    if services.engines.lost:
        say(f"ended, because a device is lost: {services.engines.lost}")
        os._exit(EXIT_LOST)  # without the driver's own goodbye, which may never return
    say("stopped")
    return 0


def refuse_without_keys(settings: Settings) -> None:
    """Raise UsageError for a server that other machines reach and that anybody may use unasked."""
    security = settings.security
    if security.keys_file is None and not security.open and not is_loopback(settings.host):
        raise UsageError(
            f"on {settings.host} other machines could use the server without a key: name a file of "
            "keys in SHARPLINE_SECURITY__KEYS_FILE (`sharpline keys add` writes it), or set "
            "SHARPLINE_SECURITY__OPEN=true where something in front decides who gets through"
        )


def listen(host: str, port: int) -> socket.socket:
    """A bound socket. Raises SharplineError with what to do where the address cannot be had."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=512)
    except OSError as error:
        # The library's own text repeats the address; a name that does not resolve has no number.
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
        raise SharplineError(
            f"cannot listen on {host}:{port}: {reason}; stop what uses it, or choose another "
            "address with --host and --port (0 takes a free one)"
        ) from error


class DrainingServer(uvicorn.Server):
    """Refuses new pictures from the first signal on, and leaves once those in flight are answered.

    It listens meanwhile, so that health checks and late clients hear 503 and not a closed door.
    Where a device is lost it leaves at once: every picture has failed by then, and only a new
    process can use the device again.
    """

    def __init__(self, config: uvicorn.Config, services: Services) -> None:
        super().__init__(config)
        self._services = services
        self._drain_began_seconds: float | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._drain_began_seconds is None:
            self._drain_began_seconds = time.monotonic()
            self._services.admission.drain()
        else:
            super().handle_exit(sig, frame)

    async def on_tick(self, counter: int) -> bool:
        if self._services.engines.lost and not self.should_exit:
            end_within(LOST_SECONDS)
            self._services.admission.drain()
            self.should_exit = True
        if self._drain_began_seconds is not None:
            drain = self._services.settings.drain
            passed_seconds = time.monotonic() - self._drain_began_seconds
            done = self._services.admission.in_flight == 0
            if (done and passed_seconds >= drain.linger_seconds) or (
                passed_seconds >= drain.max_seconds
            ):
                self.should_exit = True
        return await super().on_tick(counter)


def end_within(seconds: float) -> None:
    """End the process by then at the latest: a poisoned driver may hang in any call, exits too."""
    watchdog = threading.Timer(seconds, os._exit, [EXIT_LOST])
    watchdog.daemon = True
    watchdog.start()


def _announce(listener: socket.socket, settings: Settings, *, as_json: bool) -> None:
    """Say the real address; connections made from here on wait until the server takes them."""
    host, port = listener.getsockname()[:2]
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    say(f"serving {settings.models.folder} on {url}  (API: {url}/docs, figures: {url}/metrics)")
    if settings.security.keys_file is None and not is_loopback(settings.host):
        say("no API keys: anybody who reaches this address may call (SHARPLINE_SECURITY__OPEN)")
    if as_json:
        emit({"url": url, "host": host, "port": port})


def _settings(arguments: argparse.Namespace) -> Settings:
    given = {
        name: value
        for name, value in (("host", arguments.host), ("port", arguments.port))
        if value is not None
    }
    if arguments.models is not None:
        given["models"] = {"folder": arguments.models}
    return load_settings(**given)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sharpline serve",
        description="Answer pictures over HTTP.",
        epilog="Every other setting is an environment variable, see docs/settings.md.",
    )
    parser.add_argument("--host", help="address to listen on (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, help="port; 0 takes a free one (default: 8000)")
    parser.add_argument(
        "--models",
        type=Path,
        metavar="FOLDER",
        help="folder of models, or what `sharpline models follow` keeps (default: models)",
    )
    parser.add_argument(
        "--json", action="store_true", help="print the address as one JSON line on standard output"
    )
    return parser
