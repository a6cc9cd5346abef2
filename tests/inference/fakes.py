"""A router and a dense program without processes or torch: what the head's own code is tested with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ringpull.inference.model.dense_program import ProgramTensor
from ringpull.ps.hashing import positions_of
from ringpull.ps.spec import Pooling
from ringpull.router.lookup import Absent, Lookup, LookupResult
from tests.reference import ReferenceTable


class ReferenceRouter:
    """Answers pulls from reference tables, and remembers what was asked."""

    def __init__(self, tables: Mapping[str, ReferenceTable]) -> None:
        self.tables = dict(tables)
        self.pulls: list[Sequence[Lookup]] = []
        self.lost: dict[str, int] = {}
        """Table -> keys that its look-ups report as lost."""

    async def pull(
        self, model: str, version: int, lookups: Sequence[Lookup], *, deadline_s: float, max_reply_bytes: int = 0
    ) -> list[LookupResult]:
        self.pulls.append(lookups)
        return [self._answer(lookup) for lookup in lookups]

    def _answer(self, lookup: Lookup) -> LookupResult:
        table = self.tables[lookup.table]
        rows, found = table.pull(lookup.keys)
        missing, lost = int((~found).sum()), self.lost.get(lookup.table, 0)
        if lookup.pooling is Pooling.NONE:
            return LookupResult(rows, missing, found, lost)
        assert lookup.offsets is not None
        pooled = table.pull_bags(lookup.keys, lookup.offsets, lookup.pooling, lookup.weights)
        bags = np.repeat(np.arange(lookup.outputs), np.diff(lookup.offsets))
        absent = Absent(bags[~found], positions_of(lookup.keys[~found])) if missing else None
        return LookupResult(pooled.astype(np.float32), missing, None, lost, absent=absent)


class EchoProgram:
    """Gives every input back as an output `input0`, `input1`, ..., one row per batch row."""

    def __init__(self) -> None:
        self.runs: list[tuple[Sequence[ProgramTensor], int]] = []
        self.device = "cpu"
        self.writer = ""

    def run(self, inputs: Sequence[ProgramTensor], rows: int) -> dict[str, NDArray[np.float32]]:
        self.runs.append((inputs, rows))
        outputs = {}
        for place, tensor in enumerate(inputs):
            values = tensor.values if tensor.row_index is None else tensor.values[tensor.row_index]
            assert len(values) == rows, f"input {place} has {len(values)} rows of {rows}"
            outputs[f"input{place}"] = values.astype(np.float32)
        return outputs
