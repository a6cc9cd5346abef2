"""The saved form of the coordinator's state: plain JSON values, with a format version."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from ringpull.ps.errors import CorruptData, InvalidInput
from ringpull.ps.ring import Ring
from ringpull.ps.spec import OnUnavailable
from ringpull.router.control.change import Change, CoordinatorState, Kind, Outcome, Phase
from ringpull.router.control.deployment_spec import DeploymentSpec, PlacedTable, PlacedVersion
from ringpull.router.shard_map import ShardMap

FORMAT: Final = 4


def state_to_dict(state: CoordinatorState) -> dict[str, Any]:
    """Return plain JSON values; `state_from_dict` reads them back."""
    return {
        "format": FORMAT,
        "heads": list(state.heads),
        "world": None if state.spec is None else spec_to_dict(state.spec),
        "world_id": state.spec_id,
        "change": None if state.change is None else _from_change(state.change),
        "leaving": sorted(state.leaving),
        "epoch": state.epoch,
        "map": None if state.map is None else state.map.to_dict(),
        "outcome": None if state.outcome is None else _from_outcome(state.outcome),
        "last_id": state.last_id,
    }


def state_from_dict(fields: Mapping[str, Any]) -> CoordinatorState:
    """Read what `state_to_dict` wrote.

    Raises:
        CorruptData: A field is missing or wrong, or another format wrote it.
    """
    try:
        if fields["format"] != FORMAT:
            raise CorruptData(f"coordinator state has format {fields['format']!r}; this build reads {FORMAT}")
        return CoordinatorState(
            heads=tuple(int(head) for head in fields["heads"]),
            spec=None if fields["world"] is None else spec_from_dict(fields["world"]),
            spec_id=int(fields["world_id"]),
            change=None if fields["change"] is None else _to_change(fields["change"]),
            leaving=frozenset(int(shard) for shard in fields["leaving"]),
            epoch=int(fields["epoch"]),
            map=None if fields["map"] is None else ShardMap.from_dict(fields["map"]),
            outcome=None if fields["outcome"] is None else _to_outcome(fields["outcome"]),
            last_id=int(fields["last_id"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError, InvalidInput) as exc:
        raise CorruptData(f"coordinator state cannot be read: {type(exc).__name__}: {exc}") from exc


def spec_to_dict(spec: DeploymentSpec) -> dict[str, Any]:
    return {
        "ring": spec.ring.to_dict(),
        "replicas": [[model, table, replicas] for (model, table), replicas in spec.replicas.items()],
        "versions": [
            {
                "model": version.model,
                "version": version.version,
                "folder": version.folder,
                "tables": {
                    name: [table.folder, table.replicas, table.rows, table.row_bytes, table.on_unavailable.value]
                    for name, table in version.tables.items()
                },
            }
            for version in spec.versions
        ],
        "live": dict(spec.live),
    }


def spec_from_dict(fields: Mapping[str, Any]) -> DeploymentSpec:
    return DeploymentSpec(
        ring=Ring.from_dict(fields["ring"]),
        replicas={(str(model), str(table)): replicas for model, table, replicas in fields["replicas"]},
        versions=tuple(
            PlacedVersion(
                str(version["model"]),
                int(version["version"]),
                str(version["folder"]),
                {
                    str(name): PlacedTable(str(folder), replicas, int(rows), int(row_bytes), OnUnavailable(policy))
                    for name, (folder, replicas, rows, row_bytes, policy) in version["tables"].items()
                },
            )
            for version in fields["versions"]
        ),
        live={str(model): int(version) for model, version in fields["live"].items()},
    )


def _from_change(change: Change) -> dict[str, Any]:
    return {
        "id": change.id,
        "kind": change.kind.value,
        "subject": change.subject,
        "target": spec_to_dict(change.target),
        "phase": change.phase.value,
        "paused": change.paused,
        "bytes_per_s": change.bytes_per_s,
        "nodes": [[shard, node] for shard, node in change.nodes.items()],
    }


def _to_change(fields: Mapping[str, Any]) -> Change:
    limit = fields["bytes_per_s"]
    return Change(
        id=int(fields["id"]),
        kind=Kind(fields["kind"]),
        subject=str(fields["subject"]),
        target=spec_from_dict(fields["target"]),
        phase=Phase(fields["phase"]),
        paused=bool(fields["paused"]),
        bytes_per_s=None if limit is None else float(limit),
        nodes={int(shard): str(node) for shard, node in fields["nodes"]},
    )


def _from_outcome(outcome: Outcome) -> dict[str, Any]:
    return {"id": outcome.id, "kind": outcome.kind.value, "subject": outcome.subject, "error": outcome.error}


def _to_outcome(fields: Mapping[str, Any]) -> Outcome:
    return Outcome(int(fields["id"]), Kind(fields["kind"]), str(fields["subject"]), str(fields["error"]))
