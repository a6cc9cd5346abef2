"""The graph of an exported program, checked for what torch would run of it as Python.

A graph is JSON, yet torch makes Python of it: it evaluates the text of sizes (`expr_str`), compiles that of guards
(`guards_code`) and names of nodes, looks operators up by dotted names that may lead to any function, and imports what
the shapes of arguments name. So each of these texts must be of the small language that an export writes, and operators
must compute: none opens a file or loads code.
"""

from __future__ import annotations

import json
import keyword
import re
from collections.abc import Callable
from typing import Any, Final

from ringpull.inference.model.graph_texts import guard_fault, size_fault
from ringpull.ps.errors import CorruptData

_Check = Callable[[Any], bool]

_IDENTIFIER: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,999}", re.ASCII)
_ATEN: Final = re.compile(
    r"torch\.ops\.(?:aten|prims|quantized_decomposed)\."
    r"((?!__)[A-Za-z_]\w*|__[ir]?(?:and|or|xor|lshift|rshift)__)\.(?!__)[A-Za-z_]\w*",
    re.ASCII,
)
_OTHER: Final = re.compile(
    r"_operator\.(?:abs|add|and_|eq|floordiv|ge|getitem|gt|inv|invert|le|lshift|lt|mod|mul|ne|neg|not_|or_|pos|pow|rshift"
    r"|sub|truediv|xor)"
    r"|math\.(?:acos|asin|atan|atan2|ceil|cos|cosh|exp|fabs|floor|isfinite|isinf|isnan|log|log10|log1p|log2|pow|sin|sinh"
    r"|sqrt|tan|tanh|trunc)"
    r"|torch\.(?:_sym_[a-z0-9]+|sym_(?:float|fresh_size|int|ite|max|min|not|sqrt|sum))"
    r"|torch\._functorch\.predispatch\.(?:_(?:add|remove)_batch_dim|lazy_load_decompositions)"
    r"|torch\._functorch\.predispatch\._vmap_(?:in|de)crement_nesting"
    r"|torch\.ops\.higher_order\.(?:associative_scan|cond|map_impl|scan|while_loop|wrap_with_autocast"
    r"|wrap_with_set_grad_enabled)",
    re.ASCII,
)
_OF_FILES: Final = frozenset({"from_file", "save", "load", "record_stream"})
"""Operators of `aten` that open files, or take what is no tensor."""

_FLOATS: Final = ("Infinity", "-Infinity", "NaN")
_SHAPES: Final = ("builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict")


def check_graph(content: memoryview, where: str) -> None:
    """Check the JSON of a program's graph, or of its weights' names and shapes.

    Args:
        content: The member of the archive.
        where: File and member, for messages.

    Raises:
        CorruptData: It is not JSON, or has a text that torch would run and that no export writes.
    """
    try:
        value = json.loads(bytes(content).decode("utf-8"))
        _check(value, where)
    except (ValueError, RecursionError) as exc:
        raise CorruptData(f"{where}: not a program's graph: {type(exc).__name__}: {exc}") from exc


def _check(value: Any, where: str) -> None:
    if isinstance(value, list):
        for each in value:
            _check(each, where)
    if not isinstance(value, dict):
        return
    for key, each in value.items():
        if key in _MAPS and isinstance(each, dict):  # keys are names of the model, whatever they are here
            _refuse_unless(_MAPS[key](each), key, each, where)
            _check(list(each.values()), where)
            continue
        check = _CHECKS.get(key)
        _refuse_unless(check is None or check(each), key, each, where)
        _check(each, where)


def _refuse_unless(fits: bool, key: str, value: Any, where: str) -> None:
    if not fits:
        shown = json.dumps(value)
        raise CorruptData(
            f"{where}: refused, because {key} is {shown[:200]}, which no export writes and torch might run"
        )


def is_operator(value: Any) -> bool:
    """Return whether a name is one of an operator that computes from tensors and numbers, and does nothing else."""
    if not isinstance(value, str):
        return False
    aten = _ATEN.fullmatch(value)
    return aten[1] not in _OF_FILES if aten else bool(_OTHER.fullmatch(value))


def _is_identifier(value: Any) -> bool:
    return isinstance(value, str) and bool(_IDENTIFIER.fullmatch(value)) and not keyword.iskeyword(value)


def _is_name(value: Any) -> bool:
    return value in ("", None) or (isinstance(value, str) and bool(_IDENTIFIER.fullmatch(value)))


def _is_path(value: Any) -> bool:
    """Return whether a text can stand between quotes in Python: a weight's name may have spaces and signs."""
    return value is None or (isinstance(value, str) and value.isprintable() and not set(value) & set("'\"\\"))


def _is_int(value: Any) -> bool:
    return value is None or type(value) is int


def _is_float(value: Any) -> bool:
    return type(value) in (int, float) or value in _FLOATS


def _is_expression(value: Any) -> bool:
    return isinstance(value, str) and size_fault(value) is None


def _are_guards(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) and guard_fault(each) is None for each in value)


def _has_names(value: Any) -> bool:
    return isinstance(value, dict) and all(_is_identifier(key) for key in value)


def _has_symbols(value: Any) -> bool:
    return isinstance(value, dict) and all(size_fault(key) is None for key in value)


def _is_any(value: Any) -> bool:
    return True


def _is_nothing(value: Any) -> bool:
    return not value


def _are_names(value: Any) -> bool:
    return value is None or (isinstance(value, list) and all(_is_identifier(each) for each in value))


def _is_shape_of_inputs(value: Any) -> bool:
    return _is_shape(value, _is_identifier)


def _is_shape_of_outputs(value: Any) -> bool:
    return _is_shape(value, lambda key: type(key) is int or (isinstance(key, str) and _is_path(key)))


def _is_shape(value: Any, is_key: _Check) -> bool:
    """Return whether a text is a nest of plain containers, as torch writes it, with keys of one kind."""
    loaded = json.loads(value) if isinstance(value, str) else None
    return isinstance(loaded, list) and len(loaded) == 2 and type(loaded[0]) is int and _is_container(loaded[1], is_key)


def _is_container(value: Any, is_key: _Check) -> bool:
    if not isinstance(value, dict) or set(value) != {"type", "context", "children_spec"}:
        return False
    kind, context, children = value["type"], value["context"], value["children_spec"]
    if not isinstance(children, list):
        return False
    if kind is None:
        return context is None and not children
    keys = json.loads(context) if isinstance(context, str) else context
    has_keys = keys is None or (isinstance(keys, list) and all(is_key(key) for key in keys))
    return kind in _SHAPES and has_keys and all(_is_container(child, is_key) for child in children)


_CHECKS: Final[dict[str, _Check]] = {
    "target": is_operator,
    "as_operator": is_operator,
    "expr_str": _is_expression,
    "guards_code": _are_guards,
    "name": _is_name,
    "as_name": _is_name,
    "forward_arg_names": _are_names,
    "in_spec": _is_shape_of_inputs,
    "out_spec": _is_shape_of_outputs,
    "parameter_name": _is_path,
    "buffer_name": _is_path,
    "tensor_constant_name": _is_path,
    "user_input_name": _is_path,
    "fqn": _is_path,
    "as_int": _is_int,
    "min_val": _is_int,
    "max_val": _is_int,
    "as_float": _is_float,
    # objects that are no tensors
    "as_custom_obj": _is_nothing,
    "custom_obj": _is_nothing,
    "class_fqn": _is_nothing,
    "constant_input": _is_nothing,
}

_MAPS: Final[dict[str, _Check]] = {
    "tensor_values": _has_names,
    "sym_int_values": _has_names,
    "sym_float_values": _has_names,
    "sym_bool_values": _has_names,
    "as_string_to_argument": _has_names,
    "range_constraints": _has_symbols,
    "custom_obj_values": _is_nothing,
    "opset_version": _is_any,
    "metadata": _is_any,
    "treespec_namedtuple_fields": _is_any,
    "config": _is_any,
}
"""Fields whose keys are names that the model gave, and what these must be."""
