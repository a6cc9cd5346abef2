"""Capture of a torch module as a plain graph: `torch.export`, then weights as attributes, and arguments as inputs.

The graph that comes out has aten operators, one `placeholder` per argument of the forward, one `get_attr` per weight
(weights that share memory are one, called by the first module path), no assertions and no in-place operators. Nothing
is copied: it refers to the module's own tensors.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import Tensor, fx, nn
from torch._ops import HigherOrderOperator
from torch.export import Dim, ExportedProgram
from torch.export.graph_signature import InputKind
from torch.utils._pytree import tree_map

from ringpull.inference.export.calls.call import Call
from ringpull.inference.export.calls.once import is_sparse
from ringpull.inference.export.calls.packed import padded_sequences
from ringpull.inference.export.calls.ready import ready
from ringpull.inference.export.diagnosis.errors import refusal
from ringpull.inference.export.diagnosis.quiet import quiet_torch
from ringpull.inference.export.diagnosis.rows import check_rows_free
from ringpull.inference.export.examples import TRACED_ROWS
from ringpull.inference.export.outputs import read_outputs, user_outputs
from ringpull.inference.export.row_symbol import one_symbol_each
from ringpull.inference.model.manifest import ProgramOutput
from ringpull.ps.errors import ExportError
from ringpull.ps.spec import NAME_PATTERN

LONGEST_PLAIN: Final = 120
"""Characters of a table's name that is made of a path, before the number of one that was taken."""


@dataclass(frozen=True, slots=True)
class Captured:
    """A module as a graph."""

    graph_module: fx.GraphModule
    arguments: Mapping[str, fx.Node]
    """Placeholders by argument name."""
    weights: Mapping[fx.Node, str]
    """Name of each parameter, buffer or other tensor, by `get_attr` node: the path of the module whose `weight` it is,
    else its own path."""
    outputs: tuple[ProgramOutput, ...]
    computed: Mapping[str, str] = field(default_factory=dict)
    """Weights that were computed once, of weights alone (`ringpull.inference.export.passes`), and what of."""


def trace(module: nn.Module, args: tuple[Any, ...], described: str) -> ExportedProgram:
    """Run `torch.export` with the first dimension of every tensor in the arguments dynamic.

    Raises:
        ExportError: torch cannot trace the module.
    """
    sizes = tree_map(lambda tensor: {0: Dim.AUTO}, args)
    with (
        quiet_torch(),
        one_symbol_each((TRACED_ROWS, TRACED_ROWS + 1)),
    ):  # offsets are one more than the rows
        try:
            with padded_sequences():
                return torch.export.export(module, args, dynamic_shapes=sizes, strict=False)
        except ExportError:  # ours, of how the module uses what it is given
            raise
        except Exception as exc:  # torch.export raises errors of many roots, and those of the module itself
            raise refusal(exc, described, lambda: module(*args)) from exc


def capture(call: Call, arguments: Mapping[str, Tensor]) -> Captured:
    """Trace a call, in evaluation mode, with example arguments by name; their first dimensions stay dynamic.

    Raises:
        ExportError: torch cannot trace it, it only works for one number of rows, or its outputs are not floats by row.
    """
    with ready(call.module):
        program = _trace(call, dict(arguments))
        check_rows_free(program, call.described, lambda: _trace(call, dict(arguments)))
        _refuse_max_norm(call, program)
        if any(_is_in_place(node) or _is_context(node) for node in program.graph.nodes):
            with quiet_torch():
                program = program.run_decompositions({})
            call.module.written = _written(call, program)
        call.check_read()
        return _lift(call, program, arguments)


def _trace(call: Call, arguments: dict[str, Tensor]) -> ExportedProgram:
    try:
        return trace(call.module, (arguments,), call.described)
    except ExportError as exc:
        if call.turn_types():
            with suppress(ExportError):
                return trace(call.module, (arguments,), call.described)
            call.turn_types()
        if exc.__cause__ is None:
            raise
        raise ExportError(f"{exc}{call.advice(exc.__cause__)}") from exc.__cause__


def _refuse_max_norm(call: Call, program: ExportedProgram) -> None:
    names = program.graph_signature.inputs_to_parameters
    for node in program.graph.nodes:
        if "embedding_renorm" in str(node.target):
            weight = node.args[0]
            while weight.op == "call_function":
                weight = weight.args[0]
            name = call.path_of(names.get(weight.name, weight.name)).removesuffix(".weight")
            raise ExportError(
                f"embedding {name}: max_norm changes rows while"
                " they are read, which a served table does not do; renormalise the weight once and drop max_norm"
            )


def _is_in_place(node: fx.Node) -> bool:
    target = node.target
    return (
        isinstance(target, torch._ops.OpOverload)
        and target._schema.is_mutable
        and target != torch.ops.aten.detach_.default
    )


def _is_context(node: fx.Node) -> bool:
    """Return whether a node runs a graph of its own in a context, as `torch.autocast` is one."""
    return isinstance(node.target, HigherOrderOperator) and str(node.target).startswith("wrap_with_")


def _written(call: Call, program: ExportedProgram) -> tuple[Tensor, ...]:
    """Return the weights and buffers that a program writes into, such as a count of calls."""
    module = call.module
    named = [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]
    targets = {each.target for each in program.graph_signature.output_specs if each.kind.name.endswith("_MUTATION")}
    return tuple(tensor for name, tensor in named if name in targets)


def _lift(call: Call, program: ExportedProgram, examples: Mapping[str, Tensor]) -> Captured:
    """Copy the program's graph, with inputs of the given names, and `get_attr` for the weights."""
    outputs = read_outputs(program, call.described)
    owners, names = _owners(call), iter(examples)
    signature = {spec.arg.name: spec for spec in program.graph_signature.input_specs}
    tensors: dict[str, Any] = {**program.constants, **program.state_dict}
    root, graph = nn.Module(), fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    attributes: dict[str, fx.Node] = {}
    arguments: dict[str, fx.Node] = {}
    weights: dict[fx.Node, str] = {}
    for node in program.graph.nodes:
        if node.op == "placeholder":
            spec = signature[node.name]
            if spec.kind is InputKind.USER_INPUT:
                name = next(names)
                copies[node] = arguments[name] = graph.placeholder(name)
                arguments[name].meta.update(node.meta)
                continue
            assert spec.target is not None
            tensor = tensors[spec.target]
            if is_sparse(tensor) and node.users:
                raise call.refusal_of_sparse(call.path_of(spec.target), examples)
            name, path = owners.get(_identity(tensor), (node.name, call.path_of(spec.target)))
            if name not in attributes:
                setattr(root, name, tensor)
                attributes[name] = graph.get_attr(name)
                attributes[name].meta.update(node.meta)
                weights[attributes[name]] = path.removesuffix(".weight")
            copies[node] = attributes[name]
        elif node.op == "get_attr":  # the body of a control flow operator
            setattr(root, str(node.target), getattr(program.graph_module, str(node.target)))
            copies[node] = graph.node_copy(node)
        elif node.op == "output":
            results = user_outputs(program, node)
            graph.output(tuple(copies[result] for result in results))
        elif not _is_assertion(node):
            copies[node] = graph.node_copy(node, copies.__getitem__)
    graph.eliminate_dead_code()
    alive = set(graph.nodes)
    return Captured(
        graph_module=fx.GraphModule(root, graph),
        arguments=arguments,
        weights=_as_table_names({node: path for node, path in weights.items() if node in alive}),
        outputs=outputs,
    )


def _as_table_names(paths: Mapping[fx.Node, str]) -> dict[fx.Node, str]:
    """Return paths as names that tables may have, of which no two are equal.

    What no table's name holds becomes `_`: keys of an `nn.ModuleDict` are any text ("user+item") but for dots.
    """
    names: dict[fx.Node, str] = {}
    taken = {path for path in paths.values() if NAME_PATTERN.fullmatch(path)}
    for node, path in paths.items():
        if NAME_PATTERN.fullmatch(path):
            names[node] = path
            continue
        plain = re.sub(r"[^A-Za-z0-9_.-]", "_", path).lstrip(".-")[:LONGEST_PLAIN] or "_"
        tries = (plain if number == 1 else f"{plain}_{number}" for number in itertools.count(1))
        names[node] = next(each for each in tries if each not in taken)
        taken.add(names[node])
    return names


def _owners(call: Call) -> dict[Any, tuple[str, str]]:
    """Return attribute name and module path of each parameter and buffer; of several that are one tensor, the first."""
    owners: dict[Any, tuple[str, str]] = {}
    module = call.module
    named = [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]
    for number, (path, tensor) in enumerate(named):
        owners.setdefault(_identity(tensor), (f"weight_{number}", call.path_of(path)))
    return owners


def _identity(tensor: Any) -> Any:
    if not isinstance(tensor, Tensor) or is_sparse(tensor) or tensor.numel() == 0:
        return id(tensor)
    return tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride()


def _is_assertion(node: fx.Node) -> bool:
    name = getattr(node.target, "__name__", "")
    return not node.users and name.startswith(("_assert", "sym_constrain"))
