"""Asking an exported version as serving would: raw columns in, scores out, over its tables and dense program."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from ringpull.inference.head.request.lookups import FeatureLookup
from ringpull.inference.model.dense_program import DenseProgram, Precision, ProgramTensor, load_program
from ringpull.inference.model.manifest import Manifest
from ringpull.inference.schema.columns import Column
from ringpull.inference.schema.schema import Schema
from ringpull.ps.hashing import keys_of
from ringpull.ps.spec import Float32Array, Pooling
from ringpull.ps.store.base import Base
from ringpull.ps.store.row_codec import decode
from ringpull.router.lookup import Lookup, LookupResult
from tests.reference import ReferenceTable, assert_close

_loaded: list[tuple[tuple[object, ...], DenseProgram]] = []
"""The program that was loaded last, behind its bytes and all of the manifest that it is held against."""


def load_once(folder: Path, manifest: Manifest, device: str, precision: Precision = "float32") -> DenseProgram:
    """Load a program, or return the one that was loaded last if it is of the same bytes: torch takes long to load one.

    An export's self-check, too, loads by this where tests of exports run: a test scores the very program of the check.
    """
    assert manifest.program is not None
    whole = (manifest.program.read(folder), manifest.runtime, manifest.inputs, manifest.outputs, manifest.tables)
    read = (*whole, device, precision)
    if manifest.program_data or not _loaded or _loaded[0][0] != read:
        _loaded[:] = [(read, load_program(folder, manifest, device, precision=precision))]
    return _loaded[0][1]


class Exported:
    """A version folder, with its tables read into reference tables."""

    def __init__(self, folder: Path) -> None:
        self.manifest = Manifest.load(folder)
        self.schema = Schema.from_json(self.manifest.schema.read(folder))
        self.program = load_once(folder, self.manifest, "cpu")
        self.tables: dict[str, ReferenceTable] = {}
        for entry in self.manifest.tables:
            base = Base.open(self.manifest.table_folder(folder, entry.spec.name), verify_rows=True)
            assert (base.spec, base.rows) == (entry.spec, entry.rows)
            rows = decode(base.raw_rows(0, base.rows), base.spec)
            keys = keys_of(np.array(base.positions_slice(0, base.rows)))
            default = base.spec.default_vector()
            self.tables[entry.spec.name] = ReferenceTable.from_arrays(keys, rows, default)

    def score(self, columns: Mapping[str, Column], rows: int) -> dict[str, Float32Array]:
        """Prepare, look up slowly, and run the dense program."""
        prepared = self.schema.prepare(columns, rows)
        inputs = []
        for entry in self.manifest.inputs:
            if entry.lookup is None:
                assert entry.argument is not None
                inputs.append(ProgramTensor(self.schema.arguments(prepared, [entry.argument])[entry.argument]))
                continue
            spec = self.manifest.lookups[entry.lookup]
            by = None if spec.kept_by is None else spec.kept_by.feature
            keeper = None if by is None else self.schema[by]
            bound = FeatureLookup(spec, self.schema[spec.feature], self.manifest.table(spec.table).spec, keeper)
            feature = prepared.features[spec.feature]
            lookup = bound.lookup(feature, None if by is None else prepared.features[by])
            inputs.append(ProgramTensor(bound.values(feature, self._pull(lookup))))
        return self.program.run(inputs, rows)

    def _pull(self, lookup: Lookup) -> LookupResult:
        table = self.tables[lookup.table]
        if lookup.pooling is Pooling.NONE:
            rows, found = table.pull(lookup.keys)
            return LookupResult(rows, int((~found).sum()), found)
        assert lookup.offsets is not None
        pooled = table.pull_bags(lookup.keys, lookup.offsets, lookup.pooling, lookup.weights)
        return LookupResult(pooled.astype(np.float32), 0)


@lru_cache(maxsize=1)
def _read(folder: Path, manifest: bytes) -> Exported:
    """Return a version, read once for all rows that it is asked: torch takes long to load a program."""
    return Exported(folder)


def exported_at(folder: Path) -> Exported:
    """Return the version of a folder, read anew only when another one is asked for, or its manifest has changed."""
    return _read(folder, (folder / "manifest.json").read_bytes())


def assert_equal(
    module: nn.Module,
    schema: Schema,
    folder: Path,
    columns: Mapping[str, Column],
    rows: int,
    served: Mapping[str, Column] | None = None,
) -> None:
    """Assert that a version scores rows as its module does; `served` holds columns of raw ids, where they differ."""
    made = schema.argument_names()
    parameters = [name for name in inspect.signature(module.forward).parameters if name in made]
    arguments = schema.arguments(schema.prepare(columns, rows), parameters)
    with torch.no_grad():
        expected = tree_leaves(module.eval()(**{name: torch.tensor(values) for name, values in arguments.items()}))
    scores = exported_at(folder).score({**columns, **(served or {})}, rows)
    for (name, actual), leaf in zip(scores.items(), expected, strict=True):
        assert actual.dtype == np.float32, name
        assert_close(actual, leaf.numpy(), largest=10.0)
