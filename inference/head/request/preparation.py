"""The first stage of a micro-batch: the columns of its requests become ids and numbers, those of one layout together.

What a degradation leaves out is left out here, so later stages see a smaller request and nothing else.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final

import numpy as np

from ringpull.inference.head.batcher import Ready
from ringpull.inference.head.request.batch import RequestBatch
from ringpull.inference.head.request.degraded import prepare_degraded
from ringpull.inference.head.request.direct_ids import DirectColumns, DirectIds
from ringpull.inference.head.request.id_limits import IdLimits
from ringpull.inference.head.request.received import Limits, ReceivedColumns
from ringpull.inference.model.manifest import Manifest
from ringpull.inference.schema.columns import Column, Ragged
from ringpull.inference.schema.features import PreparedRequests
from ringpull.inference.schema.kinds import MAX_WIDTH, Dense, IdSequence, Sparse
from ringpull.inference.schema.schema import Schema
from ringpull.ps.errors import CorruptData

_PLAIN_ROWS: Final = 2
"""Rows of a plain request, more than one: exported programs treat one row specially."""


class Preparation:
    """Prepares requests for one model version, on the event loop."""

    def __init__(self, manifest: Manifest, schema: Schema) -> None:
        """Bind the manifest's limits of ids to the schema.

        Raises:
            CorruptData: They do not fit; the message names the feature.
        """
        self._name = f"{manifest.model}/{manifest.version}"
        self._version = manifest.version
        self._schema = schema
        self._looked_up = frozenset(each.feature for each in manifest.lookups)
        self._limits = IdLimits.of(manifest, schema)
        self._direct = DirectColumns(schema, self._looked_up, manifest.limits)

    def __repr__(self) -> str:
        return f"Preparation({self._name})"

    def prepare(self, requests: Sequence[ReceivedColumns]) -> Ready[RequestBatch]:
        """Prepare the requests of a batch, those of one layout and level as one; what one breaks, it breaks alone.

        Refused with `InvalidInput`: columns that do not fit the schema, and ids that the model does not take; the
        message names the feature.
        """
        alike: dict[tuple[int, int], list[int]] = {}
        for place, request in enumerate(requests):
            alike.setdefault((id(request.layout), id(request.degradation)), []).append(place)
        groups: list[PreparedRequests] = []
        direct: list[DirectIds | None] = []
        order: list[int] = []
        refused: dict[int, Exception] = {}
        waiting = deque(alike.values())
        while waiting:
            places = waiting.popleft()
            try:
                prepared, ids = self._prepared([requests[place] for place in places])
                held = self._limits.held(prepared, () if ids is None else ids.features.places)
            except Exception as error:
                if len(places) == 1:
                    refused[places[0]] = error
                else:
                    waiting.extend([place] for place in places)
                continue
            if held.refused:
                refused.update({places[each]: error for each, error in held.refused.items()})
                if left := [place for each, place in enumerate(places) if each not in held.refused]:
                    waiting.append(left)
            else:
                groups.append(held.prepared)
                direct.append(ids)
                order += places
        return Ready(RequestBatch(groups, order, direct), refused)

    def plain_batch(self) -> RequestBatch:
        """Return a batch of two plain requests: zeros and empty strings, one to each bag and sequence.

        None is empty, nor padding throughout, as models may fail on that: who sends it is told so, and others are
        served. Ids that the model does not take are replaced by one that it takes.

        Vocabularies build their look-up tables at first use, which takes seconds with millions of ids: this is it.

        Raises:
            CorruptData: The schema refuses what every schema takes.
        """
        request = ReceivedColumns.of_columns(_plain_columns(self._schema), {}, Limits(_PLAIN_ROWS, MAX_WIDTH))
        try:
            prepared, ids = self._prepared([request, request])
            group = self._limits.within(prepared, () if ids is None else ids.features.places)
        except Exception as error:
            raise CorruptData(f"{self._name}: its schema refuses a plain request: {error}") from error
        return RequestBatch([group], [0, 1], [ids])

    def _prepared(self, requests: Sequence[ReceivedColumns]) -> tuple[PreparedRequests, DirectIds | None]:
        """Return requests of one layout prepared, and what of them need not be."""
        joined = ReceivedColumns.joined(requests)
        if joined.degradation is not None:
            return prepare_degraded(self._schema, joined, self._looked_up, self._version), None
        direct = self._direct.of(joined.layout)
        ids = None if direct is None else DirectIds.of(direct, joined)
        if direct is None or ids is None or not ids.within_limits():
            return self._schema.prepare_requests(*joined.columns(), joined.row_counts), None
        columns = joined.columns(direct.other_columns)
        return self._schema.prepare_requests(*columns, joined.row_counts, direct.others), ids


def _plain_columns(schema: Schema) -> dict[str, Column]:
    columns: dict[str, Column] = {}
    for feature in schema.features:
        if isinstance(feature, Dense):
            columns[feature.name] = np.zeros((_PLAIN_ROWS, feature.width), np.float32)
        elif isinstance(feature, Sparse | IdSequence):
            zeros = np.full(_PLAIN_ROWS, _plain_id(feature), object if feature.dtype == "string" else feature.dtype)
            if isinstance(feature, Sparse) and not feature.many:
                columns[feature.name] = zeros
            else:
                weighted = isinstance(feature, Sparse) and feature.weighted
                weights = np.ones(_PLAIN_ROWS, np.float32) if weighted else None
                columns[feature.name] = Ragged(zeros, np.arange(_PLAIN_ROWS + 1), weights)
    return columns


def _plain_id(feature: Sparse | IdSequence) -> int | str:
    """Return the plainest id that is none of padding, by which models count how many ids there are."""
    if feature.dtype == "string":
        return ""
    return 1 if isinstance(feature, IdSequence) and feature.pad == 0 else 0
