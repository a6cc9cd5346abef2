"""The pull of a micro-batch as the head would ask for it: the DLRM's 26 look-ups, all in one generated table.

Per request 13 bags of the user and 13 x 128 of the candidates, 10 uniform keys each.
"""

from __future__ import annotations

import numpy as np

from ringpull.loadtest.bench import dlrm
from ringpull.loadtest.bench.bare_shards import TABLE
from ringpull.loadtest.bench.tables import keys_of
from ringpull.ps.spec import Pooling
from ringpull.router.lookup import Lookup

LOOKUPS = dlrm.CONTEXT_TABLES + dlrm.CANDIDATE_TABLES


def dlrm_lookups(rng: np.random.Generator, rows: int, requests: int) -> list[Lookup]:
    """Return the look-ups of a batch of `requests` requests in a table of `rows` rows."""
    bags = [requests] * dlrm.CONTEXT_TABLES + [requests * dlrm.CANDIDATES] * dlrm.CANDIDATE_TABLES
    return [_lookup(rng, rows, count, dlrm.BAG) for count in bags]


def tiny_lookups(rng: np.random.Generator, rows: int) -> list[Lookup]:
    """Return as many look-ups, of one bag of one key each: what a pull costs before it carries anything."""
    return [_lookup(rng, rows, 1, 1) for _ in range(LOOKUPS)]


def _lookup(rng: np.random.Generator, rows: int, bags: int, bag: int) -> Lookup:
    keys = keys_of(rng.integers(0, rows, bags * bag))
    return Lookup(TABLE, Pooling.SUM, keys, np.arange(0, bags * bag + 1, bag))
