from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ChangeRequest(_message.Message):
    __slots__ = ("publish", "rollback", "rebalance")
    PUBLISH_FIELD_NUMBER: _ClassVar[int]
    ROLLBACK_FIELD_NUMBER: _ClassVar[int]
    REBALANCE_FIELD_NUMBER: _ClassVar[int]
    publish: Publish
    rollback: Rollback
    rebalance: Rebalance
    def __init__(self, publish: _Optional[_Union[Publish, _Mapping]] = ..., rollback: _Optional[_Union[Rollback, _Mapping]] = ..., rebalance: _Optional[_Union[Rebalance, _Mapping]] = ...) -> None: ...

class Publish(_message.Message):
    __slots__ = ("model", "version", "folder", "keep")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    FOLDER_FIELD_NUMBER: _ClassVar[int]
    KEEP_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: int
    folder: str
    keep: int
    def __init__(self, model: _Optional[str] = ..., version: _Optional[int] = ..., folder: _Optional[str] = ..., keep: _Optional[int] = ...) -> None: ...

class Rollback(_message.Message):
    __slots__ = ("model", "version")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: int
    def __init__(self, model: _Optional[str] = ..., version: _Optional[int] = ...) -> None: ...

class Rebalance(_message.Message):
    __slots__ = ("shards", "replicas", "drain_node", "bytes_per_s")
    class ReplicasEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    SHARDS_FIELD_NUMBER: _ClassVar[int]
    REPLICAS_FIELD_NUMBER: _ClassVar[int]
    DRAIN_NODE_FIELD_NUMBER: _ClassVar[int]
    BYTES_PER_S_FIELD_NUMBER: _ClassVar[int]
    shards: int
    replicas: _containers.ScalarMap[str, str]
    drain_node: str
    bytes_per_s: float
    def __init__(self, shards: _Optional[int] = ..., replicas: _Optional[_Mapping[str, str]] = ..., drain_node: _Optional[str] = ..., bytes_per_s: _Optional[float] = ...) -> None: ...

class GetChangeRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetFactsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetMembersRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ControlRequest(_message.Message):
    __slots__ = ("verb",)
    VERB_FIELD_NUMBER: _ClassVar[int]
    verb: str
    def __init__(self, verb: _Optional[str] = ...) -> None: ...

class Latency(_message.Message):
    __slots__ = ("p50_ms", "p99_ms")
    P50_MS_FIELD_NUMBER: _ClassVar[int]
    P99_MS_FIELD_NUMBER: _ClassVar[int]
    p50_ms: float
    p99_ms: float
    def __init__(self, p50_ms: _Optional[float] = ..., p99_ms: _Optional[float] = ...) -> None: ...

class ChangeStatus(_message.Message):
    __slots__ = ("id", "kind", "subject", "phase", "paused", "members_done", "members", "copied_bytes", "bytes_to_copy", "before", "now", "trouble", "error")
    ID_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    PHASE_FIELD_NUMBER: _ClassVar[int]
    PAUSED_FIELD_NUMBER: _ClassVar[int]
    MEMBERS_DONE_FIELD_NUMBER: _ClassVar[int]
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    COPIED_BYTES_FIELD_NUMBER: _ClassVar[int]
    BYTES_TO_COPY_FIELD_NUMBER: _ClassVar[int]
    BEFORE_FIELD_NUMBER: _ClassVar[int]
    NOW_FIELD_NUMBER: _ClassVar[int]
    TROUBLE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    id: int
    kind: str
    subject: str
    phase: str
    paused: bool
    members_done: int
    members: int
    copied_bytes: int
    bytes_to_copy: int
    before: Latency
    now: Latency
    trouble: str
    error: str
    def __init__(self, id: _Optional[int] = ..., kind: _Optional[str] = ..., subject: _Optional[str] = ..., phase: _Optional[str] = ..., paused: bool = ..., members_done: _Optional[int] = ..., members: _Optional[int] = ..., copied_bytes: _Optional[int] = ..., bytes_to_copy: _Optional[int] = ..., before: _Optional[_Union[Latency, _Mapping]] = ..., now: _Optional[_Union[Latency, _Mapping]] = ..., trouble: _Optional[str] = ..., error: _Optional[str] = ...) -> None: ...

class SlotRange(_message.Message):
    __slots__ = ("begin", "end")
    BEGIN_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    begin: int
    end: int
    def __init__(self, begin: _Optional[int] = ..., end: _Optional[int] = ...) -> None: ...

class TableMove(_message.Message):
    __slots__ = ("shard", "model", "version", "table", "ranges", "rows", "bytes")
    SHARD_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    TABLE_FIELD_NUMBER: _ClassVar[int]
    RANGES_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    shard: int
    model: str
    version: int
    table: str
    ranges: _containers.RepeatedCompositeFieldContainer[SlotRange]
    rows: int
    bytes: int
    def __init__(self, shard: _Optional[int] = ..., model: _Optional[str] = ..., version: _Optional[int] = ..., table: _Optional[str] = ..., ranges: _Optional[_Iterable[_Union[SlotRange, _Mapping]]] = ..., rows: _Optional[int] = ..., bytes: _Optional[int] = ...) -> None: ...

class MovePlan(_message.Message):
    __slots__ = ("moves", "streamed", "least_bytes", "shard_bytes_before", "shard_bytes_after")
    class ShardBytesBeforeEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: int
        value: int
        def __init__(self, key: _Optional[int] = ..., value: _Optional[int] = ...) -> None: ...
    class ShardBytesAfterEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: int
        value: int
        def __init__(self, key: _Optional[int] = ..., value: _Optional[int] = ...) -> None: ...
    MOVES_FIELD_NUMBER: _ClassVar[int]
    STREAMED_FIELD_NUMBER: _ClassVar[int]
    LEAST_BYTES_FIELD_NUMBER: _ClassVar[int]
    SHARD_BYTES_BEFORE_FIELD_NUMBER: _ClassVar[int]
    SHARD_BYTES_AFTER_FIELD_NUMBER: _ClassVar[int]
    moves: _containers.RepeatedCompositeFieldContainer[TableMove]
    streamed: bool
    least_bytes: int
    shard_bytes_before: _containers.ScalarMap[int, int]
    shard_bytes_after: _containers.ScalarMap[int, int]
    def __init__(self, moves: _Optional[_Iterable[_Union[TableMove, _Mapping]]] = ..., streamed: bool = ..., least_bytes: _Optional[int] = ..., shard_bytes_before: _Optional[_Mapping[int, int]] = ..., shard_bytes_after: _Optional[_Mapping[int, int]] = ...) -> None: ...

class TableTraffic(_message.Message):
    __slots__ = ("keys", "bags", "missing")
    KEYS_FIELD_NUMBER: _ClassVar[int]
    BAGS_FIELD_NUMBER: _ClassVar[int]
    MISSING_FIELD_NUMBER: _ClassVar[int]
    keys: int
    bags: int
    missing: int
    def __init__(self, keys: _Optional[int] = ..., bags: _Optional[int] = ..., missing: _Optional[int] = ...) -> None: ...

class Facts(_message.Message):
    __slots__ = ("world", "resident_bytes", "nodes", "requests", "traffic")
    class ResidentBytesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: int
        value: int
        def __init__(self, key: _Optional[int] = ..., value: _Optional[int] = ...) -> None: ...
    class NodesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: int
        value: str
        def __init__(self, key: _Optional[int] = ..., value: _Optional[str] = ...) -> None: ...
    class TrafficEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: TableTraffic
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[TableTraffic, _Mapping]] = ...) -> None: ...
    WORLD_FIELD_NUMBER: _ClassVar[int]
    RESIDENT_BYTES_FIELD_NUMBER: _ClassVar[int]
    NODES_FIELD_NUMBER: _ClassVar[int]
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    TRAFFIC_FIELD_NUMBER: _ClassVar[int]
    world: str
    resident_bytes: _containers.ScalarMap[int, int]
    nodes: _containers.ScalarMap[int, str]
    requests: int
    traffic: _containers.MessageMap[str, TableTraffic]
    def __init__(self, world: _Optional[str] = ..., resident_bytes: _Optional[_Mapping[int, int]] = ..., nodes: _Optional[_Mapping[int, str]] = ..., requests: _Optional[int] = ..., traffic: _Optional[_Mapping[str, TableTraffic]] = ...) -> None: ...

class MemberState(_message.Message):
    __slots__ = ("role", "number", "incarnation", "lacks")
    ROLE_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    LACKS_FIELD_NUMBER: _ClassVar[int]
    role: str
    number: int
    incarnation: str
    lacks: str
    def __init__(self, role: _Optional[str] = ..., number: _Optional[int] = ..., incarnation: _Optional[str] = ..., lacks: _Optional[str] = ...) -> None: ...

class Members(_message.Message):
    __slots__ = ("members",)
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    members: _containers.RepeatedCompositeFieldContainer[MemberState]
    def __init__(self, members: _Optional[_Iterable[_Union[MemberState, _Mapping]]] = ...) -> None: ...

class RestartRequest(_message.Message):
    __slots__ = ("role", "number", "incarnation", "drain_s", "force")
    ROLE_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    DRAIN_S_FIELD_NUMBER: _ClassVar[int]
    FORCE_FIELD_NUMBER: _ClassVar[int]
    role: str
    number: int
    incarnation: str
    drain_s: float
    force: bool
    def __init__(self, role: _Optional[str] = ..., number: _Optional[int] = ..., incarnation: _Optional[str] = ..., drain_s: _Optional[float] = ..., force: bool = ...) -> None: ...

class RestartReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
