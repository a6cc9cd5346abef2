"""The codec of messages: to frames and back. What a frame's header must hold, kind by kind, is checked here only.

Reading is strict: a field of the wrong type, a count that disagrees with an array, a field too many is a
`ProtocolError`, so that receivers of a message may rely on its docstrings about types and sizes. What the numbers
mean (does the table exist, do the lengths of a look-up's bags add up to its keys) is for the shard to say.
"""

from __future__ import annotations

from dataclasses import replace
from reprlib import repr as brief
from typing import Any, Final

import numpy as np

from ringpull.ps.errors import ProtocolError
from ringpull.ps.hashing import POSITION_BYTES, SLOTS
from ringpull.ps.pull_messages import Op, PullReply, PullRequest, SubLookup
from ringpull.ps.spec import MAX_BYTES_ROW, MAX_DIM
from ringpull.ps.top_k_messages import MAX_K, MAX_QUERIES, TopKReply, TopKRequest
from ringpull.ps.wire.files_messages import MAX_FILES_BYTES, FilesReply, FilesRequest
from ringpull.ps.wire.frames import ALIGNMENT, REPLY_LIMITS, REQUEST_LIMITS, Frame, Kind, Limits, encode, padded
from ringpull.ps.wire.header_fields import MAX_INT, MAX_UINT, HeaderFields, Layout
from ringpull.ps.wire.messages import (
    ANY_SHARD,
    DescribeReply,
    DescribeRequest,
    ErrorReply,
    Hello,
    RangePullReply,
    RangePullRequest,
    Reply,
    Request,
    ShardStatistics,
    StatisticsRequest,
    TableStatistics,
)
from ringpull.ps.wire.newest_messages import MAX_NEWEST_BYTES, NewestReply, NewestRequest
from ringpull.ps.wire.push_messages import PushReply, PushRequest

_OPS: Final = {int(op): op for op in Op}
_OF_PUSHES: Final = Layout(
    ["model", "table"],
    {
        "epoch": MAX_INT,
        "lineage": MAX_UINT,
        "writer": MAX_UINT,
        "number": MAX_UINT,
        "remove": 1,
        "identity": MAX_UINT,
    },
)
"""Fields of a push that are always there."""
_OF_PUSH_REPLIES: Final = Layout([], {"stamp": MAX_UINT, "rows": MAX_INT, "new keys": MAX_INT, "repeated": MAX_INT})


TELL_ABSENT: Final = 1 << 62
"""Bit of a pull's field "most bytes of the reply" that asks which keys are absent. A shard of an earlier build takes it
for a limit that no reply reaches, and answers without."""
AS_EXPORTED: Final = 1 << 61
"""Bit of the same field that leaves out rows that were pushed. A shard of an earlier build has none."""
_MAX_BYTES: Final = AS_EXPORTED - 1

_FLOAT_BYTES: Final = 4
_LENGTH_BYTES: Final = 4
MAX_ROW_BYTES: Final = max(_FLOAT_BYTES * MAX_DIM + 64, MAX_BYTES_ROW)
"""Size that no stored row exceeds, whatever its type: bytes, or its values as float32 and some for a scale and
padding."""
MAX_SPEC_BYTES: Final = 1 << 20
"""Size that no description of a table exceeds: a name, and a default vector."""

NO_TABLE: Final = ""
"""Name that no table has: a `DESCRIBE` of it asks for files (`ringpull.ps.wire.files_messages`)."""

CONNECTION_ID: Final = 0
"""Request id of what concerns the connection, not one request: the hello, and the error that it ends with."""


def encode_hello(hello: Hello, *, reply: bool = False) -> list[bytes | memoryview]:
    """Return the first frame of a connection: from its caller, or in reply to that."""
    kind = Kind.HELLO_REPLY if reply else Kind.HELLO
    return encode(kind, CONNECTION_ID, [hello.deployment, hello.shard, hello.incarnation], limits=REQUEST_LIMITS)


def decode_hello(frame: Frame, kind: Kind) -> Hello:
    """Read the first frame of a connection.

    Args:
        kind: `HELLO` or `HELLO_REPLY`, whichever the peer has to send.

    Raises:
        ProtocolError: It is another frame.
    """
    if frame.kind is not kind or frame.request_id != CONNECTION_ID:
        raise ProtocolError(
            f"a connection begins with {kind.name} of the request id 0;"
            f" this one began with {frame.kind.name} of {frame.request_id}"
        )
    fields = HeaderFields(frame)
    hello = Hello(fields.text("deployment"), fields.number("shard", lowest=ANY_SHARD), fields.text("incarnation"))
    fields.end()
    return hello


def encode_cancel(request_id: int) -> list[bytes | memoryview]:
    """Return the frame that says that nobody waits any more for the answer to a request."""
    return encode(Kind.CANCEL, request_id, [], limits=REQUEST_LIMITS)


def check_cancel(frame: Frame) -> None:
    """Check that a `CANCEL` says no more than whose it is.

    Raises:
        ProtocolError: It does.
    """
    HeaderFields(frame).end()


def encode_request(
    request: Request, request_id: int, remaining_us: int, limits: Limits = REQUEST_LIMITS
) -> list[bytes | memoryview]:
    """Return the frame of a request, in pieces for `writelines`; they view the request's arrays.

    Raises:
        LimitExceeded: The shard would refuse a frame this large.
    """
    match request:
        case PullRequest():
            kind = Kind.PULL
            fields: list[object] = [request.model, request.version, request.epoch, request.lookups, request.identity]
            most = min(request.max_reply_bytes, _MAX_BYTES)
            most |= (TELL_ABSENT if request.tell_absent else 0) | (AS_EXPORTED if request.as_exported else 0)
            fields += [most] if most else []
            arrays: tuple[Any, ...] = (request.positions, request.lengths, request.weights)
        case RangePullRequest():
            kind, arrays = Kind.RANGE_PULL, ()
            fields = [
                request.model,
                request.version,
                request.table,
                request.begin,
                request.end,
                request.cursor,
                request.max_bytes,
                request.identity,
            ]
        case StatisticsRequest():
            kind, fields, arrays = Kind.STATISTICS, [], ()
        case DescribeRequest():
            kind, arrays = Kind.DESCRIBE, ()
            fields = [request.model, request.version, request.table, request.begin, request.end, request.identity]
        case FilesRequest():
            kind, arrays = Kind.DESCRIBE, ()
            fields = [request.model, request.version, NO_TABLE, 0, 0, 0]
        case TopKRequest():
            kind, arrays = Kind.TOP_K, (request.vectors, request.ranges, request.lengths, request.positions)
            fields = [request.model, request.version, request.epoch, request.table, request.k, request.count]
            fields += [int(request.cosine), int(request.among), request.identity]
        case PushRequest():
            kind, arrays = Kind.PUSH, (request.positions, request.rows, request.lengths)
            fields = [request.model, request.table, request.epoch, request.lineage, request.writer, request.number]
            fields += [int(request.remove), request.identity, *([1] if request.only_live else [])]
        case NewestRequest():
            kind, arrays = Kind.NEWEST, ()
            fields = [request.model, request.version, request.table, request.begin, request.end]
            fields += [request.first, request.max_bytes, request.identity]
    return encode(kind, request_id, fields, arrays, remaining_us=remaining_us, limits=limits)


def encode_reply(reply: Reply, request_id: int, limits: Limits = REPLY_LIMITS) -> list[bytes | memoryview]:
    """Return the frame of a reply, in pieces for `writelines`; they view the reply's arrays.

    Raises:
        LimitExceeded: The caller would refuse a frame this large.
    """
    match reply:
        case PullReply():
            arrays: tuple[Any, ...] = (reply.values, reply.missing, reply.found)
            kind = Kind.PULL_REPLY
            if reply.lengths.size:
                kind, arrays = Kind.BYTES_REPLY, (*arrays, reply.lengths, reply.data)
            if reply.absent.size:
                kind, arrays = Kind.ABSENT_REPLY, (*arrays[:3], reply.lengths, reply.data, reply.absent)
            return encode(kind, request_id, [], arrays, limits=limits)
        case PushReply():
            return encode(Kind.PUSH_REPLY, request_id, tuple(reply), limits=limits)  # its fields, in their order
        case RangePullReply():
            fields: list[object] = [reply.checksum, reply.next_cursor, reply.total_rows]
            kind, arrays = Kind.RANGE_PULL_REPLY, (reply.positions, reply.rows)
            if reply.lengths.size:
                kind, arrays = Kind.RANGE_BYTES_REPLY, (*arrays, reply.lengths)
            return encode(kind, request_id, fields, arrays, limits=limits)
        case ShardStatistics():
            tables = [[t.model, t.version, t.table, t.rows, t.bytes, t.keys, t.missing] for t in reply.tables]
            fields = [reply.shard, reply.epoch, reply.pid, reply.slots, reply.requests, tables]
            return encode(Kind.STATISTICS_REPLY, request_id, fields, limits=limits)
        case DescribeReply():
            fields = [reply.identity, reply.rows, *([reply.rows_bytes] if reply.rows_bytes else [])]
            return encode(Kind.DESCRIBE_REPLY, request_id, fields, (reply.spec,), limits=limits)
        case FilesReply():
            return encode(Kind.FILES_REPLY, request_id, [], (reply.packed(),), limits=limits)
        case TopKReply():
            arrays = (reply.counts, reply.positions, reply.scores)
            return encode(Kind.TOP_K_REPLY, request_id, [], arrays, limits=limits)
        case NewestReply():
            fields = [reply.stamp, int(reply.done), reply.checksum]
            arrays = (reply.positions, reply.rows, reply.lengths)
            return encode(Kind.NEWEST_REPLY, request_id, fields, arrays, limits=limits)
        case ErrorReply():
            # A message may quote bytes that are no text; it must still arrive.
            message = reply.message.encode("utf-8", "replace").decode()
            fields = [reply.code, message, reply.epoch]
            if reply.table or reply.retry_after_ms:
                fields += [reply.table, [list(slots) for slots in reply.slots]]
            if reply.retry_after_ms:
                fields.append(reply.retry_after_ms)
            return encode(Kind.ERROR, request_id, fields, limits=limits)


def decode_request(frame: Frame) -> Request:
    """Read the request in a frame of one of the kinds `REQUESTS`.

    Raises:
        ProtocolError: The header does not hold what this kind of request has.
    """
    if frame.kind is Kind.PUSH:
        return decode_push(frame)
    fields = HeaderFields(frame)
    match frame.kind:
        case Kind.PULL:
            positions, lengths, weights = frame.arrays
            model, version, epoch = fields.text("model"), fields.number("version"), fields.number("epoch")
            lookups = _lookups(fields.items("look-ups"), len(positions), len(lengths), len(weights))
            identity = fields.number("identity", MAX_UINT)
            most = fields.number("max reply bytes") if fields.left else 0
            flags = {"tell_absent": bool(most & TELL_ABSENT), "as_exported": bool(most & AS_EXPORTED)}
            most &= _MAX_BYTES
            request: Request = PullRequest(
                model, version, epoch, lookups, positions, lengths, weights, identity, most, **flags
            )
        case Kind.RANGE_PULL:
            request = RangePullRequest(
                model=fields.text("model"),
                version=fields.number("version"),
                table=fields.text("table"),
                begin=fields.number("begin", SLOTS),
                end=fields.number("end", SLOTS),
                cursor=fields.number("cursor"),
                max_bytes=fields.number("max bytes"),
                identity=fields.number("identity", MAX_UINT),
            )
        case Kind.STATISTICS:
            request = StatisticsRequest()
        case Kind.DESCRIBE:
            request = described = DescribeRequest(
                model=fields.text("model"),
                version=fields.number("version"),
                table=fields.text("table"),
                begin=fields.number("begin", SLOTS),
                end=fields.number("end", SLOTS),
                identity=fields.number("identity", MAX_UINT),
            )
            if described.table == NO_TABLE:
                request = FilesRequest(described.model, described.version)
        case Kind.TOP_K:
            request = _top_k_request(fields, frame.arrays)
        case Kind.NEWEST:
            request = _newest_request(fields)
        case _:
            raise ProtocolError(f"{frame.kind.name} is not a request")
    fields.end()
    if isinstance(request, TopKRequest):
        request.check()
    return request


def decode_reply(frame: Frame, request: Request | None = None) -> Reply:
    """Read the reply in a frame of one of the kinds `REPLIES`.

    Args:
        request: What the reply answers; it must be of that verb, and its counts must fit. None skips this.

    Raises:
        ProtocolError: The header does not hold what this kind of reply has, or it is no answer to `request`.
    """
    fields = HeaderFields(frame)
    match frame.kind:
        case Kind.PULL_REPLY | Kind.BYTES_REPLY | Kind.ABSENT_REPLY:
            reply: Reply = PullReply(*frame.arrays)
        case Kind.RANGE_PULL_REPLY | Kind.RANGE_BYTES_REPLY:
            checksum = fields.number("checksum", MAX_UINT)
            cursor, total = fields.number("next cursor"), fields.number("total rows")
            positions, rows, *lengths = frame.arrays
            reply = RangePullReply(positions, rows, checksum, cursor, total, *lengths)
        case Kind.STATISTICS_REPLY:
            shard, epoch, pid = fields.number("shard"), fields.number("epoch"), fields.number("pid")
            slots, requests = fields.number("slots", SLOTS), fields.number("requests")
            tables = tuple(_table_statistics(frame, item) for item in fields.items("tables"))
            reply = ShardStatistics(shard, epoch, pid, slots, requests, tables)
        case Kind.DESCRIBE_REPLY:
            reply = DescribeReply(frame.arrays[0], fields.number("identity", MAX_UINT), fields.number("rows"))
            if fields.left:
                reply = replace(reply, rows_bytes=fields.number("bytes of rows"))
        case Kind.TOP_K_REPLY:
            reply = TopKReply(*frame.arrays)
        case Kind.FILES_REPLY:
            reply = FilesReply.unpacked(frame.arrays[0])
        case Kind.PUSH_REPLY:
            reply = PushReply(*fields.several(_OF_PUSH_REPLIES))
        case Kind.NEWEST_REPLY:
            stamp, done = fields.number("stamp", MAX_UINT), bool(fields.number("done", 1))
            reply = NewestReply(stamp, done, fields.number("checksum", MAX_UINT), *frame.arrays)
        case Kind.ERROR:
            reply = ErrorReply(fields.text("code"), fields.text("message"), fields.number("epoch"))
            if fields.left:
                table = fields.text("table")
                reply = replace(reply, table=table, slots=tuple(map(_slots, fields.items("slots"))))
            if fields.left:
                reply = replace(reply, retry_after_ms=fields.number("retry_after_ms"))
        case _:
            raise ProtocolError(f"{frame.kind.name} is not a reply")
    fields.end()
    if request is not None:
        _check_answers(request, reply)
    return reply


def max_reply_bytes(request: Request) -> int:
    """Return the largest payload that a reply to `request` can have: what a caller that asks for it lets come."""
    match request:
        case PullRequest():
            keys, lookups = len(request.positions), len(request.lookups)
            # A key is a row, or one of those of a bag. Not by look-up: this is asked for every reply that is not small.
            rows = keys * MAX_ROW_BYTES
            if request.max_reply_bytes:
                rows = min(rows, request.max_reply_bytes)
            told = _LENGTH_BYTES if request.tell_absent else 0
            return rows + keys * (_LENGTH_BYTES + 1 + told) + lookups * _FLOAT_BYTES + 6 * ALIGNMENT
        case RangePullRequest():
            rows_bytes = padded(max(request.max_bytes, MAX_ROW_BYTES))
            # No row takes less than a byte; and that of a row of bytes where it starts counts for eight.
            return rows_bytes + rows_bytes * POSITION_BYTES
        case StatisticsRequest() | PushRequest():
            return 0
        case DescribeRequest():
            return MAX_SPEC_BYTES
        case FilesRequest():
            return MAX_FILES_BYTES
        case NewestRequest():
            # A row of bytes takes its length besides, half of what its position takes at least.
            return 2 * padded(min(max(request.max_bytes, MAX_ROW_BYTES), MAX_NEWEST_BYTES) + MAX_ROW_BYTES)
        case TopKRequest():
            rows = request.count * request.k
            return rows * (POSITION_BYTES + _FLOAT_BYTES) + request.count * _LENGTH_BYTES + 3 * ALIGNMENT


def _lookups(items: list[Any], positions: int, lengths: int, weights: int) -> tuple[SubLookup, ...]:
    """Read the look-ups of a pull, and hold their counts against its arrays."""
    lookups = []
    all_keys = all_bags = all_weights = 0
    for item in items:
        if type(item) is not list or len(item) != 5:
            raise ProtocolError(f"PULL: a look-up is {brief(item)}; it must be [table, op, keys, bags, weighted]")
        table, op_code, keys, bags, weighted = item
        op = _OPS.get(op_code) if type(op_code) is int else None
        typed = type(table) is str and type(keys) is int and type(bags) is int and type(weighted) is bool
        if op is None or not typed or keys < 0:
            raise ProtocolError(f"PULL: a look-up is {brief(item)}; it must be [text, Op, count, count, bool]")
        if bags != 0 if op is Op.ROWS else not 0 <= bags <= keys:
            raise ProtocolError(f"PULL: a look-up of {brief(table)} forms {bags} bags of {keys} keys with {op.name}")
        if weighted and op is not Op.SUM:
            raise ProtocolError(f"PULL: a look-up of {brief(table)} has weights with {op.name}; only SUM has")
        lookups.append(SubLookup(table, op, keys, bags, weighted))
        all_keys += keys
        all_bags += bags
        all_weights += keys if weighted else 0
    if (all_keys, all_bags, all_weights) != (positions, lengths, weights):
        raise ProtocolError(
            f"PULL: the look-ups have {all_keys} keys, {all_bags} bags and {all_weights} weights; "
            f"the buffers have {positions}, {lengths} and {weights}"
        )
    return tuple(lookups)


def _top_k_request(fields: HeaderFields, arrays: tuple[Any, ...]) -> TopKRequest:
    vectors, ranges, lengths, positions = arrays
    return TopKRequest(
        model=fields.text("model"),
        version=fields.number("version"),
        epoch=fields.number("epoch"),
        table=fields.text("table"),
        k=fields.number("k", MAX_K, 1),
        count=fields.number("queries", MAX_QUERIES),
        cosine=bool(fields.number("cosine", 1)),
        among=bool(fields.number("among", 1)),
        vectors=vectors,
        ranges=ranges,
        lengths=lengths,
        positions=positions,
        identity=fields.number("identity", MAX_UINT),
    )


def decode_push(frame: Frame) -> PushRequest:
    """Read the request in a frame of the kind `PUSH`, as `decode_request` does.

    Raises:
        ProtocolError: The header does not hold what a push has.
    """
    fields = HeaderFields(frame)
    model, table, epoch, lineage, writer, number, remove, identity = fields.several(_OF_PUSHES)
    only_live = bool(fields.number("only live", 1)) if fields.left else False
    fields.end()
    of_numbers = (epoch, lineage, writer, number, bool(remove))
    positions, rows, lengths = frame.arrays
    request = PushRequest(model, table, *of_numbers, positions, rows, lengths, identity, only_live)
    request.check()
    return request


def _newest_request(fields: HeaderFields) -> NewestRequest:
    return NewestRequest(
        model=fields.text("model"),
        version=fields.number("version"),
        table=fields.text("table"),
        begin=fields.number("begin", SLOTS),
        end=fields.number("end", SLOTS),
        first=fields.number("first", MAX_UINT),
        max_bytes=fields.number("max bytes"),
        identity=fields.number("identity", MAX_UINT),
    )


def _slots(item: Any) -> tuple[int, int]:
    """Read a range of slots."""
    if type(item) is list and len(item) == 2:
        begin, end = item
        if type(begin) is int and type(end) is int and 0 <= begin < end <= SLOTS:
            return begin, end
    raise ProtocolError(f"ERROR: slots are {brief(item)}; they must be [begin, end) within 0..{SLOTS}")


def _table_statistics(frame: Frame, item: Any) -> TableStatistics:
    if type(item) is not list:
        raise ProtocolError(f"{frame.kind.name}: a table is {brief(item)}; it must be an array")
    fields = HeaderFields(frame, item)
    statistics = TableStatistics(
        model=fields.text("model"),
        version=fields.number("version"),
        table=fields.text("table"),
        rows=fields.number("rows"),
        bytes=fields.number("bytes"),
        keys=fields.number("keys"),
        missing=fields.number("missing"),
    )
    fields.end()
    return statistics


def _check_answers(request: Request, reply: Reply) -> None:
    if isinstance(reply, ErrorReply):
        return
    if not isinstance(reply, _ANSWERS[type(request)]):
        raise ProtocolError(f"a {type(request).__name__} was answered with a {type(reply).__name__}")
    if isinstance(request, PullRequest) and isinstance(reply, PullReply):
        rows = sum(lookup.keys for lookup in request.lookups if lookup.op is Op.ROWS)
        if (len(reply.missing), len(reply.found)) != (len(request.lookups), rows):
            raise ProtocolError(
                f"PULL_REPLY: {len(reply.missing)} missing counts and {len(reply.found)} found flags; "
                f"the request has {len(request.lookups)} look-ups and {rows} keys of rows"
            )
        if len(reply.lengths) > rows or int(reply.lengths.sum(dtype=np.int64)) != len(reply.data):
            raise ProtocolError(
                f"BYTES_REPLY: {len(reply.lengths)} rows with {len(reply.data)} bytes; the request has {rows} keys of"
                " rows, and lengths must add up to the bytes"
            )
        if reply.absent.size and not request.tell_absent:
            raise ProtocolError(f"ABSENT_REPLY: {len(reply.absent)} absent keys, which the request did not ask for")
    if isinstance(request, TopKRequest) and isinstance(reply, TopKReply):
        reply.check(request)
    if isinstance(request, PushRequest) and isinstance(reply, PushReply):
        reply.check(request)
    if isinstance(request, NewestRequest) and isinstance(reply, NewestReply):
        reply.check(request)


_ANSWERS: Final[dict[type, type]] = {
    PullRequest: PullReply,
    RangePullRequest: RangePullReply,
    StatisticsRequest: ShardStatistics,
    DescribeRequest: DescribeReply,
    TopKRequest: TopKReply,
    FilesRequest: FilesReply,
    PushRequest: PushReply,
    NewestRequest: NewestReply,
}
