"""The converter as a process: a line of JSON in, a line of JSON out, until its input ends.

    {"do": "convert", "folder": ..., "out": ..., "tags": [..], "signatures": [..], "texts": {..}, "big_bytes": ...}
    {"do": "score", "rows": "rows.npz", "scores": "scores.npz"}

An answer is `{"answer": ...}`, `{"refused": kind, "message": ...}`, or `{"missing": package}`. What TensorFlow prints
goes to standard error.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray


class Session:
    """One SavedModel, from its conversion on."""

    def __init__(self) -> None:
        self._signatures: dict[str, Any] = {}
        self._joined: Any = None
        self._vocabularies: dict[str, Any] = {}

    def convert(self, job: Mapping[str, Any]) -> dict[str, Any]:
        """Convert the SavedModel that a job names; return what is known of it."""
        from ringpull.inference.importers.savedmodel.converter import converting, loading

        folder = Path(job["folder"])
        loaded = loading.load(folder, job["tags"])
        self._signatures = loading.signatures_of(loaded)
        self._loaded = loaded  # its variables live as long as it does
        self._joined = converting.join(self._signatures, job["signatures"], job["big_bytes"])
        known, self._vocabularies = converting.convert(self._joined, folder, Path(job["out"]), job["texts"])
        return known

    def score(self, job: Mapping[str, Any]) -> dict[str, Any]:
        """Write the outputs of rows, as `SIGNATURE/OUTPUT`; inputs with known values are given as codes."""
        from ringpull.inference.importers.savedmodel.converter import loading

        with np.load(job["rows"], allow_pickle=False) as given:
            rows = {name: self._values(name, given[name]) for name in given.files}
        found: dict[str, NDArray[Any]] = {}
        wanted = [each[:2] for each in self._joined.outputs]
        for signature in self._joined.signatures:
            function = self._signatures[signature]
            sent = self._examples(signature, function, rows)
            outputs = loading.scores(function, sent)
            found |= {f"{name}/{key}": outputs[key] for name, key in wanted if name == signature}
        named: dict[str, Any] = {f"output_{place}": found[f"{each[0]}/{each[1]}"] for place, each in enumerate(wanted)}
        np.savez(job["scores"], **named)
        return {}

    def _values(self, name: str, given: NDArray[Any]) -> NDArray[Any]:
        vocabulary = self._vocabularies.get(name)
        return given if vocabulary is None or vocabulary.hashed else vocabulary.array()[given]

    def _examples(self, signature: str, function: Any, rows: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
        """Return what a signature takes of rows: themselves, or as examples."""
        from ringpull.inference.importers.savedmodel.converter.loading import inputs_of

        features = self._joined.examples.get(signature)
        if features is None:
            return {name: rows[name] for name in inputs_of(function)}
        (only,) = inputs_of(function)
        count = len(rows[features[0]])
        pads = self._joined.pads
        texts = [_example({name: rows[name][row] for name in features}, pads) for row in range(count)]
        return {only: np.array(texts, object)}


def _example(row: Mapping[str, NDArray[Any]], pads: Mapping[str, Any]) -> bytes:
    """Return an example of a row; what stands for none is left out of features that have any number of values."""
    import tensorflow as tf

    lists = {}
    for name, values in row.items():
        flat = np.asarray(values).reshape(-1)
        if name in pads:
            nothing = ("", b"") if pads[name] == b"" else (pads[name],)
            flat = flat[[value not in nothing for value in flat.tolist()]]
        if flat.dtype.kind in "iu":
            lists[name] = tf.train.Feature(int64_list=tf.train.Int64List(value=flat.tolist()))
        elif flat.dtype.kind == "f":
            lists[name] = tf.train.Feature(float_list=tf.train.FloatList(value=flat.tolist()))
        else:
            texts = [each if isinstance(each, bytes) else each.encode() for each in flat.tolist()]
            lists[name] = tf.train.Feature(bytes_list=tf.train.BytesList(value=texts))
    return bytes(tf.train.Example(features=tf.train.Features(feature=lists)).SerializeToString())


def answer(session: Session, line: str) -> dict[str, Any]:
    """Return the answer to one line."""
    from ringpull.inference.importers.savedmodel.converter.refusing import Refused, brief

    job = json.loads(line)
    try:
        return {"answer": getattr(session, job["do"])(job)}
    except Refused as exc:
        return {"refused": exc.kind, "message": str(exc)}
    except ModuleNotFoundError as exc:
        return {"missing": exc.name}
    except Exception as exc:  # of libraries, and of graphs that nobody thought of: the process lives to say so
        if isinstance(exc, MemoryError):
            return {"refused": "invalid", "message": "there is not enough memory for it"}
        traceback.print_exc()
        return {"refused": "refused", "message": f"it cannot be converted: {type(exc).__name__}: {brief(exc)}"}


def main() -> None:
    """Answer until the input ends."""
    answers: TextIO = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what TensorFlow prints is no answer
    session = Session()
    for line in sys.stdin:
        answers.write(json.dumps(answer(session, line)) + "\n")
        answers.flush()


main()
