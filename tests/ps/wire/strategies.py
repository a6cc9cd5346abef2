"""Messages of the data plane for hypothesis, and how to compare them."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st

from ringpull.ps.pull_messages import Op, PullReply, PullRequest, SubLookup
from ringpull.ps.store.file_stamp import FileStamp
from ringpull.ps.top_k_messages import TopKReply, TopKRequest
from ringpull.ps.wire.files_messages import FilesReply, FilesRequest, TableFiles
from ringpull.ps.wire.messages import (
    DescribeReply,
    DescribeRequest,
    ErrorReply,
    RangePullReply,
    RangePullRequest,
    ShardStatistics,
    StatisticsRequest,
    TableStatistics,
)
from ringpull.ps.wire.newest_messages import NewestReply, NewestRequest
from ringpull.ps.wire.push_messages import PushReply, PushRequest

names = st.text(max_size=20)
counts = st.integers(0, 2**63 - 1)
small = st.integers(0, 40)
identities = st.integers(0, 2**64 - 1)
paths = st.binary(max_size=20).map(lambda path: b"/" + path.replace(b"\0", b""))


def arrays(dtype: type[np.generic], size: int) -> st.SearchStrategy[np.ndarray]:
    """Arrays of this size with any bits, NaNs and all."""
    width = np.dtype(dtype).itemsize
    return st.binary(min_size=size * width, max_size=size * width).map(lambda data: np.frombuffer(data, dtype))


@st.composite
def sub_lookups(draw: st.DrawFn) -> SubLookup:
    op = draw(st.sampled_from(Op))
    keys = draw(small)
    bags = 0 if op is Op.ROWS else draw(st.integers(0, keys))
    return SubLookup(draw(names), op, keys, bags, op is Op.SUM and draw(st.booleans()))


@st.composite
def pull_requests(draw: st.DrawFn) -> PullRequest:
    lookups = tuple(draw(st.lists(sub_lookups(), max_size=6)))
    return PullRequest(
        model=draw(names),
        version=draw(counts),
        epoch=draw(counts),
        lookups=lookups,
        positions=draw(arrays(np.uint64, sum(lookup.keys for lookup in lookups))),
        lengths=draw(arrays(np.uint32, sum(lookup.bags for lookup in lookups))),
        weights=draw(arrays(np.float32, sum(lookup.keys for lookup in lookups if lookup.weighted))),
        identity=draw(identities),
        max_reply_bytes=draw(st.integers(0, 2**61 - 1)),
        tell_absent=draw(st.booleans()),
        as_exported=draw(st.booleans()),
    )


@st.composite
def top_k_requests(draw: st.DrawFn) -> TopKRequest:
    count, among = draw(st.integers(0, 5)), draw(st.booleans())
    edges = sorted(draw(st.sets(st.integers(0, 65_536), max_size=8)))
    limited = draw(st.lists(small, min_size=count, max_size=count)) if among else [0] * count
    lengths = [*draw(st.lists(small, min_size=count, max_size=count)), *limited]
    return TopKRequest(
        model=draw(names),
        version=draw(counts),
        epoch=draw(counts),
        table=draw(names),
        k=draw(st.integers(1, 10_000)),
        cosine=draw(st.booleans()),
        count=count,
        among=among,
        vectors=draw(arrays(np.float32, 3 * count)),
        ranges=np.array([] if among else edges[: len(edges) // 2 * 2], np.uint32),
        lengths=np.array(lengths, np.uint32),
        positions=draw(arrays(np.uint64, sum(lengths))),
        identity=draw(identities),
    )


@st.composite
def push_requests(draw: st.DrawFn) -> PushRequest:
    remove, keys = draw(st.booleans()), draw(small)
    lengths = draw(st.lists(small, min_size=keys, max_size=keys)) if draw(st.booleans()) and not remove else []
    size = 0 if remove else sum(lengths) if lengths else 3 * keys
    writer = draw(identities)
    return PushRequest(
        model=draw(names),
        table=draw(names),
        epoch=draw(counts),
        lineage=draw(identities),
        writer=writer,
        number=max(1, draw(identities)) if writer else 0,
        remove=remove,
        positions=draw(arrays(np.uint64, keys)),
        rows=draw(arrays(np.uint8, size)),
        lengths=np.array(lengths, np.uint32),
        identity=draw(identities),
        only_live=draw(st.booleans()),
    )


requests = st.one_of(
    pull_requests(),
    push_requests(),
    top_k_requests(),
    st.builds(
        RangePullRequest,
        model=names,
        version=counts,
        table=names,
        begin=st.integers(0, 65_536),
        end=st.integers(0, 65_536),
        cursor=counts,
        max_bytes=counts,
        identity=identities,
    ),
    st.just(StatisticsRequest()),
    st.builds(
        DescribeRequest,
        model=names,
        version=counts,
        table=names.filter(bool),  # without a name it asks for files
        begin=st.integers(0, 65_536),
        end=st.integers(0, 65_536),
        identity=identities,
    ),
    st.builds(FilesRequest, model=names, version=counts),
    st.builds(
        NewestRequest,
        model=names,
        version=counts,
        table=names,
        begin=st.integers(0, 65_536),
        end=st.integers(0, 65_536),
        first=identities,
        max_bytes=counts,
        identity=identities,
    ),
)

replies = st.one_of(
    small.flatmap(
        lambda size: st.builds(
            PullReply,
            values=arrays(np.float32, 3 * size),
            missing=arrays(np.uint32, size),
            found=arrays(np.uint8, size),
        )
    ),
    st.tuples(small, small, small).flatmap(
        lambda sizes: st.builds(
            PullReply,
            values=arrays(np.float32, sizes[0]),
            missing=arrays(np.uint32, sizes[1]),
            found=arrays(np.uint8, sizes[1] + sizes[2]),
            lengths=arrays(np.uint32, 1 + sizes[2]),
            data=arrays(np.uint8, 7 * sizes[0]),
        )
    ),
    st.tuples(small, small, small).flatmap(
        lambda sizes: st.builds(
            PullReply,
            values=arrays(np.float32, sizes[0]),
            missing=arrays(np.uint32, sizes[1]),
            found=arrays(np.uint8, sizes[1]),
            lengths=arrays(np.uint32, sizes[2]),
            data=arrays(np.uint8, sizes[0]),
            absent=arrays(np.uint32, 1 + sizes[2]),
        )
    ),
    st.tuples(small, st.booleans()).flatmap(
        lambda drawn: st.builds(
            RangePullReply,
            positions=arrays(np.uint64, drawn[0]),
            rows=arrays(np.uint8, 5 * drawn[0]),
            checksum=st.integers(0, 2**64 - 1),
            next_cursor=counts,
            total_rows=counts,
            lengths=arrays(np.uint32, drawn[0] if drawn[1] else 0),
        )
    ),
    st.builds(
        ShardStatistics,
        shard=counts,
        epoch=counts,
        pid=counts,
        slots=st.integers(0, 65_536),
        requests=counts,
        tables=st.lists(
            st.builds(TableStatistics, names, counts, names, counts, counts, counts, counts), max_size=4
        ).map(tuple),
    ),
    small.flatmap(
        lambda size: st.builds(
            DescribeReply,
            spec=arrays(np.uint8, size),
            identity=st.integers(0, 2**64 - 1),
            rows=counts,
            rows_bytes=counts,
        )
    ),
    st.lists(small, max_size=4).flatmap(
        lambda rows: st.builds(
            TopKReply,
            counts=st.just(np.array(rows, np.uint32)),
            positions=arrays(np.uint64, sum(rows)),
            scores=arrays(np.float32, sum(rows)),
        )
    ),
    st.builds(
        FilesReply,
        machine=names,
        change=counts,
        versions=st.lists(st.tuples(names, counts), max_size=3).map(tuple),
        identity=identities,
        tables=st.lists(
            st.builds(
                TableFiles,
                table=names,
                folder=paths,
                within=st.just(b"") | paths,
                identity=identities,
                header=st.builds(FileStamp, counts, counts, counts, counts, counts),
                unanswered=st.sampled_from([(), ((0, 1), (5, 65_536))]),
            ),
            max_size=3,
        ).map(tuple),
    ),
    st.builds(PushReply, stamp=identities, rows=counts, new_keys=counts, repeated=counts),
    st.tuples(small, st.booleans()).flatmap(
        lambda drawn: st.builds(
            NewestReply,
            stamp=identities,
            done=st.booleans(),
            checksum=identities,
            positions=arrays(np.uint64, drawn[0]),
            rows=arrays(np.uint8, 5 * drawn[0]),
            lengths=arrays(np.uint32, drawn[0] if drawn[1] else 0),
        )
    ),
    st.builds(ErrorReply, code=names, message=names, epoch=counts, table=names, retry_after_ms=counts),
)


def same(first: Any, second: Any) -> bool:
    """Whether two messages are equal, arrays bit for bit and in type."""
    if type(first) is not type(second):
        return False
    if is_dataclass(first):
        return all(_same_field(getattr(first, field.name), getattr(second, field.name)) for field in fields(first))
    if isinstance(first, PushRequest):
        return all(map(_same_field, first, second))
    return bool(first == second)


def _same_field(first: Any, second: Any) -> bool:
    if isinstance(first, np.ndarray):
        return first.dtype == second.dtype and first.tobytes() == second.tobytes()
    return bool(first == second)
