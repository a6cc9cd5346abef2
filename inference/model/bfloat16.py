"""A dense program in bfloat16: the same graph, in bfloat16 from the first product to the last.

It is made of the float32 program when that is loaded, the same way each time: a version holds one program, and which
one runs is said where it is served. Only products are worth shorter numbers, so only what lies between two of them is
in bfloat16:

- What comes before the first product (numbers of a request normalised, histories averaged) stays float32, and is cast
  once where a product takes it.
- The last product of each output, and what follows it, is float32: a score has 24 bits and not 8, so that candidates
  do not tie by the hundred.
- Where many vectors of float32 are laid side by side, they are first laid and then cast: one cast, and the same bits.

A product of bfloat16 sums in float32, in whatever order a processor likes best: results differ between processors by as
much as they do from float32, which is measured at export (`Bfloat16Receipt`).
"""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, fx

from ringpull.inference.model.torch_script import name_of
from ringpull.ps.errors import InvalidInput

PRODUCTS: Final = frozenset(
    {
        "addbmm",
        "addmm",
        "addmv",
        "baddbmm",
        "bmm",
        "conv1d",
        "conv2d",
        "convolution",
        "dot",
        "einsum",
        "gru",
        "linear",
        "lstm",
        "matmul",
        "mm",
        "mv",
        "rnn_relu",
        "rnn_tanh",
        "scaled_dot_product_attention",
    }
)
"""Operators that are products of vectors or matrices."""

INSTRUCTIONS: Final[Mapping[str, str]] = {"amx_bf16": "AMX", "avx512_bf16": "AVX512-BF16", "bf16": "BF16"}
"""Instructions for products of bfloat16, by what Linux calls them: of x86, and the last of Arm; the fastest first."""

_JOINS: Final = ("cat", "stack")
_CPUINFO: Final = Path("/proc/cpuinfo")
_FLAGS: Final = ("flags", "Features")
"""Fields of the file that list a processor's instructions: on x86, and on Arm."""


def instructions(device: str, cpuinfo: Path = _CPUINFO) -> str:
    """Return the name of what multiplies bfloat16 on a device; empty: it has no such instructions, or nobody knows."""
    if device.startswith("cuda"):
        with torch.cuda.device(torch.device(device)):
            return "CUDA" if torch.cuda.is_bf16_supported(including_emulation=False) else ""
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    listed = [line.partition(":") for line in lines]
    flags = next((names.split() for field, _, names in listed if field.strip() in _FLAGS), [])
    return next((name for flag, name in INSTRUCTIONS.items() if flag in flags), "")


def in_bfloat16(module: fx.GraphModule) -> fx.GraphModule:
    """Return the program in bfloat16 between its products; the module given is left as it was.

    Raises:
        InvalidInput: It has no product but the last of each output, or is of a kind that cannot be rewritten.
    """
    _check(module)
    low = _low(module)
    if not any(name_of(node.target) in PRODUCTS for node in low):
        raise InvalidInput(
            "it has no product of float32 but the last of each output, which stays so: there is nothing to gain"
        )
    return _Rewriter(module, low).rewritten()


def _check(module: fx.GraphModule) -> None:
    for node in module.graph.nodes:
        if node.op == "call_module" or (node.op == "get_attr" and not isinstance(_value(module, node), Tensor)):
            raise InvalidInput(f"it has a part of its own, {node.target}, such as of torch.cond: that stays float32")
        schema = getattr(node.target, "_schema", None)
        if schema is not None and schema.is_mutable:
            raise InvalidInput(f"it writes to a tensor in place ({name_of(node.target)})")


def _value(module: fx.GraphModule, node: fx.Node) -> Any:
    """Return what is known of a node's value: of weights themselves, of others a tensor without memory."""
    if node.op != "get_attr":
        return node.meta.get("val")
    found: Any = module
    for part in str(node.target).split("."):
        found = getattr(found, part)
    return found


def _low(module: fx.GraphModule) -> set[fx.Node]:
    """Return the nodes that are to be bfloat16."""
    nodes = list(module.graph.nodes)
    single = {node for node in nodes if _is_float32(_value(module, node))}
    after: set[fx.Node] = set()
    for node in nodes:
        if node in single and (_is_product(node) or any(each in after for each in node.all_input_nodes)):
            after.add(node)
    before: set[fx.Node] = set()
    for node in reversed(nodes):
        if any(_is_product(user) or user in before for user in node.users):
            before.add(node)
    low: set[fx.Node] = set()
    for node in nodes:
        if node.target is operator.getitem:
            chosen = node in single and node.args[0] in low  # it is what its source is
        else:
            chosen = node in after and node in before and not _joins_float32(node, single, low)
        if chosen:
            low.add(node)
    return low


def _is_float32(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return any(_is_float32(each) for each in value)
    return isinstance(value, Tensor) and value.dtype == torch.float32


def _is_product(node: fx.Node) -> bool:
    return node.op == "call_function" and name_of(node.target) in PRODUCTS


def _joins_float32(node: fx.Node, single: set[fx.Node], low: set[fx.Node]) -> bool:
    """Return whether a node lays more tensors of float32 side by side than of bfloat16."""
    if name_of(node.target) not in _JOINS:
        return False
    joined = [each for each in node.all_input_nodes if each in single]
    return sum(each in low for each in joined) * 2 < len(joined)


class _Rewriter:
    """Copies a graph, node by node, with casts where the two types meet."""

    def __init__(self, module: fx.GraphModule, low: set[fx.Node]) -> None:
        self._module = module
        self._low = low
        self._graph = fx.Graph()
        self._copies: dict[fx.Node, fx.Node] = {}
        self._casts: dict[tuple[fx.Node, torch.dtype], fx.Node] = {}
        self._weights = {str(node.target): _value(module, node) for node in module.graph.nodes if node.op == "get_attr"}

    def rewritten(self) -> fx.GraphModule:
        for node in self._module.graph.nodes:
            if name_of(node.target) == "_assert_tensor_metadata":
                continue  # of types that are others now
            low = node in self._low
            copy = self._graph.node_copy(node, self._for_short if low else self._for_float32)
            if low:
                copy.args = _with_short(copy.args)
                copy.kwargs = _with_short(copy.kwargs)
            self._copies[node] = copy
        self._graph.eliminate_dead_code()
        self._graph.lint()
        return fx.GraphModule(self._weights, self._graph)  # which takes those alone that the graph names

    def _for_short(self, node: fx.Node) -> fx.Node:
        """Return what a node of bfloat16 is given for another one: itself, or a cast of it."""
        cast = node not in self._low and self._is_single(node)
        return self._cast(node, torch.bfloat16) if cast else self._copies[node]

    def _for_float32(self, node: fx.Node) -> fx.Node:
        return self._cast(node, torch.float32) if self._is_single(node) and node in self._low else self._copies[node]

    def _is_single(self, node: fx.Node) -> bool:
        """Return whether a node's value was one tensor of float32."""
        value = _value(self._module, node)
        return isinstance(value, Tensor) and value.dtype == torch.float32

    def _cast(self, node: fx.Node, dtype: torch.dtype) -> fx.Node:
        if (node, dtype) not in self._casts:
            if node.op == "get_attr":
                name = f"bfloat16_{len(self._casts)}"
                self._weights[name] = _short_weight(_value(self._module, node).detach())
                made = self._graph.get_attr(name)
            else:
                made = self._graph.call_function(torch.ops.aten.to.dtype, (self._copies[node], dtype))
                # Look-ups beside it are packed only where its shape is known (`torch_packing`).
                made.meta["val"] = _value(self._module, node).to(dtype)
            self._casts[node, dtype] = made
        return self._casts[node, dtype]


def _short_weight(weight: Tensor) -> Tensor:
    """Return a weight in bfloat16, in which what was finite is so still: -3.4e38 of a mask is not -inf."""
    most = torch.finfo(torch.bfloat16).max
    return torch.where(weight.isfinite(), weight.clamp(-most, most), weight).to(torch.bfloat16)


def _with_short(values: Any) -> Any:
    """Return arguments with bfloat16 in the place of float32 where that is named, and numbers that it holds."""
    if isinstance(values, tuple | list):
        return type(values)(_with_short(each) for each in values)
    if isinstance(values, dict):
        return {name: _with_short(each) for name, each in values.items()}
    if isinstance(values, float) and math.isfinite(values):
        most = torch.finfo(torch.bfloat16).max
        return min(max(values, -most), most)
    return torch.bfloat16 if values is torch.float32 else values
