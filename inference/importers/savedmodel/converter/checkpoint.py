"""Places of a variable's values in the files of a checkpoint, so that they can be mapped and need not be copied.

`variables.index` is a sorted table of strings: blocks of entries that share prefixes of keys, an index block, and a
footer of 48 bytes that ends in a magic number. Its values are `BundleHeaderProto` (of the key "") and
`BundleEntryProto`: type, shape, file, offset and size. TensorFlow tells all of that but file and offset, hence this
reader.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.protobuf import tensor_bundle_pb2

from ringpull.inference.importers.savedmodel.converter.refusing import Refused

_FOOTER_BYTES: Final = 48
_MAGIC: Final = bytes.fromhex("57fb808b247547db")
_TRAILER_BYTES: Final = 5
"""A byte for the kind of compression and a checksum, behind each block."""
_MAX_INDEX_BYTES: Final = 1 << 30


class Stored(NamedTuple):
    """One tensor of a checkpoint, as it lies there."""

    file: Path
    offset: int
    nbytes: int
    shape: tuple[int, ...]
    dtype: int
    """Number of TensorFlow's type."""


def stored_tensors(prefix: Path) -> dict[str, Stored]:
    """Return the tensors that lie whole in one file, by their key in the checkpoint `prefix`.

    Raises:
        Refused: The index is damaged, or names what lies outside its files.
    """
    index = prefix.with_name(prefix.name + ".index")
    data = index.read_bytes() if index.stat().st_size <= _MAX_INDEX_BYTES else b""
    if len(data) < _FOOTER_BYTES or data[-8:] != _MAGIC:
        raise Refused("corrupt", f"{index}: does not end like the index of a checkpoint: it was cut short or damaged")
    try:
        return dict(_tensors(prefix, data))
    except (IndexError, TypeError, ValueError, ArithmeticError, OSError, DecodeError) as exc:
        raise Refused(
            "corrupt", f"{index}: does not fit the files beside it: {exc}; copy the SavedModel whole, or save it again"
        ) from exc


def _tensors(prefix: Path, data: bytes) -> Iterator[tuple[str, Stored]]:
    entries = dict(_entries(data))
    header = tensor_bundle_pb2.BundleHeaderProto.FromString(entries.pop(b"", b""))
    shards = max(header.num_shards, 1)
    if header.endianness:
        return  # big-endian: TensorFlow reads it, and what it read is copied
    for key, value in entries.items():
        entry = tensor_bundle_pb2.BundleEntryProto.FromString(value)
        shape = tuple(dim.size for dim in entry.shape.dim)
        if entry.slices:
            continue  # in pieces: its pieces have entries of their own
        item = tf.as_dtype(entry.dtype).size
        if item and entry.size != math.prod(shape) * item:
            raise ValueError(f"{key!r} has the shape {shape} and {entry.size:,} bytes")
        file = prefix.with_name(f"{prefix.name}.data-{entry.shard_id:05d}-of-{shards:05d}")
        if not 0 <= entry.offset <= entry.offset + entry.size <= file.stat().st_size:
            raise ValueError(f"{key!r} lies beyond the end of {file.name}")
        yield key.decode("utf-8", "replace"), Stored(file, entry.offset, entry.size, shape, entry.dtype)


def _entries(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield keys and values of all blocks."""
    footer = data[-_FOOTER_BYTES:]
    at = 0
    for _ in range(2):  # the block of metadata, which is empty
        _, at = _varint(footer, at)
    start, at = _varint(footer, at)
    size, _ = _varint(footer, at)
    for _, handle in _block(data, start, size):
        begin, after = _varint(handle, 0)
        length, _ = _varint(handle, after)
        yield from _block(data, begin, length)


def _block(data: bytes, start: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    if start < 0 or start + size + _TRAILER_BYTES > len(data):
        raise ValueError("a block lies beyond its end")
    if data[start + size] != 0:
        raise ValueError("a block is compressed, which no checkpoint's is")
    block = data[start : start + size]
    restarts = int.from_bytes(block[-4:], "little")
    end = len(block) - 4 - 4 * restarts
    at, key = 0, b""
    while 0 <= at < end:
        shared, at = _varint(block, at)
        rest, at = _varint(block, at)
        length, at = _varint(block, at)
        if shared > len(key) or at + rest + length > end:
            raise ValueError("an entry is longer than its block")
        key = key[:shared] + block[at : at + rest]
        yield key, block[at + rest : at + rest + length]
        at += rest + length


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Return a number in 7 bits a byte, and the place behind it."""
    number = shift = 0
    while True:
        byte = data[at]
        number |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return number, at
        if shift > 63:
            raise ValueError("a number has more than 64 bits")


def place_of(stored: Stored) -> dict[str, Any]:
    """Return where a tensor lies, for JSON."""
    return {"file": str(stored.file), "offset": stored.offset}
