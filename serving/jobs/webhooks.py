"""Webhooks for finished jobs: signed, retried, and guarded against SSRF.

Signatures follow Standard Webhooks (standardwebhooks.com). The host name is resolved here, all its
addresses must be public, and the connection goes to a checked address, so DNS rebinding has no
effect. Redirects are not followed.
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

MAX_URL_LENGTH = 2000
RETRY_SECONDS = (5.0, 30.0, 120.0, 600.0, 1800.0)  # after the first attempt, the second, ...
GONE = 410  # the receiver wants no further deliveries

# The Internet's IPv6 addresses are in 2000::/3. These networks are not public although they are in
# it or global by `ipaddress`: special use, or an embedded IPv4 address.
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
    """A delivery that did not reach its receiver or that the receiver rejected."""

    def __init__(self, message: str, *, permanent: bool = False) -> None:
        super().__init__(message)
        self.permanent = permanent


def is_public(address: Address) -> bool:
    """Whether an address is public: global, unicast and not reserved."""
    if isinstance(address, IPv6Address):
        if address not in _ROUTED_V6:  # loopback, mapped, NAT64, link-local, private, multicast
            return False
    elif address.is_multicast or address.is_reserved:
        return False
    special = any(
        address in network for network in _NOT_PUBLIC if network.version == address.version
    )
    return address.is_global and not special


class AddressGuard:
    """SSRF guard: webhooks may only go to public addresses; `networks` are allowed in addition."""

    def __init__(self, networks: Iterable[str] = (), resolve: Resolve | None = None) -> None:
        self._networks = [ip_network(network, strict=False) for network in networks]
        self._resolve = resolve or _getaddrinfo

    async def check(self, url: str) -> None:
        """Raise ForbiddenAddress for a URL that is not allowed as a webhook."""
        try:
            parsed = httpcore.URL(url)
            host, port = parsed.host.decode("ascii"), parsed.port
        except (ValueError, UnicodeError, TypeError):
            raise ForbiddenAddress("the webhook is not a valid URL") from None
        if len(url) > MAX_URL_LENGTH or parsed.scheme not in (b"http", b"https") or not host:
            raise ForbiddenAddress("a webhook must be an http(s) URL of at most 2000 characters")
        if "@" in url.split("//", 1)[1].split("/", 1)[0]:
            raise ForbiddenAddress("a webhook URL must not have a user name")
        await self.addresses(host, port or (443 if parsed.scheme == b"https" else 80))

    async def addresses(self, host: str, port: int) -> list[str]:
        """The addresses of a host, all of them allowed. Raises ForbiddenAddress."""
        host = host.strip("[]")
        try:
            resolved = await self._resolve(host, port)
        except OSError:
            raise ForbiddenAddress(f"the webhook host {host[:100]!r} does not resolve") from None
        for text in resolved:
            # Link-local addresses may have a zone id (%eth0).
            if not self._allows(ip_address(text.partition("%")[0])):
                raise ForbiddenAddress(f"a webhook may not go to {host[:100]!r} ({text})")
        return resolved

    def _allows(self, address: Address) -> bool:
        return is_public(address) or any(
            address in network for network in self._networks if network.version == address.version
        )


class GuardedNetwork(httpcore.AsyncNetworkBackend):
    """Connects only to addresses that the guard has checked."""

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
        last_error: Exception = httpcore.ConnectError(f"{host} has no address")
        for address in await self._guard.addresses(host, port):
            try:
                return await self._inner.connect_tcp(
                    address, port, timeout, local_address, socket_options
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                last_error = error  # e.g. an IPv6 address without an IPv6 route
        raise last_error

    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        raise ForbiddenAddress("a webhook must not use a Unix socket")

    async def sleep(self, seconds: float) -> None:
        await self._inner.sleep(seconds)


class Webhooks:
    """Delivers webhook messages."""

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
                pool.stream("POST", url, headers=list(headers.items()), content=body) as response,
            ):
                status = response.status
        except (TimeoutError, OSError, httpcore.NetworkError, httpcore.ProtocolError) as error:
            raise WebhookFailed(f"no response ({type(error).__name__})") from error
        except httpcore.TimeoutException as error:
            raise WebhookFailed("timed out") from error
        if not 200 <= status < 300:
            raise WebhookFailed(f"the receiver responded {status}", permanent=status == GONE)


def signature_headers(
    secret: bytes, message_id: str, timestamp: int, body: bytes
) -> dict[str, str]:
    """The three Standard Webhooks headers; `timestamp` is Unix time in seconds."""
    signed = f"{message_id}.{timestamp}.".encode() + body
    signature = base64.b64encode(hmac.digest(secret, signed, hashlib.sha256)).decode()
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": f"v1,{signature}",
    }


def secret_text(secret: bytes) -> str:
    """A secret in the format of the Standard Webhooks libraries."""
    return "whsec_" + base64.b64encode(secret).decode()


def retry_after_seconds(attempts: int) -> float | None:
    """Seconds to wait after so many failed attempts; None to give up."""
    return RETRY_SECONDS[attempts - 1] if attempts <= len(RETRY_SECONDS) else None


async def _getaddrinfo(host: str, port: int) -> list[str]:
    loop = asyncio.get_running_loop()
    results = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(each[4][0]) for each in results))
