"""A module made ready to be called: in evaluation mode, without what compiles or spreads it, and left as it was.

`torch.compile`, `DataParallel` and `DistributedDataParallel` wrap a module in another. What is served is the module
itself, and its tables are called as in it: the wrappers are left out while it is called, wherever in it they stand.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from threading import RLock
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn.modules import transformer
from torch.overrides import TorchFunctionMode

_DATA: Final[Any] = torch.Tensor.data.__get__  # type: ignore[attr-defined]
_ALONG_DIM: Final = (torch.take_along_dim, torch.Tensor.take_along_dim)
_LOOK_UPS: Final = {each: inspect.signature(each) for each in (nn.functional.embedding, nn.functional.embedding_bag)}
_ONE_AT_A_TIME = RLock()
"""Held while torch's switches, which are the process's, are set: each export finds and leaves what the user had."""

_PARALLEL = (nn.DataParallel, nn.parallel.DistributedDataParallel)


def unwrapped(module: nn.Module) -> nn.Module:
    """Return the module that wrappers of torch hold, through all layers of them; else the module itself."""
    while True:
        if isinstance(module, _PARALLEL):
            module = module.module
        elif isinstance(inner := dict(module.named_children()).get("_orig_mod"), nn.Module):
            module = inner
        else:
            return module


@contextmanager
def ready(module: nn.Module) -> Iterator[None]:
    """Put a module in evaluation mode, without gradients and without wrappers, and afterwards back as it was."""
    with _ONE_AT_A_TIME, ExitStack() as stack:
        stack.enter_context(_without_wrappers(module))
        stack.enter_context(evaluating(module))
        stack.enter_context(_plain_attention())
        stack.enter_context(torch.compiler.set_stance("force_eager"))
        yield


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put a module in evaluation mode, without gradients, and afterwards back as each of its parts was."""
    modes = {part: part.training for part in module.modules()}
    try:
        module.eval()
        with torch.no_grad():
            yield
    finally:
        for part, training in modes.items():
            part.training = training


@contextmanager
def _plain_attention() -> Iterator[None]:
    """Leave out what torch's attention decides by the values of masks: nothing that is traced can.

    In evaluation alone it packs rows by their padding, which gives what training does, but zeros at padded places; and
    it looks whether a mask is that of a later place, to take a faster kernel for it.
    """
    fused = torch.backends.mha.get_fastpath_enabled()
    detect = getattr(transformer, "_detect_is_causal_mask", None)
    torch.backends.mha.set_fastpath_enabled(False)
    if detect is not None:
        transformer._detect_is_causal_mask = lambda mask, is_causal=None, size=None: is_causal is True
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
        if detect is not None:
            transformer._detect_is_causal_mask = detect


@contextmanager
def _without_wrappers(module: nn.Module) -> Iterator[None]:
    parts = list(module.modules())
    children = [
        (part, name, child) for part in parts for name, child in part.named_children() if unwrapped(child) is not child
    ]
    compiled = [(part, call) for part in parts if (call := part.__dict__.get("_compiled_call_impl")) is not None]
    try:
        for part, name, child in children:
            part._modules[name] = unwrapped(child)
        for part, _ in compiled:
            part._compiled_call_impl = None
        yield
    finally:
        for part, name, child in children:
            part._modules[name] = child
        for part, call in compiled:
            part._compiled_call_impl = call


class Traceable(TorchFunctionMode):
    """A context in which what no trace follows is done in another way, to the same numbers.

    `tensor.data` is `tensor.detach()`. `take_along_dim` is `gather`: its own way to repeat an index makes the number of
    rows a constant. An embedding with `max_norm` changes the rows that it reads, before it reads them; here all rows of
    a copy are so changed, and looked up. No gradients are kept, whatever is asked for: torch would put what it computes
    with them in a graph apart.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is torch._C._set_grad_enabled:
            return None
        if func == _DATA:
            return args[0].detach()
        if func in _ALONG_DIM:
            return _along_dim(*args, **kwargs)
        if func in _LOOK_UPS:
            bound = _LOOK_UPS[func].bind(*args, **kwargs)
            bound.apply_defaults()
            given = bound.arguments
            if given["max_norm"] is not None:
                norms = {"p": given["norm_type"], "dim": 0, "maxnorm": given["max_norm"]}
                given.update(weight=torch.renorm(given["weight"], **norms), max_norm=None)
                return func(*bound.args, **bound.kwargs)
        return func(*args, **kwargs)


def _along_dim(input: Tensor, indices: Tensor, dim: int | None = None, **more: Any) -> Tensor:
    """Return what `torch.take_along_dim` does."""
    if dim is None or more or input.dim() != indices.dim() or isinstance(input, nn.Parameter):
        return torch.take_along_dim(input, indices, *([] if dim is None else [dim]), **more)
    dim = dim % input.dim()
    pairs = list(zip(input.shape, indices.shape, strict=True))
    values = input.expand(
        [-1 if place == dim or _is_one(to) or not _is_one(of) else to for place, (of, to) in enumerate(pairs)]
    )
    places = indices.expand(
        [-1 if place == dim or _is_one(of) or not _is_one(to) else of for place, (of, to) in enumerate(pairs)]
    )
    # Newer versions of torch count negative places from behind; the others refuse them.
    return values.gather(dim, torch.where(places < 0, places + input.shape[dim], places))


def _is_one(size: Any) -> bool:
    return isinstance(size, int) and size == 1


@contextmanager
def unchanged(module: nn.Module) -> Iterator[None]:
    """Take back what a call assigns to attributes of modules: a result kept for the next call, a request's tensor."""
    before: list[tuple[dict[str, Any], dict[str, Any]]] = [
        (part.__dict__, dict(part.__dict__)) for part in module.modules()
    ]
    try:
        yield
    finally:
        for attributes, kept in before:
            for name in attributes.keys() - kept.keys():
                del attributes[name]
            attributes.update(kept)


@contextmanager
def restored(tensors: Sequence[torch.Tensor]) -> Iterator[None]:
    """Take back what a call writes into weights and buffers: each is asked as the module was given."""
    with torch.no_grad():
        before = [each.clone() for each in tensors]
        try:
            yield
        finally:
            for tensor, kept in zip(tensors, before, strict=True):
                tensor.copy_(kept)
