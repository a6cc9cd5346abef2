"""Planned tables: the planner's input, made from model folders or a deployment, with counted or assumed traffic."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from ringpull.inference.model.manifest import LookupSpec, Manifest
from ringpull.inference.model.mirror import local_files
from ringpull.inference.schema.kinds import Feature, IdSequence, Sparse
from ringpull.inference.schema.schema import Schema
from ringpull.ps.errors import InvalidInput
from ringpull.ps.spec import ALL, Pooling
from ringpull.router.control.deployment_spec import PlacedTable, PlacedVersion
from ringpull.router.control.operations import DeploymentStatus
from ringpull.router.control.planner import PlannedTable
from ringpull.router.control.traffic import TableLoad, load_of

ASSUMED_ROWS: Final = 128
"""Number of candidates in a request, if the traffic is not known."""
ASSUMED_BAG: Final = 10
"""Number of ids in a bag, if the traffic is not known."""
PROCESS_BYTES: Final = 128 << 20
"""Memory of a shard's process without tables: Python, compiled kernels, Ray's worker. Measured: 119 to 123 MiB."""
VECTOR_NUMBER_BYTES: Final = 4
"""Size of one number of a partial, which is float32 whatever the row type."""


def planned_tables(
    versions: Sequence[PlacedVersion],
    traffic: Mapping[str, TableLoad] | None,
    *,
    min_copies: int = 1,
    open_versions: int = 1,
    others: bool = False,
    one_machine: bool = False,
) -> list[PlannedTable]:
    """Return every table of the versions with its load.

    Args:
        traffic: `TABLE` or `MODEL/TABLE` -> load; a table not named is not looked up. None: assumed from the models.
        min_copies: Lower bound on the copies of every table.
        open_versions: Number of versions of each model open side by side.
        others: Whether `traffic` may name tables of other models.
        one_machine: Whether all shards are of the heads' machine, which then read the tables themselves.

    Raises:
        InvalidInput: `traffic` names no table, or a name of several.
        CorruptData: A version is damaged.
        Unavailable: A version's URL cannot be read now.
    """
    with ExitStack() as copies:
        folders = [copies.enter_context(local_files(version.folder)) for version in versions]
        manifests = [Manifest.load(folder, check_name=False) for folder in folders]
        loads = _assumed(folders, manifests) if traffic is None else _named(manifests, traffic, others)
    return [
        PlannedTable(
            name=(name := f"{manifest.model}/{entry.spec.name}"),
            **_size_of(version.tables[entry.spec.name]),
            vector_bytes=_reply_bytes(entry.spec.dim, entry.row_bytes),
            load=loads.get(name, TableLoad(0, 0)),
            min_copies=min_copies,
            versions=open_versions,
            read_here=float(one_machine and not _asked_only(version, entry.spec.name)),
            asked_only=_asked_only(version, entry.spec.name),
        )
        for version, manifest in zip(versions, manifests, strict=True)
        for entry in manifest.tables
    ]


def tables_that_serve(
    status: DeploymentStatus,
    dims: Mapping[str, int],
    *,
    shards: int | None = None,
    drained: str = "",
    min_copies: int | None = None,
) -> list[PlannedTable]:
    """Return the tables of a deployment, with the load that was counted since its heads started.

    Args:
        dims: `MODEL/TABLE` -> numbers per row, of the live versions.
        shards: Number of shards that there are to be; None: as now.
        drained: Id of the node that shards are to leave.
        min_copies: Lower bound on the copies of every table; None: its present number, with `all` counting as one.
    """
    loads = load_of(status.traffic, status.requests)
    shares = _shares_read_here(status, shards or len(status.spec.shards), drained)
    found = []
    for model, number in sorted(status.spec.live.items()):
        live = status.spec.version(model, number)
        of_model = [version for version in status.spec.versions if version.model == model]
        for table, placed in {} if live is None else live.tables.items():
            name, copies = f"{model}/{table}", status.spec.replicas.get((model, table), 1)
            has = 1 if copies == ALL else copies
            found.append(
                PlannedTable(
                    name=name,
                    **_size_of(placed),
                    vector_bytes=_reply_bytes(dims[name], placed.row_bytes),
                    load=loads.get(name, TableLoad(0, 0)),
                    min_copies=has if min_copies is None else min_copies,
                    versions=_bases(of_model, table),
                    read_here=shares.get(name, 0.0),
                    asked_only=live is not None and _asked_only(live, table),
                )
            )
    return found


def heads_have_shards_beside_them(status: DeploymentStatus) -> bool:
    """Return whether heads answer keys from files of their own machine: they do where a shard serves from these."""
    return any(counted.here for counted in status.traffic.values())


def _asked_only(version: PlacedVersion, table: str) -> bool:
    """Return whether heads leave a table to shards: what takes pushes or has deltas is nowhere in files alone."""
    return table in version.live_tables or version.tables[table].deltas > 0


def _shares_read_here(status: DeploymentStatus, shards: int, drained: str) -> dict[str, float]:
    """Return the share of each table's keys that heads will answer themselves, with however many copies but `all`.

    Counts are of all the time since heads started, with other copies and other shards in it: a table that was on every
    shard was read whole. So they tell which tables heads read themselves, and how much of one that is partitioned at
    most; and no share is above that of the shards on one node. On which one heads are is not known: it is taken for the
    one with most shards, to which none of the new ones come.
    """
    counted = {name: each.here / each.keys if each.keys else 0.0 for name, each in status.traffic.items()}
    there = Counter(node for node in status.nodes.values() if node != drained)
    most = min(1.0, max(there.values(), default=0) / shards)
    return {name: min(share, most) for name, share in counted.items()}


def _size_of(table: PlacedTable) -> dict[str, int]:
    """Return what of a planned table says how large it is: deltas take memory besides the base."""
    return {
        "rows": table.rows + table.newer_rows,
        "row_bytes": table.row_bytes,
        "newer_rows": table.newer_rows,
        "deltas": table.deltas,
    }


def _bases(versions: Sequence[PlacedVersion], name: str) -> int:
    """Return how many bases a table has in these versions: those that follow another one share its."""
    tables = [(version, version.tables[name]) for version in versions if name in version.tables]
    return len({(table.origin or version.version, table.identity) for version, table in tables})


def _reply_bytes(dim: int, row_bytes: int) -> int:
    """Return the bytes of a row in a reply: of a vector, or of a usual row of bytes."""
    return VECTOR_NUMBER_BYTES * dim or max(VECTOR_NUMBER_BYTES, row_bytes)


def _named(manifests: Sequence[Manifest], traffic: Mapping[str, TableLoad], others: bool) -> dict[str, TableLoad]:
    names = [
        (f"{manifest.model}/{entry.spec.name}", entry.spec.name) for manifest in manifests for entry in manifest.tables
    ]
    loads = {}
    for given, load in traffic.items():
        found = [full for full, short in names if given in (full, short)]
        if not found and others:
            continue
        if not found:
            raise InvalidInput(f"traffic: there is no table {given}; there is {', '.join(full for full, _ in names)}")
        if len(found) > 1:
            raise InvalidInput(f"traffic: {given} could be {' and '.join(found)}; write MODEL/TABLE")
        loads[found[0]] = load
    return loads


def _assumed(folders: Sequence[Path], manifests: Sequence[Manifest]) -> dict[str, TableLoad]:
    """Return the look-ups of a request of `ASSUMED_ROWS` candidates in which no feature is a context feature."""
    loads: dict[str, TableLoad] = {}
    for folder, manifest in zip(folders, manifests, strict=True):
        if manifest.schema is None:
            continue  # Nobody can tell what will be asked of tables alone.
        schema = Schema.from_json(manifest.schema.read(folder))
        features = {feature.name: feature for feature in schema.features}
        for lookup in manifest.lookups:
            name = f"{manifest.model}/{lookup.table}"
            keys, bags = _of_one_row(lookup, features[lookup.feature])
            known = loads.get(name, TableLoad(0, 0))
            loads[name] = TableLoad(known.keys + keys * ASSUMED_ROWS, known.bags + bags * ASSUMED_ROWS)
    return loads


def _of_one_row(lookup: LookupSpec, feature: Feature) -> tuple[int, int]:
    """Return the number of keys and bags of one row."""
    if isinstance(feature, IdSequence):
        keys = feature.length
    elif isinstance(feature, Sparse) and feature.many:
        keys = min(ASSUMED_BAG, feature.max_length or ASSUMED_BAG)
    else:
        keys = 1
    return keys, keys if lookup.pooling is Pooling.NONE else 1
