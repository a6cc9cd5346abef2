"""A tiny model that can be served, made by hand, and its answers worked out with the slow reference.

    score = sum of the user's row + sum of the rows of the genres

Keys of `user` are 0 to rows - 1; key k's row is k / 8, four times. Genres are strings.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from ringpull import Schema, Sparse
from ringpull.inference.model.manifest import FileEntry, LookupSpec, Manifest, ProgramInput, ProgramOutput, TableEntry
from ringpull.ps.spec import KeyType, OnUnavailable, Pooling, Replicas, TableSpec
from ringpull.ps.store.writer import TableWriter

DIM = 4
GENRES = {"drama": 1.0, "crime": 2.0, "comedy": -3.0}


class Sum(torch.nn.Module):
    def forward(self, user: torch.Tensor, genres: torch.Tensor) -> tuple[torch.Tensor]:
        return (user.sum(dim=1) + genres.sum(dim=1),)


def write_model(
    model_dir: Path,
    version: int = 1,
    *,
    rows: int = 1000,
    user_replicas: Replicas = 1,
    user_on_unavailable: OnUnavailable = OnUnavailable.ERROR,
    factor: float = 1.0,
) -> Path:
    """Write `model_dir/version/`; return `model_dir`.

    Args:
        factor: Of the user's rows: with another one it is other content.
    """
    folder = model_dir / str(version)
    folder.mkdir(parents=True)
    schema = Schema([Sparse("user_id"), Sparse("genres", dtype="string", many=True, missing=())])
    (folder / "schema.json").write_text(schema.to_json())
    batch = torch.export.Dim("batch", min=2, max=1 << 20)
    example = (torch.zeros(3, DIM), torch.zeros(3, DIM))
    torch.export.save(
        torch.export.export(Sum(), example, dynamic_shapes=({0: batch}, {0: batch})), folder / "dense.pt2"
    )
    user = TableSpec(name="user", dim=DIM, replicas=user_replicas, on_unavailable=user_on_unavailable)
    genre = TableSpec(name="genre", dim=DIM, key_type=KeyType.STRING)
    with TableWriter(folder / "user", user) as writer:
        writer.add(np.arange(rows), np.repeat(np.arange(rows, dtype=np.float32) / 8 * factor, DIM).reshape(rows, DIM))
        writer.finish()
    with TableWriter(folder / "genre", genre) as writer:
        writer.add(list(GENRES), np.repeat(np.array(list(GENRES.values()), np.float32), DIM).reshape(-1, DIM))
        writer.finish()
    Manifest(
        model=model_dir.name,
        version=version,
        created="2026-01-01T00:00:00+00:00",
        schema=FileEntry.of(folder, "schema.json"),
        program=FileEntry.of(folder, "dense.pt2"),
        tables=(_entry(folder, user, rows), _entry(folder, genre, len(GENRES))),
        lookups=(
            LookupSpec(table="user", feature="user_id", pooling=Pooling.SUM),
            LookupSpec(table="genre", feature="genres", pooling=Pooling.SUM),
        ),
        inputs=(ProgramInput(kind="lookup", lookup=0), ProgramInput(kind="lookup", lookup=1)),
        outputs=(ProgramOutput(name="score", shape=()),),
    ).save(folder)
    return model_dir


def score(user: int, genres: Sequence[str], *, rows: int = 1000) -> float:
    """What the model says; unknown ids count as zeros."""
    known = user / 8 if 0 <= user < rows else 0.0
    return DIM * (known + sum(GENRES.get(genre, 0.0) for genre in genres))


def _entry(folder: Path, spec: TableSpec, rows: int) -> TableEntry:
    size = sum(path.stat().st_size for path in (folder / spec.name).iterdir())
    return TableEntry(spec=spec, path=spec.name, rows=rows, bytes=size)
