"""Sample rows of a version with the outputs that its export gave: what a head holds it against before it goes live.

Rows are kept prepared, as look-ups and the dense program take them: the tables, the routing and the program are what
can be wrong on a machine; preparing is plain code that was tested. The file is an uncompressed `.npz` of plain arrays:

    FEATURE/ids  FEATURE/offsets  FEATURE/weights  FEATURE/dense      those that the feature has
    rows  tolerance  output/NAME
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ringpull.inference.schema.features import Prepared, PreparedFeature
from ringpull.ps.errors import CorruptData
from ringpull.ps.spec import Float32Array

FILE: Final = "samples.npz"

_PARTS: Final = {"ids": np.int64, "offsets": np.int64, "weights": np.float32, "dense": np.float32}


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """A few rows and the outputs that they have."""

    prepared: Prepared
    outputs: Mapping[str, Float32Array]
    """Outputs by name, (rows, ...)."""
    tolerance: float
    """Largest difference of an output: float32 sums in another order, on another device."""

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
        arrays |= {f"output/{name}": values for name, values in self.outputs.items()}
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
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
                rows = int(arrays["rows"])
                parts: dict[str, dict[str, NDArray[Any]]] = {}
                outputs = {}
                for key in arrays.files:
                    name, slash, part = key.rpartition("/")
                    if name == "output":
                        outputs[part] = np.asarray(arrays[key], np.float32)
                    elif slash:
                        parts.setdefault(name, {})[part] = np.asarray(arrays[key], _PARTS[part])
                features = {name: PreparedFeature(rows, **each) for name, each in parts.items()}
                return cls(Prepared(rows, features), outputs, float(arrays["tolerance"]))
        except (ValueError, KeyError, TypeError, OSError, EOFError, zipfile.BadZipFile) as exc:
            raise CorruptData(f"{where}: no samples can be read from it: {type(exc).__name__}: {exc}") from exc
