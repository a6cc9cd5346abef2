"""A version of tables alone beside the small model, in front of a fake router."""

from __future__ import annotations

from concurrent.futures import Executor
from pathlib import Path

import numpy as np

from ringpull.inference.head.catalog import ServedVersion
from ringpull.inference.model.manifest import Manifest, TableEntry
from ringpull.inference.model.version import LoadedVersion
from ringpull.inference.schema.schema import Schema
from ringpull.ps.hashing import keys_of_strings
from ringpull.ps.spec import KeyType, TableSpec
from tests.inference.served import Served
from tests.reference import ReferenceTable


def serve_tables_alone(served: Served, executor: Executor) -> ServedVersion:
    """Serve model `feed`, whose table `vectors` has the rows [1, 2] of key "a" and [3, 4] of key "ü"."""
    keys = keys_of_strings(["a", "ü"])
    served.router.tables["vectors"] = ReferenceTable.from_arrays(keys, np.array([[1, 2], [3, 4]], np.float32))
    spec = TableSpec(name="vectors", dim=2, key_type=KeyType.STRING)
    entry = TableEntry(spec=spec, path="x", rows=2, bytes=1)
    manifest = Manifest(model="feed", version=1, created="now", tables=(entry,))
    loaded = LoadedVersion(Path("feed/1"), manifest, Schema.without_features(), None)
    version = ServedVersion(loaded, served.router, executor, max_batch_rows=8)
    served.catalog.add(version)
    served.catalog.show({"ranker": 3, "feed": 1}, [("ranker", 3), ("feed", 1)])
    return version
