"""Methods that no request changes, such as the propagation of embeddings through a graph: run once, before the trace.

What they return are constants of the model, which are looked up, or scored, like weights.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import TreeSpec, tree_flatten_with_path, tree_leaves, tree_unflatten

from ringpull.inference.export.calls.ready import ready, restored, unchanged
from ringpull.inference.export.diagnosis.errors import at_place, first_line
from ringpull.inference.export.diagnosis.places import place_of_error
from ringpull.ps.errors import ExportError, InvalidInput


@dataclass(frozen=True, slots=True, eq=False)
class Kept:
    """What one method returned."""

    module: nn.Module
    """Module that the method is one of."""
    method: str
    path: str
    """The method, as the exporter named it."""
    leaves: tuple[Any, ...]
    """Values returned, tensors and others."""
    places: tuple[str, ...]
    """Name of each value: the path of the method and the place in what it returned, as in `forward.0`."""
    structure: TreeSpec


def run_once(owner: nn.Module, methods: Sequence[str]) -> tuple[Kept, ...]:
    """Run methods of a module, or of modules in it (`encoder.propagate`), and keep what they return.

    Raises:
        InvalidInput: One is no method, or must be given something.
        ExportError: One fails, or returns nothing that a graph can hold.
    """
    if isinstance(methods, str):
        raise InvalidInput(f"once is {methods!r}; it must be a list of methods, as [{methods!r}]")
    return tuple(_run(owner, path) for path in methods)


def _run(owner: nn.Module, path: str) -> Kept:
    where, _, name = path.rpartition(".")
    try:
        module = owner.get_submodule(where)
    except AttributeError as exc:
        raise InvalidInput(f"once names {path!r}: {exc}") from None
    function = getattr(module, name, None)
    if not callable(function):
        raise InvalidInput(f"once names {path!r}; {type(module).__name__} has no such method")
    needed = needed_parameters(function)
    if needed:
        raise InvalidInput(
            f"once names {path!r}, which takes {', '.join(needed)}; only a method that takes nothing of a request can"
            " be run before there is one"
        )
    buffers = [each for each in owner.buffers() if not is_sparse(each) and not each.is_inference()]
    versions = [each._version for each in buffers]
    with ready(owner), unchanged(owner), restored(buffers):
        try:
            found, structure = tree_flatten_with_path(function())
        except Exception as exc:  # of the module's own, of any kind
            raise ExportError(f"once: {path} fails{at_place(place_of_error(exc))}: {first_line(exc)}") from exc
        written = [each for each, version in zip(buffers, versions, strict=True) if each._version != version]
        found = [(at, _own(leaf, written)) for at, leaf in found]
    places = tuple(".".join([path, *(str(_key(each)) for each in at)]) for at, _ in found)
    leaves = tuple(leaf for _, leaf in found)
    for place, leaf in zip(places, leaves, strict=True):
        if is_sparse(leaf):
            raise ExportError(
                f"once: {place} is a sparse tensor ({leaf.layout}), which no graph can hold; return it dense"
            )
    return Kept(module, name, path, leaves, places, structure)


def _own(leaf: Any, written: Sequence[Tensor]) -> Any:
    """Return a value of its own where it lies in a buffer, which becomes again what it was."""
    storages = {each.untyped_storage().data_ptr() for each in written}
    inside = isinstance(leaf, Tensor) and not is_sparse(leaf) and leaf.untyped_storage().data_ptr() in storages
    return leaf.clone() if inside else leaf


def needed_parameters(function: Callable[..., Any]) -> list[str]:
    """Return the parameters without default of a function."""
    parameters = inspect.signature(function).parameters.values()
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [each.name for each in parameters if each.default is each.empty and each.kind not in variadic]


def _key(entry: Any) -> object:
    """Return the key, index or field that one entry of a path in a structure is."""
    return next(getattr(entry, name) for name in ("key", "idx", "name") if hasattr(entry, name))


@contextmanager
def answering(kept: Sequence[Kept], leaves: Callable[[int], list[Any]]) -> Iterator[None]:
    """Let methods return what they once did; `leaves(number)` gives the values of each."""
    with_own = [(each, each.module.__dict__.get(each.method)) for each in kept]
    try:
        for number, each in enumerate(kept):
            each.module.__dict__[each.method] = _answer(each, leaves(number))
        yield
    finally:
        for each, own in with_own:
            if own is None:
                del each.module.__dict__[each.method]
            else:
                each.module.__dict__[each.method] = own


def _answer(kept: Kept, leaves: list[Any]) -> Callable[..., Any]:
    def answer(*args: Any, **kwargs: Any) -> Any:
        if any(isinstance(each, Tensor) for each in [*args, *kwargs.values()]):
            raise ExportError(
                f"once names {kept.path!r}, which is called with tensors of the request; it can't be run before them"
            )
        return tree_unflatten(leaves, kept.structure)

    return answer


def proposed(frames: Iterable[FrameType], owner: nn.Module, called: str) -> str | None:
    """Return the first method without inputs, by its path, among running functions: it may be run once. None: no such.

    Args:
        frames: What runs, or ran when an error arose; callers first.
        owner: The user's module.
        called: The method of it that was called, which is not meant.
    """
    paths = {module: path for path, module in owner.named_modules()}
    for frame in frames:
        module, name = frame.f_locals.get("self"), frame.f_code.co_name
        if not isinstance(module, nn.Module) or module not in paths or name.startswith("_"):
            continue
        if module is owner and name == called:
            continue
        function = getattr(module, name, None)
        if not inspect.ismethod(function) or function.__func__.__code__ is not frame.f_code:
            continue
        if all(each.default is not each.empty for each in inspect.signature(function).parameters.values()):
            return f"{paths[module]}.{name}" if paths[module] else name
    return None


def frames_of(error: BaseException) -> list[FrameType]:
    """Return the functions that ran when an error arose, callers first."""
    frames = []
    traceback = error.__traceback__
    while traceback is not None:
        frames.append(traceback.tb_frame)
        traceback = traceback.tb_next
    return frames


class SparseWatch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A context in which the first method without inputs that computes with sparse tensors is found."""

    def __init__(self, owner: nn.Module, called: str) -> None:
        """Watch a call of `owner.called`."""
        super().__init__()  # type: ignore[no-untyped-call]
        self._owner = owner
        self._called = called
        self.found: str | None = None

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if self.found is None and any(is_sparse(each) for each in tree_leaves((args, kwargs))):
            frames, frame = [], inspect.currentframe()
            while frame is not None:
                frames.append(frame)
                frame = frame.f_back
            self.found = proposed(reversed(frames), self._owner, self._called)
        return func(*args, **(kwargs or {}))


def is_sparse(value: object) -> bool:
    """Return whether a value is a tensor that is not stored as an array of numbers."""
    return isinstance(value, Tensor) and value.layout is not torch.strided
