"""Ops of TensorFlow that take texts, by what they do with them."""

from __future__ import annotations

from typing import Final

MOVES: Final = frozenset(
    {
        "Identity",
        "Reshape",
        "ExpandDims",
        "Squeeze",
        "GatherNd",
        "GatherV2",
        "ConcatV2",
        "Pack",
        "Tile",
        "Transpose",
        "Slice",
        "StridedSlice",
        "Select",
        "SelectV2",
        "BroadcastTo",
        "SparseFillEmptyRows",
        "SparseToDense",
        "Fill",
        "PlaceholderWithDefault",
        "Unpack",
        "Split",
        "SplitV",
        "ReverseV2",
        "ScatterNd",
        "SparseConcat",
        "SparseReorder",
        "PadV2",
        "Unique",
        "StopGradient",
        "EnsureShape",
    }
)
"""Ops that move texts and look at none."""
SHAPES: Final = frozenset({"Shape", "ShapeN", "Size", "Rank"})
COMPARES: Final = frozenset({"Equal", "NotEqual"})
FINDS: Final = frozenset({"LookupTableFindV2"})
BUCKETS: Final = "StringToHashBucketFast"
HASHES: Final = frozenset({BUCKETS, "StringToHashBucketStrong", "StringToHashBucket"})
DIGITS: Final = "AsString"
CHANGES: Final = frozenset({"StringLower", "StringUpper", "StringStrip", "RegexReplace", "StaticRegexReplace"})
"""Ops that make another text of each."""
LOOKS: Final = frozenset({"StringLength", "RegexFullMatch", "StaticRegexFullMatch", "StringToNumber"})
