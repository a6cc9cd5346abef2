"""Targets: what is an address is read in one way, and what is none is refused before anything connects."""

from __future__ import annotations

import pytest

from ringpull import AsyncClient, Client
from ringpull.inference.client.operations import OperationsClient
from ringpull.inference.client.targets import host_of, parse_target, parse_targets, proxy_of, stays_here
from ringpull.ps.errors import InvalidInput


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("h:1", "h:1"),
        ("h", "h:8500"),
        ("127.0.0.1", "127.0.0.1:8500"),
        ("Ranker-1.Example.ORG:8500", "ranker-1.example.org:8500"),
        ("h:08500", "h:8500"),
        ("h:65535", "h:65535"),
        ("h:00000000065535", "h:65535"),
        ("h:" + "0" * 5000 + "80", "h:80"),
        ("::1", "[::1]:8500"),
        ("[::1]", "[::1]:8500"),
        ("[0:0:0:0:0:0:0:1]:85", "[::1]:85"),
        ("fe80::1%eth0", "[fe80::1%eth0]:8500"),
        ("my_service:1", "my_service:1"),
        ("unix:/run/head.sock", "unix:/run/head.sock"),
        ("unix:///run/head.sock", "unix:///run/head.sock"),
        ("dns:///h:85", "dns:///h:85"),
        ("dns:///h", "dns:///h:8500"),
        ("dns://1.1.1.1/h:85", "dns://1.1.1.1/h:85"),
        ("ipv4:10.0.0.7:85", "ipv4:10.0.0.7:85"),
        ("ipv6:[::1]:85", "ipv6:[::1]:85"),
    ],
)
def test_what_is_an_address(written: str, read: str) -> None:
    assert parse_target(written) == read
    assert parse_target(read) == read


NONE = [
    *(
        f"127.0.0.1:{port}"
        for port in ("99999", "65536", "0", "00", "+1", "-1", "1e3", " 80", "80 ", "8_0", "0x50", "")
    ),
    *(f"127.0.0.1:{port}" for port in ("\u0668\u0665", "\u00b2", "\uff18", "8" * 5000, "http", "1:2")),
    "[::1]:99999",
    "h:00000000199999",
    "h:1" + "0" * 5000,
    "h:" + "0" * 5000,
    "dns:///h:99999",
    "ipv4:1.2.3.4:0",
    "8500",
    ":8500",
    "h :1",
    "h\0:1",
    "h/:1",
    "-h:1",
    "\u00e9:1",
    "[::1",
    "[::1]8500",
    "[zz]:1",
    "::1:8500",
    "unix:",
    "xds:///",
]


@pytest.mark.parametrize("target", NONE)
def test_what_is_none(target: str) -> None:
    with pytest.raises(InvalidInput, match="target"):
        parse_target(target)


@pytest.mark.parametrize("target", ["127.0.0.1:99999", "h:0", "h:1e3", "http://h:1", "h:1/", "u@h:1"])
@pytest.mark.parametrize("kind", [Client, AsyncClient, OperationsClient])
async def test_every_client_refuses_what_is_none(kind: type, target: str) -> None:
    with pytest.raises(InvalidInput, match="write HOST:PORT"):
        kind(target)


@pytest.mark.parametrize(
    ("url", "instead"),
    [
        ("http://h:80", "h:80"),
        ("HTTPS://h:443/", "h:443"),
        ("grpc://h", "h:8500"),
        ("grpcs://user:secret@h:1/v1?x=y#z", "h:1"),
        ("tcp://[::1]:85", "[::1]:85"),
        ("h:80/", "h:80"),
        ("h:80/v1/models", "h:80"),
        ("user@h:80", "h:80"),
        ("http://", "HOST:PORT"),
        ("http://h:99999", "HOST:PORT"),
    ],
)
def test_a_url_says_what_to_write(url: str, instead: str) -> None:
    with pytest.raises(InvalidInput, match="write HOST:PORT") as caught:
        parse_target(url)
    assert instead in str(caught.value).split("write ")[1]


def test_an_address_that_can_be_read_in_two_ways_says_both() -> None:
    with pytest.raises(InvalidInput, match=r"write \[::1:8500\]:8500, or \[::1\]:8500"):
        parse_target("::1:8500")


def test_several_are_each_taken_once() -> None:
    assert parse_targets(" A:1 ,b,a:01,b:8500,::1,[::1]:8500") == ("a:1", "b:8500", "[::1]:8500")
    assert parse_targets(["a:1", "a:1 "]) == ("a:1",)
    for wrong in (8500, None, b"h:1", [b"h:1"], ["h:1", 2], {"h:1"}):
        with pytest.raises(InvalidInput, match="target is"):
            parse_targets(wrong)  # type: ignore[arg-type]


def test_where_a_port_is_needed_none_is_made_up() -> None:
    with pytest.raises(InvalidInput, match="--target 'h': write HOST:PORT"):
        parse_target("h", "--target", port_needed=True)


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("127.0.0.1:1", True),
        ("127.9.9.9:1", True),
        ("[::1]:1", True),
        ("[::ffff:127.0.0.1]:1", True),
        ("localhost:1", True),
        ("head.localhost:1", True),
        ("unix:/x", True),
        ("dns:///localhost:1", True),
        ("10.0.0.7:1", False),
        ("localhost.example.org:1", False),
        ("ipv4:10.0.0.7:1", False),
        ("0.0.0.0:1", False),
    ],
)
def test_what_stays_on_this_machine(target: str, expected: bool) -> None:
    assert stays_here(target) is expected


@pytest.mark.parametrize(
    ("target", "environment", "variable"),
    [
        ("h:1", {"http_proxy": "http://p:3128"}, "http_proxy"),
        ("h:1", {"http_proxy": "http://p:1", "https_proxy": "http://p:2"}, "https_proxy"),
        ("h:1", {"https_proxy": "http://p:2", "grpc_proxy": "http://p:3"}, "grpc_proxy"),
        ("h:1", {"HTTP_PROXY": "http://p:1"}, ""),
        ("127.0.0.1:1", {"http_proxy": "http://p:1"}, ""),
        ("unix:/x", {"http_proxy": "http://p:1"}, ""),
        ("h.corp:1", {"http_proxy": "http://p:1", "no_proxy": "a, .corp"}, ""),
        ("10.1.2.3:1", {"http_proxy": "http://p:1", "no_proxy": "10.0.0.0/8"}, ""),
        ("11.1.2.3:1", {"http_proxy": "http://p:1", "no_proxy": "10.0.0.0/8"}, "http_proxy"),
        ("h:1", {"http_proxy": "http://p:1", "no_proxy": "h", "no_grpc_proxy": "other"}, "http_proxy"),
        ("h:1", {}, ""),
    ],
)
def test_the_proxy_that_grpc_would_take(target: str, environment: dict[str, str], variable: str) -> None:
    assert proxy_of(target, environment) == variable


def test_the_host() -> None:
    hosts = [host_of(each) for each in ("h:1", "[::1]:1", "dns:///h:1", "ipv4:1.2.3.4:5", "unix:/x")]
    assert hosts == ["h", "::1", "h", "1.2.3.4", ""]
