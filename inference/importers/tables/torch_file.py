"""Files of torch.save: a zip of one pickle, which says what tensors there are, and of their numbers, which are mapped.

The pickle is read by `plain_pickle`, which calls nothing, and may name no more than tensors are made of. Tensors in
dictionaries in dictionaries are called by all keys with dots between, as in a state dict.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, Final

from ringpull.inference.importers.tables.files import find_files
from ringpull.inference.importers.tables.plain_pickle import Made, read_plain_pickle
from ringpull.inference.importers.tables.source import ReadOptions
from ringpull.inference.importers.tables.tensors import (
    StoredTensor,
    TensorSource,
    local_path,
    mapped_file,
    open_tensors,
    tensor_of,
)
from ringpull.inference.model.archive import is_archive, members
from ringpull.ps.errors import CorruptData, InvalidInput

MAX_NAMES: Final = 1_000_000
"""Largest number of values of the dictionaries in a file."""
_MAX_DEPTH: Final = 32
_PICKLE: Final = "/data.pkl"

_STORAGES: Final = {
    "torch.DoubleStorage": "float64",
    "torch.FloatStorage": "float32",
    "torch.HalfStorage": "float16",
    "torch.BFloat16Storage": "bfloat16",
    "torch.LongStorage": "int64",
    "torch.IntStorage": "int32",
    "torch.ShortStorage": "int16",
    "torch.CharStorage": "int8",
    "torch.ByteStorage": "uint8",
    "torch.BoolStorage": "bool",
}
_V2: Final = "torch._utils._rebuild_tensor_v2"
_V3: Final = "torch._utils._rebuild_tensor_v3"
_METADATA: Final = {_V2: 6, _V3: 7}
"""Place of what torch says of a tensor beside its numbers: that it is the negative of what is stored, for one."""
_OTHER_TENSORS: Final = {
    "torch._utils._rebuild_sparse_tensor": "sparse",
    "torch._utils._rebuild_qtensor": "quantised",
    "torch._utils._rebuild_meta_tensor_no_storage": "without numbers (meta)",
}
"""Tensors that are none of one number after the other."""
_PARAMETERS: Final = ("torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state")
_TYPES: Final = frozenset(
    f"torch.{name}"
    for name in (
        *("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "uint16", "uint32"),
        *("uint64", "bool", "complex64", "complex128", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz"),
        *("float8_e5m2fnuz", "quint8", "qint8", "qint32"),
    )
)
_OTHERS: Final = frozenset(
    (
        *("collections.OrderedDict", "torch.Size", "torch.device", "torch.storage.UntypedStorage"),
        *("torch.storage.TypedStorage", "torch.serialization._get_layout", "torch._utils._rebuild_sparse_tensor"),
        *("torch._utils._rebuild_qtensor", "torch._utils._rebuild_meta_tensor_no_storage", "torch.per_tensor_affine"),
        *("torch.ComplexFloatStorage", "torch.ComplexDoubleStorage", "torch.QUInt8Storage", "torch.QInt8Storage"),
        *("torch.QInt32Storage", "torch.per_channel_affine", "torch._tensor._rebuild_from_type_v2"),
        *("torch.Tensor", "torch.nn.parameter.Parameter"),
    )
)
_ADMITTED: Final = frozenset((*_STORAGES, _V2, _V3, *_PARAMETERS)) | _TYPES | _OTHERS
_CURE: Final = "Save the tensors alone, where the model is: torch.save(model.state_dict(), FILE)"


def open_table(where: str, options: ReadOptions) -> TensorSource:
    """Open the table that a tensor of a file is.

    Raises:
        InvalidInput: There is no such tensor, or several could be it.
        CorruptData: The file is damaged, truncated or none, or names what tensors are not made of.
    """
    files = find_files(where)
    if len(files) != 1:
        raise InvalidInput(f"{where}: {len(files)} files; give the one that has the table")
    with ExitStack() as opened:
        content = mapped_file(files[0], opened)
        tensors = {each.name: each for each in read_tensors(content, str(local_path(files[0])))}
        return open_tensors(where, tensors, files, options, opened.pop_all().close)


def read_tensors(content: memoryview, where: str) -> list[StoredTensor]:
    """Return the tensors of what torch.save wrote; one that is there by itself is called by no name.

    Raises:
        CorruptData: It is damaged, truncated or none, or names what tensors are not made of.
    """
    if not is_archive(content):
        raise CorruptData(
            f"{where}: no file of torch.save, truncated, or of a torch before 1.6: load it there with weights_only=True"
            " and save it again"
        )
    held = members(content, where)
    pickles = [name for name in held if f"/{name}".endswith(_PICKLE)]
    if len(pickles) != 1 or any(name.endswith("/constants.pkl") for name in held):
        raise CorruptData(f"{where}: no file of torch.save but another archive, as of torch.jit or torch.export")
    prefix = pickles[0].removesuffix("data.pkl")
    if bytes(held.get(f"{prefix}byteorder", b"little")).strip() != b"little":
        raise CorruptData(f"{where}: written on a machine with another order of bytes; load and save it on this one")
    document = read_plain_pickle(bytes(held[pickles[0]]), f"{where}: {pickles[0]}", _ADMITTED.__contains__, _CURE)
    storages = {name.removeprefix(f"{prefix}data/"): each for name, each in held.items()}
    found: dict[str, StoredTensor] = {}
    for name, node in _values(document, where):
        tensor = _tensor(name, node, storages, where)
        if tensor is None:
            continue
        if name in found:
            raise CorruptData(f"{where}: two tensors are called {name}")
        found[name] = tensor
    return list(found.values())


def _values(document: Any, where: str) -> Iterator[tuple[str, Made]]:
    """Yield what lies in dictionaries, however deep, with its name: keys with dots between."""
    left = MAX_NAMES
    waiting: list[tuple[str, Any, int]] = [("", document, 0)]
    while waiting:
        name, node, depth = waiting.pop()
        if not isinstance(node, Made):
            continue
        if node.by not in ("dict", "collections.OrderedDict"):
            yield name, node
            continue
        if depth > _MAX_DEPTH or (left := left - len(node.items)) < 0:
            raise CorruptData(f"{where}: dictionaries {depth} deep, or with more than {MAX_NAMES} values in all")
        for key, value in reversed(node.items):
            if isinstance(key, str | int):
                waiting.append((f"{name}.{key}" if name else str(key), value, depth + 1))


def _tensor(name: str, node: Made, storages: dict[str, memoryview], where: str) -> StoredTensor | None:
    """Return the tensor of a node; None: it is something else, such as a number of a class of its own."""
    if node.by in _PARAMETERS and node.arguments and isinstance(node.arguments[0], Made):
        node = node.arguments[0]
    other = _OTHER_TENSORS.get(node.by) or _unlike_stored(node)
    if other is not None:
        return tensor_of(name, (), other, where, memoryview(b""))
    if node.by not in (_V2, _V3):
        return None
    what = f"{where}: tensor {name}"
    try:
        storage, first, shape, strides = node.arguments[:4]
        shape, strides = _numbers(shape), _numbers(strides)
        kind, klass, key = storage.arguments[:3]
        full = klass.full
        if kind != "storage" or not isinstance(key, str) or type(first) is not int:
            raise ValueError("it lies in no storage")
        dtype = node.arguments[6].full.removeprefix("torch.") if node.by == _V3 else _STORAGES.get(full, full)
    except (AttributeError, TypeError, ValueError, IndexError) as exc:
        raise CorruptData(f"{what}: is not described as torch describes tensors: {exc}") from exc
    if key not in storages:
        raise CorruptData(f"{what}: lies in the member {key!r}, which the file has not")
    return tensor_of(name, shape, dtype, where, storages[key], first=first, strides=strides)


def _unlike_stored(node: Made) -> str | None:
    """Return what a tensor is whose numbers are not those that are stored; None: they are."""
    metadata = node.arguments[_METADATA[node.by] :][:1] if node.by in _METADATA else ()
    if not metadata or not isinstance(metadata[0], Made):
        return None
    marks = [str(key) for key, value in metadata[0].items if value]
    return f"view marked {', '.join(marks)}" if marks else None


def _numbers(value: Any) -> tuple[int, ...]:
    if isinstance(value, Made) and value.by == "torch.Size":
        (value,) = value.arguments
    if not isinstance(value, tuple) or not all(type(each) is int and 0 <= each < 2**62 for each in value):
        raise ValueError("a shape is no tuple of numbers")
    return value
