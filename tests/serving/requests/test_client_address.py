import pytest
from starlette.requests import HTTPConnection

from serving.requests.client_address import UNKNOWN, ClientAddresses, host_name, is_loopback


def connection(peer, *forwarded):
    headers = [(b"x-forwarded-for", text.encode()) for text in forwarded]
    client = None if peer is None else (peer, 1234)
    return HTTPConnection({"type": "http", "headers": headers, "client": client})


@pytest.mark.parametrize(
    ("peer", "forwarded", "address"),
    [
        ("203.0.113.7", (), "203.0.113.7"),
        ("203.0.113.7", ("198.51.100.1",), "203.0.113.7"),  # not a trusted proxy
        ("10.0.0.5", ("198.51.100.1",), "198.51.100.1"),
        ("10.0.0.5", ("6.6.6.6, 198.51.100.1",), "198.51.100.1"),  # the first is forged
        ("10.0.0.5", ("6.6.6.6", "198.51.100.1"), "198.51.100.1"),
        ("10.0.0.5", ("198.51.100.1, 10.0.0.9",), "198.51.100.1"),  # two proxies in a row
        ("10.0.0.5", ("198.51.100.1:5555",), "198.51.100.1"),
        ("10.0.0.5", ("nonsense",), "10.0.0.5"),
        ("10.0.0.5", ("198.51.100.1, nonsense",), "10.0.0.5"),
        ("10.0.0.5", ("10.1.1.1",), "10.1.1.1"),
        ("2001:db8:1:2:3:4:5:6", (), "2001:db8:1:2::/64"),
        ("10.0.0.5", ("[2001:db8:1:2::9]:80",), "2001:db8:1:2::/64"),
        ("::ffff:203.0.113.7", (), "203.0.113.7"),
        ("::ffff:10.0.0.5", ("198.51.100.1",), "198.51.100.1"),
        (None, ("198.51.100.1",), UNKNOWN),
    ],
)
def test_address_is_the_nearest_hop_that_is_no_trusted_proxy(peer, forwarded, address):
    assert ClientAddresses(["10.0.0.0/8"]).address_of(connection(peer, *forwarded)) == address


def test_no_proxy_is_trusted_by_default():
    assert ClientAddresses().address_of(connection("127.0.0.1", "198.51.100.1")) == "127.0.0.1"


@pytest.mark.parametrize(
    ("header", "name"),
    [("A.Example:8000", "a.example"), ("[::1]:80", "::1"), ("localhost", "localhost"), ("", "")],
)
def test_host_header_is_read_without_its_port(header, name):
    assert host_name(header) == name


@pytest.mark.parametrize(
    ("host", "local"),
    [
        *(("127.0.0.1", True), ("127.1.2.3", True), ("::1", True), ("localhost", True)),
        *(("0.0.0.0", False), ("::", False), ("192.168.1.2", False), ("a.example", False)),
    ],
)
def test_loopback_is_recognized(host, local):
    assert is_loopback(host) == local
