"""The pull of a micro-batch as the head would ask for it: the DLRM's 26 look-ups, all in one generated table.

Per request 13 bags of the user and 13 x 128 of the candidates, 10 uniform keys each.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import numpy as np

from ringpull.inference.head.head import connect
from ringpull.loadtest.bench.bare_shards import MODEL, TABLE, VERSION, BareShards
from ringpull.loadtest.bench.dlrm_requests import BAG, CANDIDATES
from ringpull.loadtest.bench.tables import keys_of
from ringpull.loadtest.dlrm import CANDIDATE_TABLES, CONTEXT_TABLES
from ringpull.ps.spec import Pooling, TableSpec
from ringpull.router.client import Router
from ringpull.router.counters import RouterCounters
from ringpull.router.lookup import Lookup

LOOKUPS = CONTEXT_TABLES + CANDIDATE_TABLES
BAGS = CONTEXT_TABLES + CANDIDATE_TABLES * CANDIDATES
"""Bags of one request."""


@asynccontextmanager
async def router_of(up: BareShards, spec: TableSpec) -> AsyncIterator[Router]:
    """Connect a router to shards that serve the generated table."""
    router = Router(connect)
    router.update(up.shard_map)
    router.register(MODEL, VERSION, {TABLE: spec})
    yield router
    await router.close()


def moved_bytes(before: RouterCounters, after: RouterCounters) -> int:
    """Return the bytes that a router sent and received between two looks at its counters."""
    return after.sent_bytes - before.sent_bytes + after.received_bytes - before.received_bytes


def dlrm_lookups(rng: np.random.Generator, rows: int, requests: int) -> list[Lookup]:
    """Return the look-ups of a batch of `requests` requests in a table of `rows` rows."""
    bags = [requests] * CONTEXT_TABLES + [requests * CANDIDATES] * CANDIDATE_TABLES
    return [_lookup(rng, rows, count, BAG) for count in bags]


def tiny_lookups(rng: np.random.Generator, rows: int) -> list[Lookup]:
    """Return as many look-ups, of one bag of one key each: what a pull costs before it carries anything."""
    return [_lookup(rng, rows, 1, 1) for _ in range(LOOKUPS)]


def _lookup(rng: np.random.Generator, rows: int, bags: int, bag: int) -> Lookup:
    keys = keys_of(rng.integers(0, rows, bags * bag))
    return Lookup(TABLE, Pooling.SUM, keys, np.arange(0, bags * bag + 1, bag))
