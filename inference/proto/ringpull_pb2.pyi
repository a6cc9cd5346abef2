from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class DataType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DATA_TYPE_UNSPECIFIED: _ClassVar[DataType]
    INT64: _ClassVar[DataType]
    UINT64: _ClassVar[DataType]
    FLOAT32: _ClassVar[DataType]
    STRING: _ClassVar[DataType]
DATA_TYPE_UNSPECIFIED: DataType
INT64: DataType
UINT64: DataType
FLOAT32: DataType
STRING: DataType

class Int64List(_message.Message):
    __slots__ = ("values",)
    VALUES_FIELD_NUMBER: _ClassVar[int]
    values: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, values: _Optional[_Iterable[int]] = ...) -> None: ...

class UInt64List(_message.Message):
    __slots__ = ("values",)
    VALUES_FIELD_NUMBER: _ClassVar[int]
    values: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, values: _Optional[_Iterable[int]] = ...) -> None: ...

class FloatList(_message.Message):
    __slots__ = ("values",)
    VALUES_FIELD_NUMBER: _ClassVar[int]
    values: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, values: _Optional[_Iterable[float]] = ...) -> None: ...

class StringList(_message.Message):
    __slots__ = ("values",)
    VALUES_FIELD_NUMBER: _ClassVar[int]
    values: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, values: _Optional[_Iterable[str]] = ...) -> None: ...

class RawBuffer(_message.Message):
    __slots__ = ("dtype", "data", "lengths")
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    LENGTHS_FIELD_NUMBER: _ClassVar[int]
    dtype: DataType
    data: bytes
    lengths: bytes
    def __init__(self, dtype: _Optional[_Union[DataType, str]] = ..., data: _Optional[bytes] = ..., lengths: _Optional[bytes] = ...) -> None: ...

class Column(_message.Message):
    __slots__ = ("int64s", "uint64s", "floats", "strings", "raw", "offsets", "raw_offsets", "weights", "raw_weights", "width")
    INT64S_FIELD_NUMBER: _ClassVar[int]
    UINT64S_FIELD_NUMBER: _ClassVar[int]
    FLOATS_FIELD_NUMBER: _ClassVar[int]
    STRINGS_FIELD_NUMBER: _ClassVar[int]
    RAW_FIELD_NUMBER: _ClassVar[int]
    OFFSETS_FIELD_NUMBER: _ClassVar[int]
    RAW_OFFSETS_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    RAW_WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    int64s: Int64List
    uint64s: UInt64List
    floats: FloatList
    strings: StringList
    raw: RawBuffer
    offsets: _containers.RepeatedScalarFieldContainer[int]
    raw_offsets: bytes
    weights: _containers.RepeatedScalarFieldContainer[float]
    raw_weights: bytes
    width: int
    def __init__(self, int64s: _Optional[_Union[Int64List, _Mapping]] = ..., uint64s: _Optional[_Union[UInt64List, _Mapping]] = ..., floats: _Optional[_Union[FloatList, _Mapping]] = ..., strings: _Optional[_Union[StringList, _Mapping]] = ..., raw: _Optional[_Union[RawBuffer, _Mapping]] = ..., offsets: _Optional[_Iterable[int]] = ..., raw_offsets: _Optional[bytes] = ..., weights: _Optional[_Iterable[float]] = ..., raw_weights: _Optional[bytes] = ..., width: _Optional[int] = ...) -> None: ...

class PackedColumn(_message.Message):
    __slots__ = ("name", "dtype", "context", "ragged", "weighted", "width")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    RAGGED_FIELD_NUMBER: _ClassVar[int]
    WEIGHTED_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    name: str
    dtype: DataType
    context: bool
    ragged: bool
    weighted: bool
    width: int
    def __init__(self, name: _Optional[str] = ..., dtype: _Optional[_Union[DataType, str]] = ..., context: bool = ..., ragged: bool = ..., weighted: bool = ..., width: _Optional[int] = ...) -> None: ...

class PackedLayout(_message.Message):
    __slots__ = ("columns",)
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    columns: _containers.RepeatedCompositeFieldContainer[PackedColumn]
    def __init__(self, columns: _Optional[_Iterable[_Union[PackedColumn, _Mapping]]] = ...) -> None: ...

class PackedColumns(_message.Message):
    __slots__ = ("layout", "sizes", "data")
    LAYOUT_FIELD_NUMBER: _ClassVar[int]
    SIZES_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    layout: bytes
    sizes: bytes
    data: bytes
    def __init__(self, layout: _Optional[bytes] = ..., sizes: _Optional[bytes] = ..., data: _Optional[bytes] = ...) -> None: ...

class PredictRequest(_message.Message):
    __slots__ = ("model", "version", "features", "context", "outputs", "with_timings", "request_id", "packed", "label", "with_unknown")
    class FeaturesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Column
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Column, _Mapping]] = ...) -> None: ...
    class ContextEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Column
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Column, _Mapping]] = ...) -> None: ...
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    WITH_TIMINGS_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    PACKED_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    WITH_UNKNOWN_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: int
    features: _containers.MessageMap[str, Column]
    context: _containers.MessageMap[str, Column]
    outputs: _containers.RepeatedScalarFieldContainer[str]
    with_timings: bool
    request_id: str
    packed: PackedColumns
    label: str
    with_unknown: bool
    def __init__(self, model: _Optional[str] = ..., version: _Optional[int] = ..., features: _Optional[_Mapping[str, Column]] = ..., context: _Optional[_Mapping[str, Column]] = ..., outputs: _Optional[_Iterable[str]] = ..., with_timings: bool = ..., request_id: _Optional[str] = ..., packed: _Optional[_Union[PackedColumns, _Mapping]] = ..., label: _Optional[str] = ..., with_unknown: bool = ...) -> None: ...

class Tensor(_message.Message):
    __slots__ = ("shape", "data", "floats")
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    FLOATS_FIELD_NUMBER: _ClassVar[int]
    shape: _containers.RepeatedScalarFieldContainer[int]
    data: bytes
    floats: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, shape: _Optional[_Iterable[int]] = ..., data: _Optional[bytes] = ..., floats: _Optional[_Iterable[float]] = ...) -> None: ...

class Filled(_message.Message):
    __slots__ = ("feature", "reason", "values")
    class Reason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        REASON_UNSPECIFIED: _ClassVar[Filled.Reason]
        ABSENT: _ClassVar[Filled.Reason]
        MISSING: _ClassVar[Filled.Reason]
        UNAVAILABLE: _ClassVar[Filled.Reason]
        DEGRADED: _ClassVar[Filled.Reason]
        BEYOND: _ClassVar[Filled.Reason]
    REASON_UNSPECIFIED: Filled.Reason
    ABSENT: Filled.Reason
    MISSING: Filled.Reason
    UNAVAILABLE: Filled.Reason
    DEGRADED: Filled.Reason
    BEYOND: Filled.Reason
    FEATURE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    feature: str
    reason: Filled.Reason
    values: int
    def __init__(self, feature: _Optional[str] = ..., reason: _Optional[_Union[Filled.Reason, str]] = ..., values: _Optional[int] = ...) -> None: ...

class Unknown(_message.Message):
    __slots__ = ("feature", "ids", "rows")
    FEATURE_FIELD_NUMBER: _ClassVar[int]
    IDS_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    feature: str
    ids: int
    rows: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, feature: _Optional[str] = ..., ids: _Optional[int] = ..., rows: _Optional[_Iterable[int]] = ...) -> None: ...

class Timings(_message.Message):
    __slots__ = ("decode_us", "features_us", "queue_us", "lookup_us", "dense_us", "total_us", "batch_rows")
    DECODE_US_FIELD_NUMBER: _ClassVar[int]
    FEATURES_US_FIELD_NUMBER: _ClassVar[int]
    QUEUE_US_FIELD_NUMBER: _ClassVar[int]
    LOOKUP_US_FIELD_NUMBER: _ClassVar[int]
    DENSE_US_FIELD_NUMBER: _ClassVar[int]
    TOTAL_US_FIELD_NUMBER: _ClassVar[int]
    BATCH_ROWS_FIELD_NUMBER: _ClassVar[int]
    decode_us: int
    features_us: int
    queue_us: int
    lookup_us: int
    dense_us: int
    total_us: int
    batch_rows: int
    def __init__(self, decode_us: _Optional[int] = ..., features_us: _Optional[int] = ..., queue_us: _Optional[int] = ..., lookup_us: _Optional[int] = ..., dense_us: _Optional[int] = ..., total_us: _Optional[int] = ..., batch_rows: _Optional[int] = ...) -> None: ...

class PredictResponse(_message.Message):
    __slots__ = ("model", "version", "outputs", "filled", "timings", "request_id", "degraded", "unknown")
    class OutputsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Tensor
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Tensor, _Mapping]] = ...) -> None: ...
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    FILLED_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    DEGRADED_FIELD_NUMBER: _ClassVar[int]
    UNKNOWN_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: int
    outputs: _containers.MessageMap[str, Tensor]
    filled: _containers.RepeatedCompositeFieldContainer[Filled]
    timings: Timings
    request_id: str
    degraded: _containers.RepeatedScalarFieldContainer[str]
    unknown: _containers.RepeatedCompositeFieldContainer[Unknown]
    def __init__(self, model: _Optional[str] = ..., version: _Optional[int] = ..., outputs: _Optional[_Mapping[str, Tensor]] = ..., filled: _Optional[_Iterable[_Union[Filled, _Mapping]]] = ..., timings: _Optional[_Union[Timings, _Mapping]] = ..., request_id: _Optional[str] = ..., degraded: _Optional[_Iterable[str]] = ..., unknown: _Optional[_Iterable[_Union[Unknown, _Mapping]]] = ...) -> None: ...

class LookupRequest(_message.Message):
    __slots__ = ("model", "table", "version", "label", "keys", "pooling", "request_id")
    class Pooling(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        NONE: _ClassVar[LookupRequest.Pooling]
        SUM: _ClassVar[LookupRequest.Pooling]
        MEAN: _ClassVar[LookupRequest.Pooling]
        MAX: _ClassVar[LookupRequest.Pooling]
    NONE: LookupRequest.Pooling
    SUM: LookupRequest.Pooling
    MEAN: LookupRequest.Pooling
    MAX: LookupRequest.Pooling
    MODEL_FIELD_NUMBER: _ClassVar[int]
    TABLE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    KEYS_FIELD_NUMBER: _ClassVar[int]
    POOLING_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    model: str
    table: str
    version: int
    label: str
    keys: Column
    pooling: LookupRequest.Pooling
    request_id: str
    def __init__(self, model: _Optional[str] = ..., table: _Optional[str] = ..., version: _Optional[int] = ..., label: _Optional[str] = ..., keys: _Optional[_Union[Column, _Mapping]] = ..., pooling: _Optional[_Union[LookupRequest.Pooling, str]] = ..., request_id: _Optional[str] = ...) -> None: ...

class BytesRows(_message.Message):
    __slots__ = ("data", "offsets")
    DATA_FIELD_NUMBER: _ClassVar[int]
    OFFSETS_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    offsets: bytes
    def __init__(self, data: _Optional[bytes] = ..., offsets: _Optional[bytes] = ...) -> None: ...

class LookupResponse(_message.Message):
    __slots__ = ("model", "version", "vectors", "bytes", "found", "missing", "lost", "request_id")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    VECTORS_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    FOUND_FIELD_NUMBER: _ClassVar[int]
    MISSING_FIELD_NUMBER: _ClassVar[int]
    LOST_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: int
    vectors: Tensor
    bytes: BytesRows
    found: bytes
    missing: int
    lost: int
    request_id: str
    def __init__(self, model: _Optional[str] = ..., version: _Optional[int] = ..., vectors: _Optional[_Union[Tensor, _Mapping]] = ..., bytes: _Optional[_Union[BytesRows, _Mapping]] = ..., found: _Optional[bytes] = ..., missing: _Optional[int] = ..., lost: _Optional[int] = ..., request_id: _Optional[str] = ...) -> None: ...

class TopKRequest(_message.Message):
    __slots__ = ("model", "table", "version", "label", "k", "metric", "vectors", "like", "query_table", "keep_self", "features", "output", "exclude", "among", "request_id")
    class Metric(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        DOT: _ClassVar[TopKRequest.Metric]
        COSINE: _ClassVar[TopKRequest.Metric]
    DOT: TopKRequest.Metric
    COSINE: TopKRequest.Metric
    MODEL_FIELD_NUMBER: _ClassVar[int]
    TABLE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    K_FIELD_NUMBER: _ClassVar[int]
    METRIC_FIELD_NUMBER: _ClassVar[int]
    VECTORS_FIELD_NUMBER: _ClassVar[int]
    LIKE_FIELD_NUMBER: _ClassVar[int]
    QUERY_TABLE_FIELD_NUMBER: _ClassVar[int]
    KEEP_SELF_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    EXCLUDE_FIELD_NUMBER: _ClassVar[int]
    AMONG_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    model: str
    table: str
    version: int
    label: str
    k: int
    metric: TopKRequest.Metric
    vectors: Tensor
    like: Column
    query_table: str
    keep_self: bool
    features: PredictRequest
    output: str
    exclude: Column
    among: Column
    request_id: str
    def __init__(self, model: _Optional[str] = ..., table: _Optional[str] = ..., version: _Optional[int] = ..., label: _Optional[str] = ..., k: _Optional[int] = ..., metric: _Optional[_Union[TopKRequest.Metric, str]] = ..., vectors: _Optional[_Union[Tensor, _Mapping]] = ..., like: _Optional[_Union[Column, _Mapping]] = ..., query_table: _Optional[str] = ..., keep_self: bool = ..., features: _Optional[_Union[PredictRequest, _Mapping]] = ..., output: _Optional[str] = ..., exclude: _Optional[_Union[Column, _Mapping]] = ..., among: _Optional[_Union[Column, _Mapping]] = ..., request_id: _Optional[str] = ...) -> None: ...

class TopKResponse(_message.Message):
    __slots__ = ("model", "version", "table", "keys", "raw_scores", "scores", "found", "missing", "lost", "lost_queries", "hashed", "filled", "unknown", "request_id")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    TABLE_FIELD_NUMBER: _ClassVar[int]
    KEYS_FIELD_NUMBER: _ClassVar[int]
    RAW_SCORES_FIELD_NUMBER: _ClassVar[int]
    SCORES_FIELD_NUMBER: _ClassVar[int]
    FOUND_FIELD_NUMBER: _ClassVar[int]
    MISSING_FIELD_NUMBER: _ClassVar[int]
    LOST_FIELD_NUMBER: _ClassVar[int]
    LOST_QUERIES_FIELD_NUMBER: _ClassVar[int]
    HASHED_FIELD_NUMBER: _ClassVar[int]
    FILLED_FIELD_NUMBER: _ClassVar[int]
    UNKNOWN_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: int
    table: str
    keys: Column
    raw_scores: bytes
    scores: _containers.RepeatedScalarFieldContainer[float]
    found: bytes
    missing: int
    lost: int
    lost_queries: int
    hashed: bool
    filled: _containers.RepeatedCompositeFieldContainer[Filled]
    unknown: _containers.RepeatedCompositeFieldContainer[Unknown]
    request_id: str
    def __init__(self, model: _Optional[str] = ..., version: _Optional[int] = ..., table: _Optional[str] = ..., keys: _Optional[_Union[Column, _Mapping]] = ..., raw_scores: _Optional[bytes] = ..., scores: _Optional[_Iterable[float]] = ..., found: _Optional[bytes] = ..., missing: _Optional[int] = ..., lost: _Optional[int] = ..., lost_queries: _Optional[int] = ..., hashed: bool = ..., filled: _Optional[_Iterable[_Union[Filled, _Mapping]]] = ..., unknown: _Optional[_Iterable[_Union[Unknown, _Mapping]]] = ..., request_id: _Optional[str] = ...) -> None: ...

class GetModelRequest(_message.Message):
    __slots__ = ("model", "version", "label")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: int
    label: str
    def __init__(self, model: _Optional[str] = ..., version: _Optional[int] = ..., label: _Optional[str] = ...) -> None: ...

class FeatureInfo(_message.Message):
    __slots__ = ("name", "kind", "dtype", "many", "weighted", "optional", "width", "max_length", "never_empty")
    NAME_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    MANY_FIELD_NUMBER: _ClassVar[int]
    WEIGHTED_FIELD_NUMBER: _ClassVar[int]
    OPTIONAL_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    MAX_LENGTH_FIELD_NUMBER: _ClassVar[int]
    NEVER_EMPTY_FIELD_NUMBER: _ClassVar[int]
    name: str
    kind: str
    dtype: DataType
    many: bool
    weighted: bool
    optional: bool
    width: int
    max_length: int
    never_empty: bool
    def __init__(self, name: _Optional[str] = ..., kind: _Optional[str] = ..., dtype: _Optional[_Union[DataType, str]] = ..., many: bool = ..., weighted: bool = ..., optional: bool = ..., width: _Optional[int] = ..., max_length: _Optional[int] = ..., never_empty: bool = ...) -> None: ...

class OutputInfo(_message.Message):
    __slots__ = ("name", "shape", "ranks", "classes")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    RANKS_FIELD_NUMBER: _ClassVar[int]
    CLASSES_FIELD_NUMBER: _ClassVar[int]
    name: str
    shape: _containers.RepeatedScalarFieldContainer[int]
    ranks: str
    classes: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, name: _Optional[str] = ..., shape: _Optional[_Iterable[int]] = ..., ranks: _Optional[str] = ..., classes: _Optional[_Iterable[str]] = ...) -> None: ...

class TableInfo(_message.Message):
    __slots__ = ("name", "rows", "dim", "row_type", "bytes", "replicas", "features", "key_type", "live")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    DIM_FIELD_NUMBER: _ClassVar[int]
    ROW_TYPE_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    REPLICAS_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    KEY_TYPE_FIELD_NUMBER: _ClassVar[int]
    LIVE_FIELD_NUMBER: _ClassVar[int]
    name: str
    rows: int
    dim: int
    row_type: str
    bytes: int
    replicas: str
    features: _containers.RepeatedScalarFieldContainer[str]
    key_type: str
    live: bool
    def __init__(self, name: _Optional[str] = ..., rows: _Optional[int] = ..., dim: _Optional[int] = ..., row_type: _Optional[str] = ..., bytes: _Optional[int] = ..., replicas: _Optional[str] = ..., features: _Optional[_Iterable[str]] = ..., key_type: _Optional[str] = ..., live: bool = ...) -> None: ...

class Model(_message.Message):
    __slots__ = ("name", "version", "versions", "features", "outputs", "tables", "server_version", "labels", "program", "lineage")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    TABLES_FIELD_NUMBER: _ClassVar[int]
    SERVER_VERSION_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    PROGRAM_FIELD_NUMBER: _ClassVar[int]
    LINEAGE_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: int
    versions: _containers.RepeatedScalarFieldContainer[int]
    features: _containers.RepeatedCompositeFieldContainer[FeatureInfo]
    outputs: _containers.RepeatedCompositeFieldContainer[OutputInfo]
    tables: _containers.RepeatedCompositeFieldContainer[TableInfo]
    server_version: str
    labels: _containers.ScalarMap[str, int]
    program: Program
    lineage: str
    def __init__(self, name: _Optional[str] = ..., version: _Optional[int] = ..., versions: _Optional[_Iterable[int]] = ..., features: _Optional[_Iterable[_Union[FeatureInfo, _Mapping]]] = ..., outputs: _Optional[_Iterable[_Union[OutputInfo, _Mapping]]] = ..., tables: _Optional[_Iterable[_Union[TableInfo, _Mapping]]] = ..., server_version: _Optional[str] = ..., labels: _Optional[_Mapping[str, int]] = ..., program: _Optional[_Union[Program, _Mapping]] = ..., lineage: _Optional[str] = ...) -> None: ...

class Program(_message.Message):
    __slots__ = ("runtime", "version", "provider", "device", "threads", "precision", "eager_because", "max_threads")
    RUNTIME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    PROVIDER_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    THREADS_FIELD_NUMBER: _ClassVar[int]
    PRECISION_FIELD_NUMBER: _ClassVar[int]
    EAGER_BECAUSE_FIELD_NUMBER: _ClassVar[int]
    MAX_THREADS_FIELD_NUMBER: _ClassVar[int]
    runtime: str
    version: str
    provider: str
    device: str
    threads: int
    precision: str
    eager_because: str
    max_threads: int
    def __init__(self, runtime: _Optional[str] = ..., version: _Optional[str] = ..., provider: _Optional[str] = ..., device: _Optional[str] = ..., threads: _Optional[int] = ..., precision: _Optional[str] = ..., eager_because: _Optional[str] = ..., max_threads: _Optional[int] = ...) -> None: ...

class ListModelsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListModelsResponse(_message.Message):
    __slots__ = ("models",)
    MODELS_FIELD_NUMBER: _ClassVar[int]
    models: _containers.RepeatedCompositeFieldContainer[Model]
    def __init__(self, models: _Optional[_Iterable[_Union[Model, _Mapping]]] = ...) -> None: ...

class GetStatusRequest(_message.Message):
    __slots__ = ("head_only",)
    HEAD_ONLY_FIELD_NUMBER: _ClassVar[int]
    head_only: bool
    def __init__(self, head_only: bool = ...) -> None: ...

class ShardTable(_message.Message):
    __slots__ = ("model", "version", "table", "rows", "bytes", "keys", "missing")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    TABLE_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    KEYS_FIELD_NUMBER: _ClassVar[int]
    MISSING_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: int
    table: str
    rows: int
    bytes: int
    keys: int
    missing: int
    def __init__(self, model: _Optional[str] = ..., version: _Optional[int] = ..., table: _Optional[str] = ..., rows: _Optional[int] = ..., bytes: _Optional[int] = ..., keys: _Optional[int] = ..., missing: _Optional[int] = ...) -> None: ...

class ShardStatus(_message.Message):
    __slots__ = ("shard", "address", "alive", "error", "epoch", "ranges", "share", "requests", "tables", "pid")
    SHARD_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    ALIVE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    RANGES_FIELD_NUMBER: _ClassVar[int]
    SHARE_FIELD_NUMBER: _ClassVar[int]
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    TABLES_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    shard: int
    address: str
    alive: bool
    error: str
    epoch: int
    ranges: int
    share: float
    requests: int
    tables: _containers.RepeatedCompositeFieldContainer[ShardTable]
    pid: int
    def __init__(self, shard: _Optional[int] = ..., address: _Optional[str] = ..., alive: bool = ..., error: _Optional[str] = ..., epoch: _Optional[int] = ..., ranges: _Optional[int] = ..., share: _Optional[float] = ..., requests: _Optional[int] = ..., tables: _Optional[_Iterable[_Union[ShardTable, _Mapping]]] = ..., pid: _Optional[int] = ...) -> None: ...

class TableStatus(_message.Message):
    __slots__ = ("model", "version", "table", "rows", "bytes", "dim", "replicas_wanted", "replicas_effective", "keys", "missing", "keys_per_s", "missing_per_s", "here_per_s")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    TABLE_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    DIM_FIELD_NUMBER: _ClassVar[int]
    REPLICAS_WANTED_FIELD_NUMBER: _ClassVar[int]
    REPLICAS_EFFECTIVE_FIELD_NUMBER: _ClassVar[int]
    KEYS_FIELD_NUMBER: _ClassVar[int]
    MISSING_FIELD_NUMBER: _ClassVar[int]
    KEYS_PER_S_FIELD_NUMBER: _ClassVar[int]
    MISSING_PER_S_FIELD_NUMBER: _ClassVar[int]
    HERE_PER_S_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: int
    table: str
    rows: int
    bytes: int
    dim: int
    replicas_wanted: str
    replicas_effective: int
    keys: int
    missing: int
    keys_per_s: float
    missing_per_s: float
    here_per_s: float
    def __init__(self, model: _Optional[str] = ..., version: _Optional[int] = ..., table: _Optional[str] = ..., rows: _Optional[int] = ..., bytes: _Optional[int] = ..., dim: _Optional[int] = ..., replicas_wanted: _Optional[str] = ..., replicas_effective: _Optional[int] = ..., keys: _Optional[int] = ..., missing: _Optional[int] = ..., keys_per_s: _Optional[float] = ..., missing_per_s: _Optional[float] = ..., here_per_s: _Optional[float] = ...) -> None: ...

class DegradeStep(_message.Message):
    __slots__ = ("step", "replies")
    STEP_FIELD_NUMBER: _ClassVar[int]
    REPLIES_FIELD_NUMBER: _ClassVar[int]
    step: str
    replies: int
    def __init__(self, step: _Optional[str] = ..., replies: _Optional[int] = ...) -> None: ...

class DegradeStatus(_message.Message):
    __slots__ = ("model", "version", "level", "steps")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: int
    level: int
    steps: _containers.RepeatedCompositeFieldContainer[DegradeStep]
    def __init__(self, model: _Optional[str] = ..., version: _Optional[int] = ..., level: _Optional[int] = ..., steps: _Optional[_Iterable[_Union[DegradeStep, _Mapping]]] = ...) -> None: ...

class Leader(_message.Message):
    __slots__ = ("term", "leads", "heard_s")
    TERM_FIELD_NUMBER: _ClassVar[int]
    LEADS_FIELD_NUMBER: _ClassVar[int]
    HEARD_S_FIELD_NUMBER: _ClassVar[int]
    term: int
    leads: bool
    heard_s: float
    def __init__(self, term: _Optional[int] = ..., leads: bool = ..., heard_s: _Optional[float] = ...) -> None: ...

class StepsStatus(_message.Message):
    __slots__ = ("requests", "failed", "p50_ms", "p99_ms")
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    P50_MS_FIELD_NUMBER: _ClassVar[int]
    P99_MS_FIELD_NUMBER: _ClassVar[int]
    requests: _containers.RepeatedScalarFieldContainer[int]
    failed: _containers.RepeatedScalarFieldContainer[int]
    p50_ms: _containers.RepeatedScalarFieldContainer[float]
    p99_ms: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, requests: _Optional[_Iterable[int]] = ..., failed: _Optional[_Iterable[int]] = ..., p50_ms: _Optional[_Iterable[float]] = ..., p99_ms: _Optional[_Iterable[float]] = ...) -> None: ...

class RecentStatus(_message.Message):
    __slots__ = ("model", "requests", "failed", "requests_per_s", "p50_ms", "p99_ms", "begin_s", "step_s", "last_step_s", "steps")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    REQUESTS_PER_S_FIELD_NUMBER: _ClassVar[int]
    P50_MS_FIELD_NUMBER: _ClassVar[int]
    P99_MS_FIELD_NUMBER: _ClassVar[int]
    BEGIN_S_FIELD_NUMBER: _ClassVar[int]
    STEP_S_FIELD_NUMBER: _ClassVar[int]
    LAST_STEP_S_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    model: str
    requests: int
    failed: int
    requests_per_s: float
    p50_ms: float
    p99_ms: float
    begin_s: int
    step_s: float
    last_step_s: float
    steps: StepsStatus
    def __init__(self, model: _Optional[str] = ..., requests: _Optional[int] = ..., failed: _Optional[int] = ..., requests_per_s: _Optional[float] = ..., p50_ms: _Optional[float] = ..., p99_ms: _Optional[float] = ..., begin_s: _Optional[int] = ..., step_s: _Optional[float] = ..., last_step_s: _Optional[float] = ..., steps: _Optional[_Union[StepsStatus, _Mapping]] = ...) -> None: ...

class HeadStatus(_message.Message):
    __slots__ = ("head", "address", "http", "alive", "heard_s", "requests", "failed")
    HEAD_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    HTTP_FIELD_NUMBER: _ClassVar[int]
    ALIVE_FIELD_NUMBER: _ClassVar[int]
    HEARD_S_FIELD_NUMBER: _ClassVar[int]
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    head: int
    address: str
    http: str
    alive: bool
    heard_s: float
    requests: int
    failed: int
    def __init__(self, head: _Optional[int] = ..., address: _Optional[str] = ..., http: _Optional[str] = ..., alive: bool = ..., heard_s: _Optional[float] = ..., requests: _Optional[int] = ..., failed: _Optional[int] = ...) -> None: ...

class RingStatus(_message.Message):
    __slots__ = ("begins", "shards")
    BEGINS_FIELD_NUMBER: _ClassVar[int]
    SHARDS_FIELD_NUMBER: _ClassVar[int]
    begins: _containers.RepeatedScalarFieldContainer[int]
    shards: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, begins: _Optional[_Iterable[int]] = ..., shards: _Optional[_Iterable[int]] = ...) -> None: ...

class LatencyStatus(_message.Message):
    __slots__ = ("p50_ms", "p99_ms")
    P50_MS_FIELD_NUMBER: _ClassVar[int]
    P99_MS_FIELD_NUMBER: _ClassVar[int]
    p50_ms: float
    p99_ms: float
    def __init__(self, p50_ms: _Optional[float] = ..., p99_ms: _Optional[float] = ...) -> None: ...

class ChangeStatus(_message.Message):
    __slots__ = ("id", "kind", "subject", "under_way", "phase", "paused", "members_done", "members", "copied_bytes", "bytes_to_copy", "checked_bytes", "bytes_to_check", "before", "now", "trouble", "error", "done")
    ID_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    UNDER_WAY_FIELD_NUMBER: _ClassVar[int]
    PHASE_FIELD_NUMBER: _ClassVar[int]
    PAUSED_FIELD_NUMBER: _ClassVar[int]
    MEMBERS_DONE_FIELD_NUMBER: _ClassVar[int]
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    COPIED_BYTES_FIELD_NUMBER: _ClassVar[int]
    BYTES_TO_COPY_FIELD_NUMBER: _ClassVar[int]
    CHECKED_BYTES_FIELD_NUMBER: _ClassVar[int]
    BYTES_TO_CHECK_FIELD_NUMBER: _ClassVar[int]
    BEFORE_FIELD_NUMBER: _ClassVar[int]
    NOW_FIELD_NUMBER: _ClassVar[int]
    TROUBLE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    id: int
    kind: str
    subject: str
    under_way: bool
    phase: str
    paused: bool
    members_done: int
    members: int
    copied_bytes: int
    bytes_to_copy: int
    checked_bytes: int
    bytes_to_check: int
    before: LatencyStatus
    now: LatencyStatus
    trouble: str
    error: str
    done: float
    def __init__(self, id: _Optional[int] = ..., kind: _Optional[str] = ..., subject: _Optional[str] = ..., under_way: bool = ..., phase: _Optional[str] = ..., paused: bool = ..., members_done: _Optional[int] = ..., members: _Optional[int] = ..., copied_bytes: _Optional[int] = ..., bytes_to_copy: _Optional[int] = ..., checked_bytes: _Optional[int] = ..., bytes_to_check: _Optional[int] = ..., before: _Optional[_Union[LatencyStatus, _Mapping]] = ..., now: _Optional[_Union[LatencyStatus, _Mapping]] = ..., trouble: _Optional[str] = ..., error: _Optional[str] = ..., done: _Optional[float] = ...) -> None: ...

class ClusterStatus(_message.Message):
    __slots__ = ("head", "epoch", "shards", "tables", "models", "requests", "failed", "uptime_s", "device", "pulls", "messages", "sent_bytes", "received_bytes", "degrade", "server_version", "leader", "warnings", "admin", "at_door", "deployment", "heads", "recent", "change", "ring", "next_ring", "live", "head_number", "straight_pushes", "heads_because")
    class LiveEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    HEAD_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    SHARDS_FIELD_NUMBER: _ClassVar[int]
    TABLES_FIELD_NUMBER: _ClassVar[int]
    MODELS_FIELD_NUMBER: _ClassVar[int]
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    UPTIME_S_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    PULLS_FIELD_NUMBER: _ClassVar[int]
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    SENT_BYTES_FIELD_NUMBER: _ClassVar[int]
    RECEIVED_BYTES_FIELD_NUMBER: _ClassVar[int]
    DEGRADE_FIELD_NUMBER: _ClassVar[int]
    SERVER_VERSION_FIELD_NUMBER: _ClassVar[int]
    LEADER_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    ADMIN_FIELD_NUMBER: _ClassVar[int]
    AT_DOOR_FIELD_NUMBER: _ClassVar[int]
    DEPLOYMENT_FIELD_NUMBER: _ClassVar[int]
    HEADS_FIELD_NUMBER: _ClassVar[int]
    RECENT_FIELD_NUMBER: _ClassVar[int]
    CHANGE_FIELD_NUMBER: _ClassVar[int]
    RING_FIELD_NUMBER: _ClassVar[int]
    NEXT_RING_FIELD_NUMBER: _ClassVar[int]
    LIVE_FIELD_NUMBER: _ClassVar[int]
    HEAD_NUMBER_FIELD_NUMBER: _ClassVar[int]
    STRAIGHT_PUSHES_FIELD_NUMBER: _ClassVar[int]
    HEADS_BECAUSE_FIELD_NUMBER: _ClassVar[int]
    head: str
    epoch: int
    shards: _containers.RepeatedCompositeFieldContainer[ShardStatus]
    tables: _containers.RepeatedCompositeFieldContainer[TableStatus]
    models: _containers.RepeatedCompositeFieldContainer[Model]
    requests: int
    failed: int
    uptime_s: float
    device: str
    pulls: int
    messages: int
    sent_bytes: int
    received_bytes: int
    degrade: _containers.RepeatedCompositeFieldContainer[DegradeStatus]
    server_version: str
    leader: Leader
    warnings: _containers.RepeatedScalarFieldContainer[str]
    admin: str
    at_door: bool
    deployment: str
    heads: _containers.RepeatedCompositeFieldContainer[HeadStatus]
    recent: _containers.RepeatedCompositeFieldContainer[RecentStatus]
    change: ChangeStatus
    ring: RingStatus
    next_ring: RingStatus
    live: _containers.ScalarMap[str, int]
    head_number: int
    straight_pushes: str
    heads_because: str
    def __init__(self, head: _Optional[str] = ..., epoch: _Optional[int] = ..., shards: _Optional[_Iterable[_Union[ShardStatus, _Mapping]]] = ..., tables: _Optional[_Iterable[_Union[TableStatus, _Mapping]]] = ..., models: _Optional[_Iterable[_Union[Model, _Mapping]]] = ..., requests: _Optional[int] = ..., failed: _Optional[int] = ..., uptime_s: _Optional[float] = ..., device: _Optional[str] = ..., pulls: _Optional[int] = ..., messages: _Optional[int] = ..., sent_bytes: _Optional[int] = ..., received_bytes: _Optional[int] = ..., degrade: _Optional[_Iterable[_Union[DegradeStatus, _Mapping]]] = ..., server_version: _Optional[str] = ..., leader: _Optional[_Union[Leader, _Mapping]] = ..., warnings: _Optional[_Iterable[str]] = ..., admin: _Optional[str] = ..., at_door: bool = ..., deployment: _Optional[str] = ..., heads: _Optional[_Iterable[_Union[HeadStatus, _Mapping]]] = ..., recent: _Optional[_Iterable[_Union[RecentStatus, _Mapping]]] = ..., change: _Optional[_Union[ChangeStatus, _Mapping]] = ..., ring: _Optional[_Union[RingStatus, _Mapping]] = ..., next_ring: _Optional[_Union[RingStatus, _Mapping]] = ..., live: _Optional[_Mapping[str, int]] = ..., head_number: _Optional[int] = ..., straight_pushes: _Optional[str] = ..., heads_because: _Optional[str] = ...) -> None: ...
