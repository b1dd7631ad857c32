"""The client address of a request, behind trusted proxies."""

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network

from starlette.requests import HTTPConnection

Address = IPv4Address | IPv6Address
IPV6_PREFIX = 64  # bits; a client usually controls a whole network of this size
UNKNOWN = "unknown"
LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})


class ClientAddresses:
    """Finds client addresses; X-Forwarded-For counts only from networks in `trusted_proxies`."""

    def __init__(self, trusted_proxies: Sequence[str] = ()) -> None:
        self._trusted = [ip_network(network, strict=False) for network in trusted_proxies]

    def address_of(self, connection: HTTPConnection) -> str:
        """The nearest hop that is not a trusted proxy: `203.0.113.7`, or an IPv6 /64 network.

        The header is read from its end, because the client can forge everything that the trusted
        proxies did not append.
        """
        peer = _parse(connection.client.host if connection.client else "")
        if peer is None:
            return UNKNOWN
        forwarded = ",".join(connection.headers.getlist("x-forwarded-for")).split(",")
        hop = peer
        for text in reversed(forwarded):
            if not self._trusts(hop):
                break
            before = _parse(text)
            if before is None:
                break
            hop = before
        return _grouped(hop)

    def _trusts(self, address: Address) -> bool:
        return any(address in network for network in self._trusted)


def host_name(header: str) -> str:
    """The name in a Host header, without the port and in lower case."""
    name = header.strip().lower()
    if name.startswith("["):
        return name[1:].partition("]")[0]
    return name.partition(":")[0]


def is_loopback(host: str) -> bool:
    """Whether a listen address is reachable only from this machine."""
    if host in LOOPBACK_NAMES:
        return True
    address = _parse(host)
    return address is not None and address.is_loopback


def _parse(text: str) -> Address | None:
    text = text.strip().strip('"')
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _grouped(address: Address) -> str:
    if isinstance(address, IPv6Address):
        return str(IPv6Network((address, IPV6_PREFIX), strict=False))
    return str(address)
