"""Answers of TensorFlow Serving's REST API, as text: its keys, its numbers, its indentation to the character.

Clients compare and parse what TensorFlow Serving prints, so numbers are as it prints them (`json_tensor.cc`): a float32
in six significant digits (`%g`) where those are read back as the same number, else in nine; with `.0` where there is
neither point nor exponent; `NaN`, `Infinity` and `-Infinity` bare. Answers in rows have each row's value on one line,
those in columns every number on a line of its own, four blanks in for each level.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from math import prod
from typing import Any, Final

import numpy as np
from google.protobuf.json_format import MessageToDict
from numpy.typing import NDArray

Float32Array = NDArray[np.float32]

_CHUNK: Final = 2_048
"""Numbers that are formatted by one call of C, which holds the interpreter's lock for some 1.5 ms: other requests go on
in between, where an answer is made in a thread."""
_PAD: Final = "    "


def predictions(outputs: Mapping[str, Float32Array]) -> str:
    """Return an answer in rows: a list of values, or of objects where there are several outputs.

    Args:
        outputs: Name -> values (B, ...).
    """
    columns = {name: _one_line(values, 1) for name, values in outputs.items()}
    if len(columns) == 1:
        (rows,) = columns.values()
        return f'{{\n{_PAD}"predictions": [{", ".join(rows)}\n{_PAD}]\n}}'
    keys = [f"{_PAD * 3}{_quoted(name)}: " for name in columns]
    objects = [
        ",\n".join([key + value for key, value in zip(keys, row, strict=True)])
        for row in zip(*columns.values(), strict=True)
    ]
    between = f"\n{_PAD * 2}}},\n{_PAD * 2}{{\n"
    listed = between.join(objects)
    return f'{{\n{_PAD}"predictions": [\n{_PAD * 2}{{\n{listed}\n{_PAD * 2}}}\n{_PAD}]\n}}'


def columns(outputs: Mapping[str, Float32Array]) -> str:
    """Return an answer in columns: a bare list, or an object where there are several outputs.

    Args:
        outputs: Name -> values (B, ...).
    """
    if len(outputs) == 1:
        (values,) = outputs.values()
        return f'{{\n{_PAD}"outputs": {_many_lines(values, 1)}\n}}'
    each = [f"{_PAD * 2}{_quoted(name)}: {_many_lines(values, 2)}" for name, values in outputs.items()]
    listed = ",\n".join(each)
    return f'{{\n{_PAD}"outputs": {{\n{listed}\n{_PAD}}}\n}}'


def classes(scores: Float32Array, labels: Sequence[str]) -> str:
    """Return an answer to `classify`: for each row a list of label and score.

    Args:
        scores: (B, C).
        labels: C labels, empty ones where classes have no names.
    """
    opened = [f"[{_quoted(label)}, " for label in labels]
    texts, count = numbers(scores), len(opened)
    rows = [
        "[" + ", ".join([label + text + "]" for label, text in zip(opened, texts[at : at + count], strict=True)]) + "]"
        for at in range(0, len(texts), count)
    ]
    return f'{{\n{_PAD}"results": [{", ".join(rows)}\n{_PAD}]\n}}'


def regressions(values: Float32Array) -> str:
    """Return an answer to `regress`: a value (B,) for each row."""
    return f'{{\n{_PAD}"results": [{", ".join(numbers(values))}]\n}}'


def status(message: Any) -> str:
    """Return the states of a model's versions, a `GetModelStatusResponse`."""
    return _printed(message) + "\n"


def metadata(model: str, version: int, signatures: Any) -> str:
    """Return the metadata of a version.

    Args:
        signatures: Its signatures, a `SignatureDefMap`.
    """
    spec = _plain({"name": model, "signature_name": "", "version": str(version)})
    return f'{{\n"model_spec":{spec}\n,\n"metadata": {{"signature_def": {_printed(signatures)}\n}}\n}}\n'


def _printed(message: Any) -> str:
    """Return a message as protobuf prints it for TensorFlow Serving: int64 as strings, one blank in for each level."""
    return _plain(MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True))


def _plain(value: Any) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False)


def numbers(values: Float32Array) -> list[str]:
    """Return the texts of numbers of any shape, in C order."""
    flat = np.ascontiguousarray(values, np.float32).reshape(-1)
    texts: list[str] = []
    for at in range(0, flat.size, _CHUNK):
        texts += _texts(flat[at : at + _CHUNK])
    return texts


def _texts(values: Float32Array) -> list[str]:
    plain, count = values.tolist(), values.size
    # All of a chunk by one format string: a third of the time of a call for each.
    texts = ("%.6g " * count % tuple(plain)).split()
    finite = np.isfinite(values)
    read_back = np.fromiter(map(float, texts), np.float64, count)
    with np.errstate(over="ignore"):  # Six digits of the largest float32 may be beyond it: they are not the same.
        places = np.flatnonzero((read_back.astype(np.float32) != values) & finite).tolist()
    if places:
        exact = ("%.9g " * len(places) % tuple([plain[place] for place in places])).split()
        for place, text in zip(places, exact, strict=True):
            texts[place] = text
    texts = [text if "." in text or "e" in text else text + ".0" for text in texts]
    for place in np.flatnonzero(~finite).tolist():
        number = plain[place]
        texts[place] = "NaN" if number != number else "Infinity" if number > 0 else "-Infinity"
    return texts


def _one_line(values: Float32Array, kept: int) -> list[str]:
    """Return the text of each element of the first `kept` dimensions, what is in it on one line."""
    items = numbers(values)
    for axis in range(values.ndim - 1, kept - 1, -1):
        size = values.shape[axis]
        if size == 0:
            items = ["[]"] * prod(values.shape[:axis])
        else:
            items = ["[" + ", ".join(items[at : at + size]) + "]" for at in range(0, len(items), size)]
    return items


def _many_lines(values: Float32Array, level: int) -> str:
    """Return the text of an array that begins in a line of `level`, every number on a line of its own."""
    items = numbers(values)
    for axis in range(values.ndim - 1, -1, -1):
        size, outer, inner = values.shape[axis], f"\n{_PAD * (level + axis)}]", f"\n{_PAD * (level + axis + 1)}"
        if size == 0:
            items = ["[]"] * prod(values.shape[:axis])
        else:
            items = ["[" + inner + f",{inner}".join(items[at : at + size]) + outer for at in range(0, len(items), size)]
    return items[0]


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
