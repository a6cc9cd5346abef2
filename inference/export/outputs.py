"""Outputs of a captured program: their names and shapes, and what makes one nothing that can be served."""

from __future__ import annotations

from torch import Tensor, fx
from torch.export import ExportedProgram
from torch.export.graph_signature import OutputKind
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols
from torch.utils._pytree import tree_unflatten

from ringpull.inference.export.diagnosis.errors import at_place
from ringpull.inference.export.diagnosis.places import place_of_node
from ringpull.inference.export.examples import TRACED_ROWS
from ringpull.inference.model.manifest import ProgramOutput
from ringpull.ps.errors import ExportError


def user_outputs(program: ExportedProgram, output: fx.Node) -> list[fx.Node]:
    """Return what the user's method returns, of all that a program's output node holds."""
    specs = program.graph_signature.output_specs
    return [
        node
        for node, spec in zip(output.args[0], specs, strict=True)  # type: ignore[arg-type]
        if spec.kind is OutputKind.USER_OUTPUT
    ]


def read_outputs(program: ExportedProgram, described: str) -> tuple[ProgramOutput, ...]:
    """Return name and shape of each output.

    Raises:
        ExportError: One is nothing that can be served; the message says which, what it is, and how to leave it out.
    """
    nodes = user_outputs(program, next(iter(reversed(program.graph.nodes))))
    if not nodes:
        raise ExportError(f"{described}: returns nothing; return scores, a tensor or several, by row")
    names = _names(program, len(nodes))
    traced = _rows_of_arguments(program)
    wrong = {name: why for name, node in zip(names, nodes, strict=True) if (why := _why_no_scores(node, traced))}
    if wrong:
        name, why = next(iter(wrong.items()))
        which = described if name == "output" else f"{described}, output {name!r}"
        others = [each for each in names if each not in wrong]
        advice = f". To leave it out, name those that are served: outputs={others!r}" if others else ""
        raise ExportError(f"{which}: returns {why}{advice}")
    shapes = [tuple(int(size) for size in node.meta["val"].shape[1:]) for node in nodes]
    return tuple(ProgramOutput(name=name, shape=shape) for name, shape in zip(names, shapes, strict=True))


def _names(program: ExportedProgram, count: int) -> list[str]:
    """Return a name per output: the keys of the dict that a call returns, or output where it returns one tensor."""
    spec = program.call_spec.out_spec
    assert spec is not None
    tree = tree_unflatten(list(range(count)), spec)
    return ["output"] if isinstance(tree, int) else sorted(tree, key=tree.__getitem__)


def _rows_of_arguments(program: ExportedProgram) -> frozenset[int]:
    """Return the first sizes that arguments had in the trace: rows, and of lists of any length their values, offsets.

    Where schema and model disagree on offsets, an output is as long as those; their look-up says so later.
    """
    names = set(program.graph_signature.user_inputs)
    values = [node.meta.get("val") for node in program.graph.nodes if node.op == "placeholder" and node.name in names]
    sizes = [value.shape[0] for value in values if isinstance(value, Tensor) and value.dim()]
    return frozenset({TRACED_ROWS, *(size if isinstance(size, int) else size.node.hint for size in sizes)})


def _why_no_scores(node: fx.Node, traced: frozenset[int]) -> str | None:
    """Return why an output can be no scores by row, as what it is; None if it can.

    Args:
        node: The output's.
        traced: Numbers of rows that it may have.
    """
    value = node.meta.get("val") if isinstance(node, fx.Node) else node
    if not isinstance(value, Tensor):
        return f"{value!r}, not a tensor; return scores, a tensor or several, by row"
    at = at_place(place_of_node(node))
    if not value.dtype.is_floating_point:
        kind = str(value.dtype).removeprefix("torch.")
        return f"{kind}; scores are floats: return them as they are, or .float()"
    if value.dim() == 0 or isinstance(value.shape[0], int):
        what = "one number" if value.dim() == 0 else f"the fixed shape {tuple(value.shape)}"
        return f"{what} for all rows{at}; return a score or vector of each row, (B, ...)"
    rows = value.shape[0]
    if free_unbacked_symbols(rows):
        return (
            f"a number of rows that values of the batch say{at}, as x[mask] and nonzero() have: each row of a request"
            " must get its score. Return all rows, with a value of its own for those left out, as"
            " torch.where(mask, x, 0) does"
        )
    if rows.node.hint is not None and rows.node.hint not in traced:
        return f"{rows.node.hint} rows for a batch of {TRACED_ROWS}{at}; return a score or vector of each row, (B, ...)"
    if rows in value.shape[1:]:
        return (
            f"scores of each row with every row of its batch{at}, which in serving are those of other requests; score"
            " pairs, a user and an item of the same row, or return the vectors of both"
        )
    if not all(isinstance(size, int) for size in value.shape[1:]):
        shape = ", ".join(str(size) if isinstance(size, int) else "any" for size in value.shape)
        return f"shape ({shape}){at}; only the first dimension, the rows, may vary"
    return None
