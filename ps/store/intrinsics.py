"""Intrinsics that numba has no words for: reading an address, prefetching a cache line, comparing one at once.

Each is a few instructions of LLVM, placed where it is called. Addresses are int64; the caller answers for what lies
there.
"""

from __future__ import annotations

from typing import Any, Final

from llvmlite import binding, ir
from numba.core import cgutils, types
from numba.extending import intrinsic

LINE_BYTES: Final = 64
"""Bytes of a cache line."""

INT8, INT16, INT32, INT64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
_PREFETCH: Final = "llvm.prefetch.p0"


def _loader(numba_type: Any, align: int | None = None) -> Any:
    """Return an intrinsic `load(address)` of one number, at a multiple of `align` bytes; of its size by default."""

    @intrinsic
    def load(_context: Any, address: Any) -> Any:
        def generate(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
            kind = context.get_value_type(numba_type)
            return builder.load(builder.inttoptr(args[0], kind.as_pointer()), align=align or numba_type.bitwidth // 8)

        return numba_type(types.int64), generate

    return load


u8, u32, u64 = (_loader(kind) for kind in (types.uint8, types.uint32, types.uint64))
u64_unaligned = _loader(types.uint64, align=1)


def _generate_put(_context: Any, _address: Any, _value: Any) -> Any:
    def generate(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        builder.store(args[1], builder.inttoptr(args[0], INT64.as_pointer()), align=8)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


put_int64: Any = intrinsic(_generate_put)
"""`put_int64(address, value)` writes a number at a multiple of 8 bytes."""


def _releaser(numba_type: Any) -> Any:
    """Return an intrinsic `release(address, value)`: write a number of its type at a multiple of its size.

    Whoever sees it by a load that acquires, or before a fence that does, sees all that was written before it.
    """
    size = numba_type.bitwidth // 8

    @intrinsic
    def release(_context: Any, address: Any, value: Any) -> Any:
        def generate(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
            pointer = builder.inttoptr(args[0], ir.IntType(8 * size).as_pointer())
            builder.store_atomic(args[1], pointer, "release", size)
            return context.get_dummy_value()

        return types.void(types.int64, numba_type), generate

    return release


release_u16, release_u64 = (_releaser(kind) for kind in (types.uint16, types.uint64))


def _generate_acquire(_context: Any, _address: Any) -> Any:
    def generate(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        return builder.load_atomic(builder.inttoptr(args[0], INT64.as_pointer()), "acquire", 8)

    return types.uint64(types.int64), generate


acquire_u64: Any = intrinsic(_generate_acquire)
"""`acquire_u64(address)` reads a number that `release_u64` writes: what is read after it is as new as that."""


def _generate_fence(_context: Any) -> Any:
    def generate(context: Any, builder: Any, _signature: Any, _args: Any) -> Any:
        builder.fence("acquire")
        return context.get_dummy_value()

    return types.void(), generate


fence: Any = intrinsic(_generate_fence)
"""`fence()`: what is read after it is as new as what was read before it. No instruction on x86."""


def _prefetcher(locality: int) -> Any:
    """Return an intrinsic `prefetch(address)`: start loading a cache line. Any integer is safe.

    Locality 3 brings it to the first cache level; 2 to the second, which takes more of them at once.
    """

    @intrinsic
    def prefetch(_context: Any, address: Any) -> Any:
        def generate(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
            pointer = INT8.as_pointer()
            kind = ir.FunctionType(ir.VoidType(), [pointer, INT32, INT32, INT32])
            function = builder.module.globals.get(_PREFETCH) or ir.Function(builder.module, kind, _PREFETCH)
            read, data = INT32(0), INT32(1)
            builder.call(function, [builder.inttoptr(args[0], pointer), read, INT32(locality), data])
            return context.get_dummy_value()

        return types.void(types.int64), generate

    return prefetch


_FAR: Final = 3 if binding.get_host_cpu_name() == "znver5" else 2
"""Locality of many loads at once, by processor, as numba's cache is kept, too; see ps/README.md, "Decisions"."""

prefetch_near = _prefetcher(3)
prefetch_far = _prefetcher(_FAR)


def splat(builder: Any, value: Any, lanes: int) -> Any:
    """Return a vector of `lanes` times `value`: for generators of code."""
    undefined = ir.Constant(ir.VectorType(value.type, lanes), ir.Undefined)
    first = builder.insert_element(undefined, value, INT32(0))
    return builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(INT32, lanes), [0] * lanes))


def _generate_matches(_context: Any, line_at: Any, position: Any) -> Any:
    def generate(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        eight = builder.load(builder.inttoptr(args[0], ir.VectorType(INT64, 8).as_pointer()), align=8)
        equal = builder.icmp_unsigned("==", eight, splat(builder, args[1], 8))
        return builder.zext(builder.bitcast(equal, INT8), INT64)

    return types.int64(types.int64, types.uint64), generate


def _generate_lines_differ(_context: Any, one: Any, other: Any) -> Any:
    def generate(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        kind = ir.VectorType(INT64, 8).as_pointer()
        lines = [builder.load(builder.inttoptr(each, kind), align=1) for each in args]
        differ = builder.icmp_unsigned("!=", *lines)
        return builder.zext(builder.bitcast(differ, INT8), INT64)

    return types.int64(types.int64, types.int64), generate


def _generate_tag_matches(_context: Any, tags_at: Any, tag: Any) -> Any:
    def generate(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        kind = ir.VectorType(INT16, 32)
        tags = builder.load(builder.inttoptr(args[0], kind.as_pointer()), align=LINE_BYTES)
        equal = builder.icmp_unsigned("==", tags, splat(builder, args[1], 32))
        return builder.zext(builder.bitcast(equal, INT32), INT64)

    return types.int64(types.int64, types.uint16), generate


def _generate_lowest_bit(_context: Any, bits: Any) -> Any:
    def generate(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        return builder.cttz(args[0], ir.IntType(1)(0))

    return types.int64(types.int64), generate


def _generate_copy(_context: Any, _to: Any, _source: Any, _count: Any) -> Any:
    def generate(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        to, source = (builder.inttoptr(each, INT8.as_pointer()) for each in args[:2])
        memcpy: Any = cgutils.raw_memcpy
        memcpy(builder, to, source, args[2], 1)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), generate


copy_bytes: Any = intrinsic(_generate_copy)
"""`copy_bytes(to, source, count)` copies so many bytes from one address to another; they must not overlap."""

matches: Any = intrinsic(_generate_matches)
"""`matches(line_at, number)` returns which of the 8 uint64 from a multiple of 8 bytes on equal `number`, as bits."""

lines_differ: Any = intrinsic(_generate_lines_differ)
"""`lines_differ(one, other)` returns which of the 8 uint64 at two addresses, multiples of anything, differ, as bits."""

tag_matches: Any = intrinsic(_generate_tag_matches)
"""`tag_matches(tags_at, tag)` returns which of the 32 uint16 of a line equal `tag`, as bits."""

lowest_bit: Any = intrinsic(_generate_lowest_bit)
"""`lowest_bit(bits)` returns the number of the lowest set bit, 64 where none is."""
