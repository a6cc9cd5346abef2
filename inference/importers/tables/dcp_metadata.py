"""What `.metadata` of a folder of torch.distributed.checkpoint says: tensors, their chunks, and where each chunk lies.

It is a pickle. It is read by `plain_pickle`, which imports and calls nothing: of torch's classes for metadata only the
names are known here, and any other name is refused. So it needs neither torch, nor torchrec for what torchrec saved.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Final

from ringpull.inference.importers.tables.plain_pickle import Made, Name, read_plain_pickle
from ringpull.ps.errors import CorruptData
from ringpull.ps.text.url_parts import leads_elsewhere

FILE: Final = ".metadata"

_METADATA: Final = "torch.distributed.checkpoint.metadata"
_TENSOR: Final = f"{_METADATA}.TensorStorageMetadata"
_INDEX: Final = f"{_METADATA}.MetadataIndex"
_CHUNK: Final = f"{_METADATA}.ChunkStorageMetadata"
_SIZE: Final = "torch.Size"
_PLACES: Final = ("torch.distributed.checkpoint.filesystem._StorageInfo",)
_PROPERTIES: Final = (
    f"{_METADATA}.TensorProperties",
    "torch.distributed._shard.sharded_tensor.metadata.TensorProperties",
)
_ADMITTED: Final = frozenset(
    (
        *(
            f"{_METADATA}.{name}"
            for name in ("Metadata", "BytesStorageMetadata", "StorageMeta", "_MEM_FORMAT_ENCODING")
        ),
        "torch.distributed._shard.sharded_tensor.metadata.MEM_FORMAT_ENCODING",
        *(_TENSOR, _INDEX, _CHUNK, _SIZE, *_PLACES, *_PROPERTIES),
        *("torch.serialization._get_layout", "collections.OrderedDict", "torch.device"),
        *(f"pathlib.{name}" for name in ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")),
        *(f"pathlib._local.{name}" for name in ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")),
    )
)
_TYPES: Final = ("float", "bfloat", "int", "uint", "bool", "complex", "qint", "quint")
_CURE: Final = (
    "A checkpoint whose planner keeps data of its own is written again with DefaultSavePlanner:"
    " torch.distributed.checkpoint.save(state_dict, checkpoint_id=FOLDER)"
)


@dataclass(frozen=True, slots=True)
class Chunk:
    """One part of a tensor, and where it lies."""

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    file: str
    """Name of its file, which lies in the folder."""
    begin: int
    length: int
    """Bytes of the file that hold it, as torch.save writes a tensor."""


@dataclass(frozen=True, slots=True)
class SavedTensor:
    """One tensor of a checkpoint."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    """torch's name of its type: float32, bfloat16, int64."""
    chunks: tuple[Chunk, ...]


def read_metadata(content: bytes, where: str) -> list[SavedTensor]:
    """Return the tensors of a checkpoint.

    Args:
        content: The whole file `.metadata`.
        where: Its path, for messages.

    Raises:
        CorruptData: It is damaged, or names other classes than torch's for metadata.
    """
    document = read_plain_pickle(content, where, _admitted, _CURE)
    try:
        fields = _state(document, (f"{_METADATA}.Metadata",))
        places = _places(fields.get("storage_data"))
        return [
            _tensor(_text(name), node, places)
            for name, node in _mapping(fields["state_dict_metadata"])
            if isinstance(node, Made) and node.by == _TENSOR
        ]
    except (KeyError, TypeError, ValueError, AttributeError) as exc:
        raise CorruptData(f"{where}: is not what torch.distributed.checkpoint writes: {exc}") from exc


def _admitted(full: str) -> bool:
    module, _, name = full.rpartition(".")
    return full in _ADMITTED or (module == "torch" and name.startswith(_TYPES) and name.replace("_", "").isalnum())


def _places(node: Any) -> dict[tuple[str, tuple[int, ...]], tuple[str, int, int]]:
    """Return file, begin and length of each chunk, by the tensor's name and the chunk's offsets."""
    places = {}
    for index, info in _mapping(node):
        at, lies = _state(index, (_INDEX,)), _state(info, _PLACES)
        if at.get("offset") is None:
            continue  # what is no tensor
        file = _text(lies["relative_path"])
        if len(PurePosixPath(file).parts) != 1 or "\\" in file or leads_elsewhere(file):
            raise ValueError(f"a chunk lies in the file {file!r}; files of a checkpoint lie in its folder")
        if transforms := lies.get("transform_descriptors"):
            raise ValueError(f"chunks are packed by {transforms!r:.100}; save the checkpoint without such an extension")
        begin, length = (_number(lies[name]) for name in ("offset", "length"))
        places[_text(at["fqn"]), _size(at["offset"])] = (file, begin, length)
    return places


def _tensor(name: str, node: Made, places: dict[tuple[str, tuple[int, ...]], tuple[str, int, int]]) -> SavedTensor:
    fields = _state(node, (_TENSOR,))
    shape = _size(fields["size"])
    chunks: dict[tuple[int, ...], Chunk] = {}
    for each in fields["chunks"]:
        part = _state(each, (_CHUNK,))
        offsets, sizes = _size(part["offsets"]), _size(part["sizes"])
        if len(offsets) != len(shape) or len(sizes) != len(shape):
            raise ValueError(f"tensor {name}: a chunk of the shape {list(sizes)} in a tensor of {list(shape)}")
        if any(begin + size > all_ for begin, size, all_ in zip(offsets, sizes, shape, strict=True)):
            raise ValueError(f"tensor {name}: a chunk of {list(sizes)} at {list(offsets)} leads out of {list(shape)}")
        if 0 in sizes:
            continue
        if (name, offsets) not in places:
            raise ValueError(f"tensor {name}: nothing says where its chunk at {list(offsets)} lies")
        chunk = Chunk(offsets, sizes, *places[name, offsets])
        if chunks.setdefault(offsets, chunk) != chunk:
            raise ValueError(f"tensor {name}: two chunks at {list(offsets)}")
    return SavedTensor(name, shape, _dtype(fields["properties"]), tuple(chunks.values()))


def _dtype(node: Any) -> str:
    """Return the type of the numbers: the first of a tuple in checkpoints of today, a field by name in older ones."""
    if not isinstance(node, Made) or node.by not in _PROPERTIES:
        raise TypeError("a tensor without properties")
    state = node.state[0] if isinstance(node.state, tuple) and node.state else dict(_mapping(node.state))["dtype"]
    if not isinstance(state, Name):
        raise TypeError("a tensor without a type of numbers")
    return state.full.removeprefix("torch.")


def _state(node: Any, by: tuple[str, ...]) -> dict[str, Any]:
    """Return what an object of one of these classes is filled with."""
    if not isinstance(node, Made) or node.by not in by:
        raise TypeError(f"{node.by if isinstance(node, Made) else type(node).__name__} in the place of {by[0]}")
    return {_text(name): value for name, value in _mapping(node.state)}


def _mapping(node: Any) -> list[tuple[Any, Any]]:
    if not isinstance(node, Made) or node.by not in ("dict", "collections.OrderedDict"):
        raise TypeError("something else in the place of a mapping")
    return node.items


def _size(node: Any) -> tuple[int, ...]:
    if not isinstance(node, Made) or node.by != _SIZE or len(node.arguments) != 1:
        raise TypeError("something else in the place of a size")
    (numbers,) = node.arguments
    if not isinstance(numbers, tuple | list):
        raise TypeError("a size of something else than numbers")
    return tuple(map(_number, numbers))


def _number(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**62:
        raise ValueError(f"{value!r:.50} in the place of a size")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{type(value).__name__} in the place of a text")
    return value
