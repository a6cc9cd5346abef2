from ringpull.inference.proto import ringpull_pb2 as _ringpull_pb2
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class RouteRequest(_message.Message):
    __slots__ = ("model", "term", "epoch", "version")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    TERM_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    model: str
    term: int
    epoch: int
    version: int
    def __init__(self, model: _Optional[str] = ..., term: _Optional[int] = ..., epoch: _Optional[int] = ..., version: _Optional[int] = ...) -> None: ...

class RouteResponse(_message.Message):
    __slots__ = ("reason", "same", "lineage", "version", "tables", "shard_map")
    REASON_FIELD_NUMBER: _ClassVar[int]
    SAME_FIELD_NUMBER: _ClassVar[int]
    LINEAGE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    TABLES_FIELD_NUMBER: _ClassVar[int]
    SHARD_MAP_FIELD_NUMBER: _ClassVar[int]
    reason: str
    same: bool
    lineage: str
    version: int
    tables: bytes
    shard_map: bytes
    def __init__(self, reason: _Optional[str] = ..., same: bool = ..., lineage: _Optional[str] = ..., version: _Optional[int] = ..., tables: _Optional[bytes] = ..., shard_map: _Optional[bytes] = ...) -> None: ...

class PushRequest(_message.Message):
    __slots__ = ("model", "table", "version", "label", "lineage", "only_live", "named", "nameless", "number", "keys", "vectors", "bytes", "remove", "request_id")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    TABLE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    LINEAGE_FIELD_NUMBER: _ClassVar[int]
    ONLY_LIVE_FIELD_NUMBER: _ClassVar[int]
    NAMED_FIELD_NUMBER: _ClassVar[int]
    NAMELESS_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    KEYS_FIELD_NUMBER: _ClassVar[int]
    VECTORS_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    REMOVE_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    model: str
    table: str
    version: int
    label: str
    lineage: str
    only_live: bool
    named: str
    nameless: int
    number: int
    keys: _ringpull_pb2.Column
    vectors: _ringpull_pb2.Tensor
    bytes: _ringpull_pb2.BytesRows
    remove: bool
    request_id: str
    def __init__(self, model: _Optional[str] = ..., table: _Optional[str] = ..., version: _Optional[int] = ..., label: _Optional[str] = ..., lineage: _Optional[str] = ..., only_live: bool = ..., named: _Optional[str] = ..., nameless: _Optional[int] = ..., number: _Optional[int] = ..., keys: _Optional[_Union[_ringpull_pb2.Column, _Mapping]] = ..., vectors: _Optional[_Union[_ringpull_pb2.Tensor, _Mapping]] = ..., bytes: _Optional[_Union[_ringpull_pb2.BytesRows, _Mapping]] = ..., remove: bool = ..., request_id: _Optional[str] = ...) -> None: ...

class PushResponse(_message.Message):
    __slots__ = ("model", "version", "lineage", "stamp", "rows", "new_keys", "repeated", "copies", "request_id")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    LINEAGE_FIELD_NUMBER: _ClassVar[int]
    STAMP_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    NEW_KEYS_FIELD_NUMBER: _ClassVar[int]
    REPEATED_FIELD_NUMBER: _ClassVar[int]
    COPIES_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: int
    lineage: str
    stamp: str
    rows: int
    new_keys: int
    repeated: int
    copies: int
    request_id: str
    def __init__(self, model: _Optional[str] = ..., version: _Optional[int] = ..., lineage: _Optional[str] = ..., stamp: _Optional[str] = ..., rows: _Optional[int] = ..., new_keys: _Optional[int] = ..., repeated: _Optional[int] = ..., copies: _Optional[int] = ..., request_id: _Optional[str] = ...) -> None: ...
