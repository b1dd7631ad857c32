import asyncio
import base64
import hashlib
import hmac
import http.server
import json
import socket
import sys
import threading
from datetime import UTC, datetime
from ipaddress import ip_address

import httpcore
import httpx
import pytest

from serving.errors import ForbiddenAddress
from serving.jobs.webhooks import (
    RETRY_SECONDS,
    AddressGuard,
    GuardedNetwork,
    WebhookFailed,
    Webhooks,
    is_public,
    retry_after_seconds,
    secret_text,
    signature_headers,
)

SECRET = b"s" * 32

FORBIDDEN = [
    "127.0.0.1",
    "127.8.9.1",
    "0.0.0.0",
    "10.0.0.1",
    "172.16.0.1",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "192.0.0.8",
    "192.0.2.1",
    "192.88.99.1",
    "198.18.0.1",
    "198.51.100.7",
    "203.0.113.7",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "[::]",
    "[::1]",
    "[::ffff:127.0.0.1]",
    "[::ffff:10.0.0.1]",
    "[::127.0.0.1]",
    "[64:ff9b::7f00:1]",
    "[64:ff9b:1::7f00:1]",
    "[2002:7f00:1::1]",
    "[2001::1]",
    "[2001:db8::1]",
    "[fc00::1]",
    "[fd12::1]",
    "[fe80::1]",
    "[ff02::1]",
    "[100::1]",
    "localhost",
    "2130706433",  # 127.0.0.1 as one number
    "0x7f.1",
    "0177.0.0.1",
]


class ConnectionRecorder:
    """Records every address that this process connects or sends to inside its context.

    Uses Python's audit events, which are raised before the system call. An audit hook cannot be
    removed, so all tests share one.
    """

    def __init__(self):
        self.destinations = []
        self.recording = False
        sys.addaudithook(self._record)

    def _record(self, event, arguments):
        if self.recording and event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
            self.destinations.append(arguments[1])

    def __enter__(self):
        self.destinations, self.recording = [], True
        return self

    def __exit__(self, *_):
        self.recording = False


@pytest.fixture(scope="module")
def recorder():
    return ConnectionRecorder()


class FakeNetwork(httpcore.AsyncNetworkBackend):
    """A network that records connections and refuses them."""

    def __init__(self):
        self.connections = []

    async def connect_tcp(self, host, port, *_, **__):
        self.connections.append((host, port))
        raise httpcore.ConnectError("refused")


@pytest.fixture(scope="module")
def listener():
    """A local socket that must get no connection."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        yield server


@pytest.mark.parametrize("host", FORBIDDEN)
def test_webhook_to_a_non_public_address_sends_nothing(host, listener, recorder):
    port = listener.getsockname()[1]
    url = f"http://{host}:{port}/hook"
    guard = AddressGuard()

    async def attempt():
        with pytest.raises(ForbiddenAddress):
            await guard.check(url)
        webhooks = Webhooks(GuardedNetwork(guard), timeout_seconds=60)
        with pytest.raises(ForbiddenAddress):
            await webhooks.deliver(url, SECRET, "id", b"{}")

    with recorder:
        asyncio.run(attempt())
    assert recorder.destinations == []
    with pytest.raises(BlockingIOError):
        listener.accept()


def test_allowed_webhook_is_recorded(listener, recorder):
    address = listener.getsockname()
    webhooks = Webhooks(GuardedNetwork(AddressGuard(["127.0.0.0/8"])), timeout_seconds=0.2)
    with recorder, pytest.raises(WebhookFailed):
        asyncio.run(webhooks.deliver(f"http://localhost:{address[1]}/", SECRET, "id", b"{}"))
    assert recorder.destinations == [address]


@pytest.mark.parametrize("address", ["8.8.8.8", "93.184.216.34", "2606:4700:4700::1111"])
def test_public_addresses_are_public(address):
    assert is_public(ip_address(address))


@pytest.mark.parametrize(
    "url",
    [
        "",
        "ftp://8.8.8.8/",
        "file:///etc/passwd",
        "http://",
        "http://user:word@8.8.8.8/",
        "http://8.8.8.8/" + "a" * 2000,
        "http://\u0660.0.0.1/",
        "http://no-such-host.invalid/",
    ],
)
def test_invalid_webhook_url_is_refused(url):
    with pytest.raises(ForbiddenAddress):
        asyncio.run(AddressGuard().check(url))


def test_name_with_one_private_address_among_public_ones_is_refused():
    async def resolve(host, port):
        return ["8.8.8.8", "10.0.0.1"]

    with pytest.raises(ForbiddenAddress, match=r"10\.0\.0\.1"):
        asyncio.run(AddressGuard(resolve=resolve).check("http://both.example/"))


def test_dns_rebinding_after_the_check_is_refused_at_the_connection():
    answers = [["8.8.8.8"], ["127.0.0.1"]]

    async def resolve(host, port):
        return answers.pop(0)

    network = FakeNetwork()

    async def attempt():
        guard = AddressGuard(resolve=resolve)
        await guard.check("http://rebound.example/")
        webhooks = Webhooks(GuardedNetwork(guard, network), timeout_seconds=60)
        with pytest.raises(ForbiddenAddress):
            await webhooks.deliver("http://rebound.example/", SECRET, "id", b"{}")

    asyncio.run(attempt())
    assert network.connections == []


def test_connections_go_to_the_checked_addresses_in_turn():
    async def resolve(host, port):
        return ["2606:4700:4700::1111", "8.8.8.8"]

    network = FakeNetwork()

    async def attempt():
        webhooks = Webhooks(
            GuardedNetwork(AddressGuard(resolve=resolve), network), timeout_seconds=60
        )
        with pytest.raises(WebhookFailed):
            await webhooks.deliver("http://once.example:81/", SECRET, "id", b"{}")

    asyncio.run(attempt())
    assert network.connections == [("2606:4700:4700::1111", 81), ("8.8.8.8", 81)]


class WebhookReceiver:
    """A client's server: responds `statuses` in turn, then the last one; -1 never responds."""

    def __init__(self, *statuses):
        self.statuses = list(statuses)
        self.received = []
        self.stop = threading.Event()
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.received.append((dict(self.headers), body))
                statuses = receiver.statuses
                status = statuses.pop(0) if len(statuses) > 1 else statuses[0]
                if status < 0:
                    receiver.stop.wait(30)
                    return
                self.send_response(status)
                self.send_header("Location", "http://127.0.0.1:1/elsewhere")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/hook"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,))

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


def deliver(url, timeout_seconds=60.0):
    guard = AddressGuard(["127.0.0.0/8"])
    webhooks = Webhooks(GuardedNetwork(guard), timeout_seconds)
    asyncio.run(webhooks.deliver(url, SECRET, "msg_1", b'{"a":1}'))


def test_delivery_has_a_signature_that_the_receiver_can_verify():
    with WebhookReceiver(204) as receiver:
        deliver(receiver.url)
    [(headers, body)] = receiver.received
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    expected = base64.b64encode(hmac.digest(SECRET, signed, hashlib.sha256)).decode()
    assert headers["webhook-signature"] == f"v1,{expected}"


def test_signature_matches_the_standards_example():
    # The specification's example; key, id and time are those of its libraries' tests.
    secret = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    headers = signature_headers(
        secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}'
    )
    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@pytest.mark.parametrize("status", [302, 307, 400, 500])
def test_status_other_than_2xx_fails_and_redirects_are_not_followed(status, recorder):
    with (
        WebhookReceiver(status) as receiver,
        recorder,
        pytest.raises(WebhookFailed, match=str(status)),
    ):
        deliver(receiver.url)
    assert len(receiver.received) == 1
    assert recorder.destinations == [receiver.server.server_address]


def test_status_410_is_permanent():
    with WebhookReceiver(410) as receiver, pytest.raises(WebhookFailed) as failed:
        deliver(receiver.url)
    assert failed.value.permanent


def test_receiver_that_never_responds_times_out():
    with WebhookReceiver(-1) as receiver, pytest.raises(WebhookFailed):
        deliver(receiver.url, timeout_seconds=0.1)


def test_retries_wait_longer_each_time_and_end():
    waits = [retry_after_seconds(attempt) for attempt in range(1, len(RETRY_SECONDS) + 1)]
    assert waits == sorted(waits)
    assert retry_after_seconds(len(RETRY_SECONDS) + 1) is None


def test_failed_delivery_is_retried_with_the_same_id(
    picture_server, models_folder, noise_png, monkeypatch
):
    monkeypatch.setattr("serving.jobs.webhooks.RETRY_SECONDS", (0.05, 0.05))
    server = picture_server(
        models_folder, jobs={"poll_seconds": 0.05, "webhook_networks": ("127.0.0.0/8",)}
    )

    def submit(receiver):
        answer = server.client.post(
            "/v1/jobs", params={"webhook": receiver.url}, content=noise_png(8, 8)
        )
        return answer.json()["id"]

    with (
        WebhookReceiver(500, 302, 200) as flaky,
        WebhookReceiver(500) as broken,
        WebhookReceiver(410) as gone,
    ):
        ids = [submit(receiver) for receiver in (flaky, broken, gone)]
        server.wait_for(
            lambda: len(flaky.received) == 3 and len(broken.received) == 3 and gone.received
        )
        server.stop()
    assert {headers["webhook-id"] for headers, _ in flaky.received} == {ids[0]}
    assert len({body for _, body in flaky.received}) == 1
    assert (len(flaky.received), len(broken.received), len(gone.received)) == (3, 3, 1)


def test_hanging_receiver_does_not_delay_other_deliveries(picture_server, models_folder, noise_png):
    server = picture_server(
        models_folder,
        jobs={"poll_seconds": 0.05, "webhook_networks": ("127.0.0.0/8",), "webhook_seconds": 20},
    )
    with WebhookReceiver(-1) as silent, WebhookReceiver(200) as receiver:
        for url in (silent.url, receiver.url):
            answer = httpx.post(
                f"{server.url}/v1/jobs",
                params={"webhook": url},
                content=noise_png(8, 8),
                timeout=60,
            )
            assert answer.status_code == 202
        job = answer.json()
        server.wait_for(lambda: receiver.received)
        server.stop()
    [(headers, body)] = receiver.received
    message = json.loads(body)
    assert (message["type"], message["data"]["id"]) == ("job.done", job["id"])
    assert datetime.fromisoformat(message["timestamp"]) <= datetime.now(UTC)
    secret = base64.b64decode(job["webhook_secret"].removeprefix("whsec_"))
    again = signature_headers(
        secret, headers["webhook-id"], int(headers["webhook-timestamp"]), body
    )
    assert again["webhook-signature"] == headers["webhook-signature"]


def test_job_with_a_forbidden_webhook_is_refused(server, noise_png):
    answer = httpx.post(
        f"{server.url}/v1/jobs",
        params={"webhook": "http://169.254.169.254/latest"},
        content=noise_png(8, 8),
        timeout=60,
    )
    assert (answer.status_code, answer.json()["type"]) == (403, "/problems/forbidden-address")


def test_secret_has_the_format_of_the_standards_libraries():
    assert secret_text(b"\x00" * 3) == "whsec_AAAA"
