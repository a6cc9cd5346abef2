"""Binding: which arguments of the schema each parameter of the user's method is given.

By name, where the schema makes an argument that is called like the parameter; else its default. One that is left over
alone is the whole batch, a dict or an object that is read by key or attribute (`x["user_id"]`, `batch.user_id`): it is
given all arguments. A class of jagged features by key, told by a constructor that takes `keys`, `values` and `lengths`
or `offsets`, is given the features with `many`. Scores of a catalogue end to end, (B * k,), are made (B, k).

Where that does not fit, `arguments={...}` says what a parameter, or a key that is read, is given:

    {"item_seq_len": "item_seq_lengths"}                    an argument of the schema, by name
    {"lS_i": ["c0", "c1"], "who": {"user": "user_id"}}      a list, tuple or dict of such, nested
    {"scale": 2.0}                                          a constant
    {"sparse": {"f1": "c0"}}                                features by the keys of a jagged object
    {"sparse": KeyedJagged}                                 the object, where no annotation tells its class
    {"sparse": (KeyedJagged, ["f1", "f2"])}                 both
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any, get_origin

import torch
from torch import nn

from ringpull.inference.export.calls.by_row import row_counts
from ringpull.inference.export.calls.call import Call, CallModule
from ringpull.inference.export.calls.jagged import jagged_kind
from ringpull.inference.export.calls.once import needed_parameters, run_once
from ringpull.inference.export.calls.ready import unwrapped
from ringpull.inference.export.calls.results import check_wanted
from ringpull.inference.export.calls.sources import Entries, Several, Source
from ringpull.inference.export.calls.specs import read_jagged, read_spec, source_of
from ringpull.inference.export.calls.wrapper import wrapper
from ringpull.inference.schema.schema import Schema
from ringpull.ps.errors import ExportError, InvalidInput

_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def bind(
    module: nn.Module,
    schema: Schema,
    *,
    method: str = "forward",
    arguments: Mapping[str, Any] | None = None,
    once: Sequence[str] = (),
    outputs: Sequence[str] | None = None,
) -> Call:
    """Return how a method is called with arguments of the schema.

    A parameter gets what `arguments` says, else the schema's argument of its name, else its default. One that is left
    over alone gets all arguments of the schema as a dict.

    Raises:
        InvalidInput: `arguments` holds something that can be no argument, `method` is no method, or `outputs` no list.
        ExportError: Nothing is known of a parameter, or a name is unknown.
    """
    if not isinstance(module, nn.Module):
        what = f"the class {module.__name__}" if isinstance(module, type) else f"a {type(module).__name__}"
        raise InvalidInput(f"module is {what}; it must be a torch.nn.Module, as trained")
    return _Binding(unwrapped(module), schema, method, dict(arguments or {})).call(once, check_wanted(outputs))


class _Binding:
    """One method, the schema, and what the exporter said."""

    def __init__(self, module: nn.Module, schema: Schema, method: str, specs: dict[str, Any]) -> None:
        self._module = module
        self._schema = schema
        self._made = schema.argument_names()
        self._method = method
        self._described = f"{type(module).__name__}.{method}"
        self._signature = _signature(module, method)
        for name in specs:
            if not isinstance(name, str):
                raise InvalidInput(f"arguments has the key {name!r}; it must be the name of a parameter, or of a key")
        self._specs = {name: self._read(name, spec) for name, spec in specs.items()}
        self._parameters = list(self._signature.parameters.values())
        for each in self._parameters:
            spec = self._specs.get(each.name)
            if each.kind is each.VAR_POSITIONAL and not isinstance(spec, Several | None):
                raise InvalidInput(f"arguments[{each.name!r}]: {self._described} takes {each}; give it a list")
            if each.kind is each.VAR_KEYWORD and not isinstance(spec, Entries | None):
                raise InvalidInput(f"arguments[{each.name!r}]: {self._described} takes {each}; give it a dict")

    def _read(self, name: str, spec: object) -> Source:
        """Return what the exporter said that a parameter, or a key, is."""
        kind = self._jagged_kind(name)
        by_name = isinstance(spec, str | list | dict)
        return read_jagged(name, kind, spec, self._schema) if kind and by_name else read_spec(name, spec, self._schema)

    def _jagged_kind(self, name: str) -> type | None:
        """Return the class of features by key that a parameter is annotated with."""
        parameter = self._signature.parameters.get(name)
        return None if parameter is None else jagged_kind(parameter.annotation)

    def call(self, once: Sequence[str], wanted: tuple[str, ...] | None) -> Call:
        """Bind every parameter, and run `once`."""
        given: dict[str, Source] = {}
        left: list[str] = []
        for parameter in self._parameters:
            name = parameter.name
            if name in self._specs:
                given[name] = self._specs[name]
            elif parameter.kind in _VARIADIC:
                continue
            elif (kind := self._jagged_kind(name)) is not None:
                given[name] = read_jagged(name, kind, None, self._schema)
            elif name in self._made:
                given[name] = source_of(self._made[name])
            elif parameter.default is parameter.empty:
                left.append(name)
        if len(left) > 1:
            shown = ", ".join(f"{name!r}: ARGUMENT" for name in left)
            raise ExportError(
                f"{self._described} takes {', '.join(map(repr, left))}, which the schema does not make; it makes"
                f" {', '.join(self._made)}. Declare features of these names, or say which of its arguments, or which"
                f" lists or dicts of them, by arguments={{{shown}}}; or wrap the module, so that its parameters are"
                " called like these:\n\n"
                f"{self._wrapper()}"
            )
        keys = {name: spec for name, spec in self._specs.items() if name not in given}
        if left and get_origin(self._signature.parameters[left[0]].annotation) in (list, tuple, Sequence):
            raise ExportError(
                f"{self._described} takes a list, {left[0]!r}; name what it holds, in its order, by"
                f" arguments={{{left[0]!r}: [ARGUMENT, ...]}}, from {', '.join(self._made)}"
            )
        everything = self._everything(left[0], keys) if left else None
        if everything is not None:
            given[left[0]] = everything
        else:
            self._give_named(given, keys)
        names = set().union(*(source.names() for source in given.values()))
        if not names:
            raise self._nothing()
        used = {name: argument for name, argument in self._made.items() if name in names}
        counts = row_counts(used, self._schema)
        kept = run_once(self._module, once)
        module = CallModule(self._module, self._method, self._signature, given, counts, kept, wanted)
        described = type(self._module).__name__ if self._method == "forward" else self._described
        return Call(
            described, self._method, used, module, {} if everything is None else dict.fromkeys(keys, everything)
        )

    def _give_named(self, given: dict[str, Source], keys: Mapping[str, Source]) -> None:
        """Give `**named`, if the method takes such, what the exporter named; or all, if the method takes nothing else.

        Raises:
            ExportError: It takes none, and the exporter named some.
        """
        named = next((each.name for each in self._parameters if each.kind is each.VAR_KEYWORD), None)
        if named is not None and named not in given and (keys or not given):
            entries = keys or {name: source_of(argument) for name, argument in self._made.items()}
            given[named] = Entries(entries, set(), lambda what, key: what)
        elif keys:
            raise ExportError(
                f"arguments names {', '.join(map(repr, keys))}, which {self._described} does not take; it takes"
                f" {', '.join(self._signature.parameters) or 'nothing'}"
            )

    def _nothing(self) -> ExportError:
        """Return the error of a method that would be given no argument of the schema."""
        some = next((each for each in self._parameters if each.kind is each.VAR_POSITIONAL), None)
        if some is None:
            return ExportError(
                f"{self._described} takes no argument of the schema: {', '.join(self._made)}{_others(self._module)}"
            )
        return ExportError(
            f"{self._described} takes {some}, of which nothing says what it is given; name what, in its order, by"
            f" arguments={{{some.name!r}: [ARGUMENT, ...]}}, from {', '.join(self._made)}"
        )

    def _wrapper(self) -> str:
        """Return a wrapper class, ready to paste."""
        needed = {
            each.name: each
            for each in self._parameters
            if each.kind not in _VARIADIC and (each.default is each.empty or each.name in self._made)
        }
        return wrapper(type(self._module).__name__, self._method, needed, list(self._made))

    def _everything(self, parameter: str, keys: Mapping[str, Source]) -> Entries:
        """Return a dict of all arguments of the schema, and of the keys that the exporter added."""
        entries = {name: source_of(argument) for name, argument in self._made.items()} | dict(keys)
        lead = (
            f"{self._described} takes {parameter!r}, which the schema does not make; it makes {', '.join(self._made)}."
            f" So {parameter!r} is a dict of these"
        )

        def explain(what: str, key: str | None) -> str:
            if key is not None:
                near = "".join(f"; did you mean {each!r}?" for each in get_close_matches(key, entries, 1))
                return (
                    f"{lead}, but the module {what}{near or '.'} Declare a feature of that name, or say which of these"
                    f" it is by arguments={{{key!r}: ARGUMENT}}"
                )
            return (
                f"{lead}, but the module {what}. Declare a feature {parameter!r}, or say which of these it is by"
                f" arguments={{{parameter!r}: ARGUMENT}}; or wrap the module, so that its parameters are called like"
                f" these:\n\n{self._wrapper()}"
            )

        return Entries(entries, set(), explain)


def _signature(module: nn.Module, method: str) -> inspect.Signature:
    if isinstance(module, torch.jit.ScriptModule):
        raise ExportError(
            "module is a torch.jit.ScriptModule, which torch.export does not trace; give the module that it was made of"
        )
    function = getattr(module, method, None)
    if not callable(function) or getattr(function, "__func__", None) is nn.Module.forward:
        raise InvalidInput(f"method is {method!r}; {type(module).__name__} has no such method{_others(module)}")
    try:
        return inspect.signature(function, eval_str=True)
    except Exception:  # annotations may name what only type checkers know
        pass
    try:
        return inspect.signature(function)
    except (TypeError, ValueError) as exc:
        raise ExportError(
            f"{type(module).__name__}.{method} does not say what it takes ({exc}); wrap it in a method that names its"
            " parameters"
        ) from exc


def _others(module: nn.Module) -> str:
    """Return advice that names the methods of the user's own class which take something; empty when there are none."""
    known = dir(nn.Module)
    found = [
        name
        for name in dir(type(module))
        if not name.startswith("_") and name not in known and inspect.isfunction(getattr(type(module), name))
    ]
    taking = [name for name in found if needed_parameters(getattr(module, name))]
    return f". Name the one that scores by method=, of {', '.join(taking)}" if taking else ""
