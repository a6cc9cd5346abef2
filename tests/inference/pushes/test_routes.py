"""What a head answers to whoever asks how to push to shards themselves: the route, or why there is none."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import grpc
import pytest

from ringpull.inference.head.catalog import Catalog
from ringpull.inference.head.config import HeadConfig
from ringpull.inference.head.frontends.writer.service import host_of_peer
from ringpull.inference.head.push_routes import PushRoutes, why_closed
from ringpull.inference.head.tokens.entries import parse_tokens
from ringpull.inference.head.tokens.settings import TokenSettings
from ringpull.inference.head.tokens.tokens import Tokens
from ringpull.inference.proto import writer_pb2 as pb
from ringpull.inference.push_route import PushRoute
from ringpull.ps.errors import UnmetCondition
from ringpull.ps.ring import Ring
from ringpull.ps.tls import TlsFiles
from ringpull.router.shard_map import ShardAddress, ShardMap
from tests.inference.pushes.test_writer import IDENTITY, LIVE, SPECS, serving
from tests.inference.served import Served

pytestmark = pytest.mark.net

MAP = ShardMap(5, (ShardAddress(0, "127.0.0.1", 7, "i1"),), Ring.even([0]), {}, deployment="d", term=2)


@pytest.fixture
async def feed() -> AsyncIterator[Served]:
    async for served in serving():
        served.router.map = MAP
        yield served


async def asked(served: Served, model: str = "feed", **known: int) -> pb.RouteResponse:
    body = pb.RouteRequest(model=model, **known).SerializeToString()
    return pb.RouteResponse.FromString(await served.raw("/ringpull.v1.Writer/Route", body))


async def test_the_route_to_the_live_lineage(feed: Served) -> None:
    told = await asked(feed)
    assert (told.reason, told.same, told.lineage, told.version) == ("", False, IDENTITY, 4)
    route = PushRoute.of(model="feed", version=4, lineage=told.lineage, tables=told.tables, packed_map=told.shard_map)
    assert route.shard_map == MAP
    assert route.specs == {name: SPECS[name] for name in LIVE}
    assert (await asked(feed, term=2, epoch=5, version=4)) == pb.RouteResponse(same=True)
    for known in ({"term": 2, "epoch": 4, "version": 4}, {"term": 2, "epoch": 5, "version": 3}):
        assert (await asked(feed, **known)).lineage == IDENTITY


async def test_there_is_none_of_what_is_not_there(feed: Served) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        await asked(feed, "other")
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    feed.router.map = None
    with pytest.raises(grpc.RpcError) as caught:
        await asked(feed)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_whoever_has_to_show_a_token_goes_through_a_head() -> None:
    entries = parse_tokens('[[token]]\nname = "w"\ntoken = "s3cret-w-0123456789"\nroles = ["write"]\n', "tokens")
    async for served in serving(access=Tokens(TokenSettings(entries=entries))):
        served.router.map = MAP
        body, shown = pb.RouteRequest(model="feed").SerializeToString(), "Bearer s3cret-w-0123456789"
        answer = await served.raw("/ringpull.v1.Writer/Route", body, metadata=[("authorization", shown)])
        assert "asked who they are" in pb.RouteResponse.FromString(answer).reason
        with pytest.raises(grpc.RpcError) as caught:
            await asked(served)
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_the_way_may_be_turned_off() -> None:
    async for served in serving(config=HeadConfig(straight_pushes=False)):
        served.router.map = MAP
        assert await asked(served) == pb.RouteResponse(reason="it is turned off (--straight-pushes off)")


def test_why_the_way_is_closed() -> None:
    assert why_closed(HeadConfig()) == ""
    assert "tokens" in why_closed(HeadConfig(tokens=TokenSettings(file="tokens.toml")))
    assert "--tls-cert" in why_closed(HeadConfig(tls=TlsFiles(cert="cert.pem", key="key.pem")))


async def test_shards_of_one_machine_are_told_to_callers_of_it_alone(feed: Served) -> None:
    routes = PushRoutes(Catalog([feed.version]), HeadConfig())
    for here in ("", "127.0.0.1", "::1"):
        assert routes.route("feed", here).shard_map == MAP
    with pytest.raises(UnmetCondition, match="shard 0 is reached from its own machine only"):
        routes.route("feed", "10.1.2.3")
    feed.router.map = replace(MAP, shards=(ShardAddress(0, "10.0.0.7", 7),))
    assert routes.route("feed", "10.1.2.3").shard_map is feed.router.map


@pytest.mark.parametrize(
    ("peer", "host"),
    [
        ("ipv4:10.1.2.3:4711", "10.1.2.3"),
        ("ipv6:[::1]:4711", "::1"),
        ("ipv6:%5Bfe80::1%25eth0%5D:4711", "fe80::1"),
        ("unix:", ""),
        ("unix:/run/x", ""),
    ],
)
def test_the_host_of_a_peer(peer: str, host: str) -> None:
    assert host_of_peer(peer) == host
