"""Samples of a version with what its export gave for them: what a head holds it against before it goes live.

Sample rows are kept prepared, as look-ups and the dense program take them: the tables, the routing and the program are
what can be wrong on a machine; preparing is plain code that was tested. A few rows meet a few keys of each table, and
what they meet may count for little in a score. So there are samples of each table, too: keys from all around the ring,
and a checksum of the vector that a look-up of each gives, bit for bit. The file is an uncompressed `.npz` of plain
arrays; builds from before there were samples of tables do not look at theirs:

    FEATURE/ids  FEATURE/offsets  FEATURE/weights  FEATURE/dense      those that the feature has
    rows  tolerance  output/NAME
    table:NAME      uint64 (keys, 2): key and checksum
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import xxhash
from numpy.typing import NDArray

from ringpull.inference.model.archive import members
from ringpull.inference.schema.features import Prepared, PreparedFeature
from ringpull.ps.errors import CorruptData
from ringpull.ps.spec import Float32Array, UInt64Array

FILE: Final = "samples.npz"

RELATIVE_TOLERANCE: Final = 1e-4
"""Largest difference of an output on another machine or device, by the output: wrong rows differ by far more."""

_TABLE: Final = "table:"
_OUTPUT: Final = "output"
_PARTS: Final = {"ids": np.int64, "offsets": np.int64, "weights": np.float32, "dense": np.float32}


def differences(found: NDArray[Any], expected: NDArray[Any]) -> NDArray[np.float64]:
    """Return how far outputs are from those expected: 0 from NaN to NaN, infinite from what is not finite to another.

    An infinity is itself only with its sign.
    """
    same = (found == expected) | (np.isnan(found) & np.isnan(expected))
    finite = np.isfinite(found) & np.isfinite(expected)
    with np.errstate(invalid="ignore"):
        apart = np.abs(found.astype(np.float64) - expected)
    return np.where(same, 0.0, np.where(finite, apart, np.inf))


def agree(
    found: NDArray[Any], expected: NDArray[Any], tolerance: float, relative: float = RELATIVE_TOLERANCE
) -> NDArray[np.bool_]:
    """Return where outputs differ by no more than the tolerance, or than the part `relative` of what is expected."""
    allowed = np.maximum(tolerance, relative * np.where(np.isfinite(expected), np.abs(expected), 0.0))
    return differences(found, expected) <= allowed


def vector_checksums(vectors: Float32Array) -> UInt64Array:
    """Return the xxh3_64 of each of these vectors (N, D), uint64 (N,). All kinds of NaN have one checksum."""
    plain = np.where(np.isnan(vectors), np.float32(np.nan), vectors).astype("<f4")
    return np.fromiter((xxhash.xxh3_64_intdigest(vector.data) for vector in plain), np.uint64, len(plain))


def bytes_checksums(rows: Iterable[bytes]) -> UInt64Array:
    """Return the xxh3_64 of each of these rows, uint64 (N,); one is held at a time."""
    return np.fromiter((xxhash.xxh3_64_intdigest(row) for row in rows), np.uint64)


@dataclass(frozen=True, slots=True, eq=False)
class TableSamples:
    """Samples of one table."""

    keys: UInt64Array
    """(N,): some that the table has and some that it lacks."""
    checksums: UInt64Array
    """(N,): of the vector that a look-up of each gives, see `vector_checksums`; or of the row of bytes."""


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """A few rows and the outputs that they have, a few keys of each table and the vectors that they have."""

    prepared: Prepared
    outputs: Mapping[str, Float32Array]
    """Outputs by name, (rows, ...)."""
    tolerance: float
    """Largest difference of an output: float32 sums in another order, on another device; see `agree`."""
    tables: Mapping[str, TableSamples] = field(default_factory=dict)
    """Samples of tables, by name; none in versions that were exported before there were any."""

    @classmethod
    def of_tables(cls, tables: Mapping[str, TableSamples]) -> Samples:
        """Return the samples of a version of tables alone: no rows, so no outputs."""
        return cls(Prepared(0, {}), {}, 0.0, tables)

    def to_bytes(self) -> bytes:
        """Return the file's content."""
        arrays: dict[str, NDArray[Any]] = {
            "rows": np.array(self.prepared.rows),
            "tolerance": np.array(self.tolerance),
        }
        for name, feature in self.prepared.features.items():
            for part in _PARTS:
                values = getattr(feature, part)
                if values is not None:
                    arrays[f"{name}/{part}"] = values
        arrays |= {f"{_OUTPUT}/{name}": values for name, values in self.outputs.items()}
        for name, samples in self.tables.items():
            arrays[f"{_TABLE}{name}"] = np.stack([samples.keys, samples.checksums], axis=1)
        file = io.BytesIO()
        np.savez(file, allow_pickle=False, **arrays)
        return file.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes, where: str) -> Samples:
        """Read a file's content.

        Args:
            where: Its name, for messages.

        Raises:
            CorruptData: It is no such file.
        """
        unread = f"{where}: no samples can be read from it"
        stored = members(memoryview(content), unread, plain_names=False)  # as they are: nothing grows when it is read
        if not all(name.endswith(".npy") for name in stored):  # `x` and `x.npy` would be one array to numpy
            raise CorruptData(f"{unread}: members that are no arrays; each is called NAME.npy")
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
                rows = int(arrays["rows"])
                parts: dict[str, dict[str, NDArray[Any]]] = {}
                outputs, tables = {}, {}
                for key in arrays.files:
                    name, slash, part = key.rpartition("/")
                    if key.startswith(_TABLE):
                        tables[key.removeprefix(_TABLE)] = _table_samples(arrays[key])
                    elif name == _OUTPUT or (key.startswith(f"{_OUTPUT}/") and part not in _PARTS):
                        outputs[key.removeprefix(f"{_OUTPUT}/")] = np.asarray(arrays[key], np.float32)
                    elif slash:
                        parts.setdefault(name, {})[part] = np.asarray(arrays[key], _PARTS[part])
                features = {name: PreparedFeature(rows, **each) for name, each in parts.items()}
                tolerance = float(arrays["tolerance"])
                if not 0 <= tolerance < np.inf:
                    raise ValueError(f"tolerance is {tolerance}; it must be finite and not negative")
                return cls(Prepared(rows, features), outputs, tolerance, tables)
        except (ValueError, KeyError, TypeError, OSError, EOFError, zipfile.BadZipFile) as exc:
            raise CorruptData(f"{unread}: {type(exc).__name__}: {exc}") from exc


def _table_samples(array: NDArray[Any]) -> TableSamples:
    if array.dtype != np.uint64 or array.ndim != 2 or array.shape[1] != 2:
        raise ValueError(f"samples of a table are {array.dtype} {array.shape}; they must be uint64 (keys, 2)")
    return TableSamples(np.ascontiguousarray(array[:, 0]), np.ascontiguousarray(array[:, 1]))
