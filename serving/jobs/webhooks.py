"""Telling a client's server that a job is over: signed, retried, and never inside our own network.

Signatures are those of Standard Webhooks (standardwebhooks.com). A name is looked up by us, every
address that it has must be public, and the connection goes to the address that was looked at, so
a name that points elsewhere a moment later gains nothing. Redirects are not followed.
"""

import asyncio
import base64
import hashlib
import hmac
import socket
import time
from collections.abc import Awaitable, Callable, Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import cast

import httpcore

from serving.errors import ForbiddenAddress
from superres.common.errors import SharplineError

Address = IPv4Address | IPv6Address
Resolve = Callable[[str, int], Awaitable[list[str]]]

LONGEST_URL = 2000
RETRY_SECONDS = (5.0, 30.0, 120.0, 600.0, 1800.0)  # after the first attempt, the second, ...
GONE = 410  # the receiver's word for: never again

# Inside 2000::/3, where the Internet is, these lead elsewhere or carry an IPv4 address along.
_ROUTED_V6 = ip_network("2000::/3")
_NOT_PUBLIC = [
    ip_network(network)
    for network in (
        "192.0.0.0/24",
        "192.88.99.0/24",
        "2001::/23",
        "2001:db8::/32",
        "2002::/16",
        "3fff::/20",
    )
]


class WebhookFailed(SharplineError):
    """A delivery that did not reach its receiver, or that the receiver refused."""

    def __init__(self, message: str, *, forever: bool = False) -> None:
        super().__init__(message)
        self.forever = forever


def is_public(address: Address) -> bool:
    """Whether an address is one of the Internet's, and of nobody's own network."""
    if isinstance(address, IPv6Address):
        if address not in _ROUTED_V6:  # loopback, mapped, NAT64, link-local, private, multicast
            return False
    elif address.is_multicast or address.is_reserved:
        return False
    own = any(address in network for network in _NOT_PUBLIC if network.version == address.version)
    return address.is_global and not own


class AddressGuard:
    """Says which addresses a webhook may go to; `networks` are the operator's exceptions."""

    def __init__(self, networks: Iterable[str] = (), resolve: Resolve | None = None) -> None:
        self._networks = [ip_network(network, strict=False) for network in networks]
        self._resolve = resolve or _resolved

    async def check(self, url: str) -> None:
        """Raise ForbiddenAddress for a URL that no webhook may go to."""
        try:
            parsed = httpcore.URL(url)
            host, port = parsed.host.decode("ascii"), parsed.port
        except (ValueError, UnicodeError, TypeError):
            raise ForbiddenAddress("the webhook is no address") from None
        if len(url) > LONGEST_URL or parsed.scheme not in (b"http", b"https") or not host:
            raise ForbiddenAddress("a webhook is an http or https address of at most 2000 letters")
        if "@" in url.split("//", 1)[1].split("/", 1)[0]:
            raise ForbiddenAddress("a webhook's address carries no user name")
        await self.addresses(host, port or (443 if parsed.scheme == b"https" else 80))

    async def addresses(self, host: str, port: int) -> list[str]:
        """The addresses of a host, each of which may be connected to. Raises ForbiddenAddress."""
        host = host.strip("[]")
        try:
            found = await self._resolve(host, port)
        except OSError:
            raise ForbiddenAddress(f"the webhook's host {host[:100]!r} has no address") from None
        for text in found:
            # An interface's name after the address (%eth0) belongs to link-local ones alone.
            if not self._allows(ip_address(text.partition("%")[0])):
                raise ForbiddenAddress(f"a webhook may not go to {host[:100]!r} ({text})")
        return found

    def _allows(self, address: Address) -> bool:
        return is_public(address) or any(
            address in network for network in self._networks if network.version == address.version
        )


class GuardedNetwork(httpcore.AsyncNetworkBackend):
    """Connects only to addresses that the guard has looked at."""

    def __init__(
        self, guard: AddressGuard, inner: httpcore.AsyncNetworkBackend | None = None
    ) -> None:
        self._guard = guard
        self._inner = inner or cast(httpcore.AsyncNetworkBackend, httpcore.AnyIOBackend())

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        failed: Exception = httpcore.ConnectError(f"{host} has no address")
        for address in await self._guard.addresses(host, port):
            try:
                return await self._inner.connect_tcp(
                    address, port, timeout, local_address, socket_options
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failed = error  # e.g. the IPv6 address of a host that only IPv4 leads to
        raise failed

    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        raise ForbiddenAddress("a webhook goes over the network")

    async def sleep(self, seconds: float) -> None:
        await self._inner.sleep(seconds)


class Webhooks:
    """Delivers messages."""

    def __init__(self, network: GuardedNetwork, timeout_seconds: float) -> None:
        self._network = network
        self._timeout_seconds = timeout_seconds

    async def deliver(self, url: str, secret: bytes, message_id: str, body: bytes) -> None:
        """One attempt. Raises WebhookFailed, or ForbiddenAddress."""
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "Sharpline",
            **signature_headers(secret, message_id, int(time.time()), body),
        }
        try:
            async with (
                asyncio.timeout(self._timeout_seconds),
                httpcore.AsyncConnectionPool(network_backend=self._network) as pool,
                pool.stream("POST", url, headers=list(headers.items()), content=body) as answer,
            ):
                status = answer.status
        except (TimeoutError, OSError, httpcore.NetworkError, httpcore.ProtocolError) as error:
            raise WebhookFailed(f"no answer ({type(error).__name__})") from error
        except httpcore.TimeoutException as error:
            raise WebhookFailed("no answer in time") from error
        if not 200 <= status < 300:
            raise WebhookFailed(f"it answered {status}", forever=status == GONE)


def signature_headers(secret: bytes, message_id: str, at: int, body: bytes) -> dict[str, str]:
    """The three headers of Standard Webhooks; `at` is in seconds of Unix time."""
    signed = f"{message_id}.{at}.".encode() + body
    signature = base64.b64encode(hmac.digest(secret, signed, hashlib.sha256)).decode()
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(at),
        "webhook-signature": f"v1,{signature}",
    }


def secret_text(secret: bytes) -> str:
    """A secret as Standard Webhooks' libraries take it."""
    return "whsec_" + base64.b64encode(secret).decode()


def retry_after_seconds(attempts: int) -> float | None:
    """How long to wait after so many failed attempts; None for giving up."""
    return RETRY_SECONDS[attempts - 1] if attempts <= len(RETRY_SECONDS) else None


async def _resolved(host: str, port: int) -> list[str]:
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(each[4][0]) for each in found))
