"""The specification of a table: its name, the shape and type of its rows, and the vector of keys without a row.

A `TableSpec` is a value: it is written into a table's header at export, and never changes afterwards. How often a table
is replicated is a deployment's choice, not the table's; the spec carries only the exporter's wish.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from ringpull.ps.errors import InvalidInput

NAME_PATTERN: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")

MAX_DIM: Final = 65_536

MAX_BYTES_ROW: Final = 1 << 20
"""Bytes of the longest row of a bytes table: what a block of a table, of a stream and of a copy is made for."""

Float32Array = NDArray[np.float32]
UInt64Array = NDArray[np.uint64]

ALL: Final = "all"
"""Number of replicas that means: every shard stores all of the table."""

Replicas = int | Literal["all"]


AFFINE_BYTES: Final = 8
"""Bytes before the codes of an int8 row: its float32 scale and offset."""


class RowType(StrEnum):
    """Storage format of a row (`ringpull.ps.store.row_codec`). Pooling always sums in float32."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"
    INT8 = "int8"
    """uint8 codes with a float32 scale and offset per row."""
    BYTES = "bytes"
    """Bytes of any length up to `MAX_BYTES_ROW`, which are no numbers: never pooled."""


VECTOR_TYPES: Final = tuple(row_type for row_type in RowType if row_type is not RowType.BYTES)
"""Row types that are vectors of `dim` numbers."""


_NUMBER_BYTES: Final = {RowType.FLOAT32: 4, RowType.FLOAT16: 2, RowType.BFLOAT16: 2}


class KeyType(StrEnum):
    """Type of the exporter's keys before they became uint64."""

    INT64 = "int64"
    UINT64 = "uint64"
    STRING = "string"


class Pooling(StrEnum):
    """Reduction of the rows of one bag. NONE keeps every row."""

    SUM = "sum"
    MEAN = "mean"
    MAX = "max"
    NONE = "none"


class OnUnavailable(StrEnum):
    """Policy of a pull when no live shard serves a key: fail, or use the default vector and count the key as lost."""

    ERROR = "error"
    DEFAULT = "default"


@dataclass(frozen=True, slots=True, kw_only=True)
class TableSpec:
    """The fixed properties of one table."""

    name: str
    """A folder name: letters, digits, `_`, `-`, `.`; at most 128."""
    dim: int
    """Numbers per row; 0 for rows of bytes."""
    row_type: RowType = RowType.FLOAT32
    key_type: KeyType = KeyType.INT64
    default: tuple[float, ...] | None = None
    """The vector of a key the table does not have (`dim` float32 values); None means zeros, or no bytes."""
    replicas: Replicas = 1
    on_unavailable: OnUnavailable = OnUnavailable.ERROR

    def __post_init__(self) -> None:
        check_name("table", self.name)
        if self.is_bytes and (type(self.dim) is not int or self.dim != 0):
            raise InvalidInput(f"table {self.name}: dim is {self.dim!r}; for rows of bytes it must be 0")
        if self.is_bytes and self.default is not None:
            raise InvalidInput(f"table {self.name}: default must be None: a row of bytes has no default vector")
        if not self.is_bytes and (type(self.dim) is not int or not 1 <= self.dim <= MAX_DIM):
            raise InvalidInput(f"table {self.name}: dim is {self.dim!r}; it must be from 1 to {MAX_DIM}")
        if self.default is not None and len(self.default) != self.dim:
            raise InvalidInput(f"table {self.name}: default has {len(self.default)} values; dim is {self.dim}")
        if self.default is not None and not np.isfinite(self.default_vector()).all():
            raise InvalidInput(f"table {self.name}: default must hold finite float32 numbers")
        if self.replicas != ALL and (type(self.replicas) is not int or self.replicas < 1):
            raise InvalidInput(f"table {self.name}: replicas is {self.replicas!r}; it must be 1 or more, or 'all'")

    @property
    def is_bytes(self) -> bool:
        """Whether rows are bytes, each of a length of its own."""
        return self.row_type is RowType.BYTES

    @property
    def row_bytes(self) -> int:
        """Bytes of one stored row; 0 where each has a length of its own. Only int8 has padding: to a multiple of 4, so
        that scale and offset stay aligned."""
        if self.is_bytes:
            return 0
        if self.row_type is RowType.INT8:
            return AFFINE_BYTES + (self.dim + 3) // 4 * 4
        return _NUMBER_BYTES[self.row_type] * self.dim

    def default_vector(self) -> Float32Array:
        """Return a new float32 (dim,) array: the vector that stands in for an unknown key."""
        if self.default is None:
            return np.zeros(self.dim, np.float32)
        with np.errstate(over="ignore"):  # a number beyond float32 becomes an infinity, which is refused
            return np.array(self.default, np.float32)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON/msgpack values; `from_dict` reads them back."""
        return {
            "name": self.name,
            "dim": self.dim,
            "row_type": self.row_type.value,
            "key_type": self.key_type.value,
            "default": None if self.default is None else list(self.default),
            "replicas": self.replicas,
            "on_unavailable": self.on_unavailable.value,
        }

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> TableSpec:
        """Read what `to_dict` wrote.

        Raises:
            InvalidInput: A field is missing, unknown, or of the wrong type or value; the message names it.
        """
        unknown = set(fields) - set(cls.__slots__)
        if unknown:
            raise InvalidInput(f"table spec {fields.get('name')!r}: there is no field {sorted(unknown)[0]!r}")
        try:
            default = fields["default"]
            return cls(
                name=fields["name"],
                dim=fields["dim"],
                row_type=RowType(fields["row_type"]),
                key_type=KeyType(fields["key_type"]),
                default=None if default is None else tuple(float(x) for x in default),
                replicas=fields["replicas"],
                on_unavailable=OnUnavailable(fields["on_unavailable"]),
            )
        except KeyError as exc:
            raise InvalidInput(f"table spec: field {exc} is missing") from exc
        except (TypeError, ValueError, OverflowError) as exc:
            raise InvalidInput(f"table spec {fields.get('name')!r}: {exc}") from exc


def check_name(what: str, name: object) -> None:
    """Refuse names that could not be a folder's, or would leave their folder.

    Raises:
        InvalidInput: `name` is not such a name; `what` ("table", "model") says in the message whose it is.
    """
    if not isinstance(name, str) or NAME_PATTERN.fullmatch(name) is None:
        raise InvalidInput(
            f"{what} name {name!r} is not valid: use letters, digits, '_', '-' and '.', at most 128,"
            " not starting with '.' or '-'"
        )
