"""Options of one table in an export."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ringpull.ps.errors import InvalidInput
from ringpull.ps.spec import VECTOR_TYPES, OnUnavailable, Replicas, RowType


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TableOptions:
    """Options of one table in a deployment; only `row_type` changes what known ids give."""

    replicas: Replicas = 1
    """Copies of the table; 1 in a delta: as many as the version before says."""
    default: Literal["zeros", "mean"] | NDArray[np.float32] | None = None
    """Vector of unknown ids: zeros, the mean of all rows, or float32 (dim,). None: zeros; for a table keyed by a
    Vocabulary row 0, which is what the model has for unknown ids."""
    on_unavailable: Literal["error", "default"] = "error"
    """Answer when no live shard has a key: fail, or use the default vector and say so; "error" in a delta: as the
    version before says."""
    row_type: str | None = None
    """Storage type of rows, a value of `RowType`; None: float16 or bfloat16 where that is the weight's own type, else
    float32. Shorter ones than the weight's round, and the report says at what cost; default vectors stay float32."""
    live: bool = False
    """Whether rows of the table may be pushed while it is served; `ringpull serve --live` says so, too."""


def check_options(options: Mapping[str, TableOptions]) -> None:
    """Check options of tables, by name, which a caller may have written by hand.

    Raises:
        InvalidInput: They are none, or one names no policy.
    """
    for table, each in options.items():
        if not isinstance(each, TableOptions):
            raise InvalidInput(f"table {table}: its options are {type(each).__name__}; they must be TableOptions(...)")
        if each.on_unavailable not in tuple(OnUnavailable):
            known = ", ".join(OnUnavailable)
            raise InvalidInput(f"table {table}: on_unavailable is {each.on_unavailable!r}; it must be one of {known}")
        if not isinstance(each.live, bool):
            raise InvalidInput(f"table {table}: live is {each.live!r}; it must be True or False")


def row_type_of(table: str, options: TableOptions, own: RowType = RowType.FLOAT32) -> RowType:
    """Return the row type that a table's options name, or its own.

    Raises:
        InvalidInput: There is no such type of vectors.
    """
    if options.row_type is None:
        return own
    if options.row_type not in VECTOR_TYPES:
        known = ", ".join(VECTOR_TYPES)
        raise InvalidInput(f"table {table}: row_type is {options.row_type!r}; it must be one of {known}")
    return RowType(options.row_type)
