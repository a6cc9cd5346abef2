"""The rest of an imported graph, as it is written: any number of rows, weights that are large in a file beside it."""

from __future__ import annotations

import builtins
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import onnx
from onnx import ModelProto, TensorProto

from ringpull.inference.model.onnx_program import DATA_FILE, FILE
from ringpull.inference.model.version_files import FileEntry, resolve
from ringpull.ps.errors import CorruptData, ExportError

INLINE_BYTES: Final = 256 << 20
"""Bytes of weights up to which they stay in the graph."""
LARGE_BYTES: Final = 1 << 20
"""Bytes from which on one weight goes to the file beside the graph, where they are more than that."""

_CHUNK_BYTES: Final = 16 << 20
_ALIGNMENT: Final = 4096
"""Weights in the file begin at multiples of this, so that they can be mapped."""
_ROWS: Final = "rows"


def write_rest(
    version_dir: Path, rest: ModelProto | Path, data_dir: Path | None = None
) -> tuple[FileEntry, tuple[FileEntry, ...]]:
    """Write the graph that a version's dense program is, and return its file and those of its weights.

    The first dimension of its inputs and outputs becomes any number of rows, whatever it was when it was converted.

    Args:
        version_dir: Folder of the version.
        rest: The graph; nothing in it is changed.
        data_dir: Folder of its external data; None: that of the file, and a graph in memory has none.

    Raises:
        ExportError: It has an input or output without rows, or weights that lie outside of `data_dir`.
    """
    if isinstance(rest, Path):
        data_dir = data_dir or rest.parent
        model = onnx.load(str(rest), load_external_data=False)
    else:
        model = ModelProto()
        model.CopyFrom(rest)
    _free_rows(model)
    data = _write_data(version_dir / DATA_FILE, model, data_dir)
    (version_dir / FILE).write_bytes(model.SerializeToString())
    files = (FileEntry.of(version_dir, DATA_FILE),) if data else ()
    return FileEntry.of(version_dir, FILE), files


def _free_rows(model: ModelProto) -> None:
    """Let inputs and outputs have any number of rows, and forget what shapes were inferred before."""
    graph = model.graph
    given = {each.name for each in graph.initializer}
    for value in (*(each for each in graph.input if each.name not in given), *graph.output):
        if value.type.WhichOneof("value") != "tensor_type":
            kind = str(value.type.WhichOneof("value")).removesuffix("_type")
            raise ExportError(
                f"{value.name!r} of the graph is a {kind}, which is no column and no score; leave it out, or convert"
                " the model without ZipMap (zipmap=False)"
            )
        tensor = value.type.tensor_type
        if not tensor.HasField("shape"):
            continue
        if not tensor.shape.dim:
            raise ExportError(f"{value.name!r} of the graph is one number for all rows; there must be one for each row")
        tensor.shape.dim[0].dim_param = _ROWS
    del graph.value_info[:]


def _write_data(file: Path, model: ModelProto, data_dir: Path | None) -> bool:
    """Write the weights that do not stay in the graph, and take in those that do; return whether there is any.

    Small ones stay: what an operator reads as a shape or an axis, onnxruntime must find in the graph.
    """
    lying = [(tensor, _Source.of(tensor, data_dir)) for tensor in model.graph.initializer]
    many = sum(source.bytes for _, source in lying) > INLINE_BYTES
    outside = [(tensor, source) for tensor, source in lying if many and source.bytes >= LARGE_BYTES]
    with file.open("wb") if outside else nullcontext() as out:
        for tensor, source in lying:
            if out is None or source.bytes < LARGE_BYTES:
                if source.file is not None:
                    tensor.raw_data = b"".join(source.chunks())
                    tensor.data_location = TensorProto.DEFAULT
                    del tensor.external_data[:]
                continue
            out.write(bytes(-out.tell() % _ALIGNMENT))
            begin = out.tell()
            for chunk in source.chunks():
                out.write(chunk)
            tensor.ClearField("raw_data")
            tensor.data_location = TensorProto.EXTERNAL
            del tensor.external_data[:]
            for key, value in {"location": file.name, "offset": begin, "length": out.tell() - begin}.items():
                tensor.external_data.add(key=key, value=str(value))
    return bool(outside)


@dataclass(frozen=True, slots=True)
class _Source:
    """Place of the bytes of a weight."""

    tensor: TensorProto
    file: Path | None
    """File that they lie in; None: the graph."""
    offset: int
    bytes: int

    @classmethod
    def of(cls, tensor: TensorProto, data_dir: Path | None) -> _Source:
        if tensor.data_location != TensorProto.EXTERNAL:
            return cls(tensor, None, 0, len(tensor.raw_data))
        said = {each.key: each.value for each in tensor.external_data}
        where = said.get("location", "")
        if data_dir is None:
            raise ExportError(f"weight {tensor.name!r} lies in the file {where!r}; say in which folder that is")
        try:
            file = resolve(data_dir, where)
            offset, length = int(said.get("offset", 0)), int(said.get("length", -1))
            if length < 0:
                length = file.stat().st_size - offset
        except CorruptData as exc:
            raise ExportError(f"weight {tensor.name!r}: {exc}") from exc
        except (OSError, ValueError) as exc:
            raise cls._unreadable(tensor, where, exc) from exc
        return cls(tensor, file, offset, length)

    @staticmethod
    def _unreadable(tensor: TensorProto, where: str, exc: Exception) -> ExportError:
        return ExportError(f"weight {tensor.name!r} lies in the file {where!r}, which cannot be read: {exc}")

    def chunks(self) -> Iterator[builtins.bytes]:
        """Yield the bytes."""
        if self.file is None:
            yield self.tensor.raw_data
            return
        left = self.bytes
        try:
            with self.file.open("rb") as source:
                source.seek(self.offset)
                while left > 0 and (chunk := source.read(min(left, _CHUNK_BYTES))):
                    left -= len(chunk)
                    yield chunk
        except (OSError, ValueError) as exc:
            raise self._unreadable(self.tensor, self.file.name, exc) from exc
        if left:
            raise ExportError(f"weight {self.tensor.name!r}: the file {self.file.name!r} lacks {left:,} bytes of it")
