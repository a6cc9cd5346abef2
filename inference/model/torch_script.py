"""Scripting of a dense program: one call without Python, where a program of torch is a call for each operator.

An exported program runs operator by operator from Python, and takes the interpreter's lock back after each, which the
event loop holds while it decodes. So the program is scripted when it is loaded: one call, no lock until it returns.
Scripting fixes sizes that it sees as numbers, so a script is used only where it repeats the program on other sizes. It
fixes the way that a program goes by its values, too, which no made-up inputs show: programs that have one stay eager.

A script holds the weights as constants, which torch folds and rearranges. What `torch.jit.trace` and `freeze` make
stays in a register of torch until the process ends, constants included: every version that was ever loaded (2.13). So
the graph is traced and improved by itself, and made a function with a register of its own, which goes when it does.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, Final

import torch
from torch import Tensor, fx
from torch._ops import HigherOrderOperator

from ringpull.inference.model.program_errors import last_words

_TRACED_ROWS: Final = 7
_RECURRENT: Final = ("lstm", "gru", "rnn_tanh", "rnn_relu")
"""Operators that are not scripted: a script of an LSTM damages the memory of the process (torch 2.13)."""
_BY_VALUE: Final = ("_local_scalar_dense", "item")
"""Operators that make a Python number of a tensor's value: a script would keep that of the inputs it is traced with."""
_CHECKED_ROWS: Final = (2, 5, 64)
"""Numbers of rows on which a script must repeat the program; the first run of each also prepares it."""
_CPU: Final = torch.device("cpu")


def scripted(module: torch.nn.Module, inputs: Sequence[Tensor], device: torch.device) -> tuple[Callable[..., Any], str]:
    """Return the program as a script, and nothing; or `module` itself, and why it is no script."""
    graph = getattr(module, "graph", None)
    names = [] if graph is None else [name_of(node.target) for node in graph.nodes]
    if recurrent := next((name for name in names if name in _RECURRENT), ""):
        return module, f"a script of {recurrent} is not safe"
    if by_value := "" if graph is None else next(filter(None, map(_by_value, graph.nodes)), ""):
        return module, f"it goes by values, with {by_value}, which a script does not"
    # torch's tracer warns of the numbers that are checked below
    with torch.inference_mode(), warnings.catch_warnings(action="ignore"):
        try:
            script = _script(module, _made_up(inputs, _TRACED_ROWS, device))
            for rows in _CHECKED_ROWS:
                results = script(*_made_up(inputs, rows, device))
                # Made anew, the same: a program may write to what it is given (`torch_packing`).
                for result, expected in zip(results, module(*_made_up(inputs, rows, device)), strict=True):
                    torch.testing.assert_close(result, expected, equal_nan=True)
        except AssertionError:
            return module, "a script gives something else for other numbers of rows"
        except Exception as exc:  # of any root: whatever torch's tracer, or a script for other sizes, runs into
            return module, f"no script of it can be made: {last_words(exc)}"
    return script, ""


def save_script(script: Any, path: str, inputs: Sequence[Tensor]) -> None:
    """Write a script of the CPU, for `load_script`.

    Raises:
        ValueError: What was written gives something else, be it other bits.
    """
    script.save(path)
    read = load_script(path)
    with torch.inference_mode():
        for rows in _CHECKED_ROWS:
            given = _made_up(inputs, rows, _CPU)
            for result, expected in zip(read(*given), script(*given), strict=True):
                if not same_bits(result, expected):
                    raise ValueError("the script that was written gives something else")


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are of the same type and shape, and have the same bits, whichever type that is."""
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    bits, expected = (each.contiguous().reshape(-1).view(torch.uint8) for each in (one, other))
    return torch.equal(bits, expected)


def load_script(path: str) -> Callable[..., Any]:
    """Read what `save_script` wrote: without Python, and with a register of its own, as a script has that is made."""
    native: Any = torch._C
    module = native.import_ir_module(native.CompilationUnit(), path, None, {}, False)
    script: Callable[..., Any] = module._get_method("forward")
    return script


def prepare(script: Callable[..., Any], inputs: Sequence[Tensor]) -> None:
    """Run a script that was read as often as it takes until torch has it ready."""
    with torch.inference_mode():
        for rows in _CHECKED_ROWS:
            script(*_made_up(inputs, rows, _CPU))


def _made_up(inputs: Sequence[Tensor], rows: int, device: torch.device) -> list[Tensor]:
    generator = torch.Generator().manual_seed(rows)
    shapes = [(rows, *(int(size) for size in value.shape[1:])) for value in inputs]
    return [
        torch.rand(shape, generator=generator).to(device, value.dtype)
        for shape, value in zip(shapes, inputs, strict=True)
    ]


def name_of(target: Any) -> str:
    """Return the name of an operator, without its overload."""
    return str(getattr(target, "__name__", "")).partition(".")[0]


def _by_value(node: fx.Node) -> str:
    """Return the name of what a node does by the values of tensors in Python; empty: it does nothing so."""
    name = name_of(node.target)
    return name if isinstance(node.target, HigherOrderOperator) or name in _BY_VALUE else ""


def _script(module: torch.nn.Module, inputs: Sequence[Tensor]) -> Callable[..., Any]:
    """Return what a module does to these inputs as a function without Python, its weights constants."""
    native: Any = torch._C
    module.requires_grad_(False)  # else they are no constants
    graph, _ = native._create_graph_by_tracing(
        lambda *given: module(*given), tuple(inputs), lambda value: "", True, False
    )
    native._jit_pass_erase_shape_information(graph)  # the sizes are of the inputs here
    native._jit_pass_constant_propagation(graph)
    native._jit_pass_cse(graph)
    native._jit_pass_optimize_frozen_graph(graph, True)
    script: Callable[..., Any] = native._create_function_from_graph("dense", graph)
    return script
