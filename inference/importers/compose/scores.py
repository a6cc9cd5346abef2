"""Scores of a user's and an item's vectors, as torch modules: dot product, cosine, or a function of the caller's."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, Final

import torch
from torch import Tensor, nn

from ringpull.ps.errors import InvalidInput

BUILT_IN: Final = ("dot", "cosine")
_VARIADIC: Final = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
_TAKEN: Final = ("user", "item")


class Similarity(nn.Module):
    """Dot product or cosine of two vectors; of several vectors of a user, the largest."""

    def __init__(self, *, cosine: bool) -> None:
        super().__init__()
        self._cosine = cosine

    def forward(self, user: Tensor, item: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Return scores (B,).

        Args:
            user: (B, D), or (B, k, D) of k vectors.
            item: (B, D).
            lengths: Number of the vectors of each row that are there (B,); None: all. A row without any scores 0.
        """
        if self._cosine:
            user, item = _unit(user), _unit(item)
        if user.dim() == 2:
            return (user * item).sum(1)
        scores = (user * item.unsqueeze(1)).sum(2)
        if lengths is None:
            return scores.amax(1)
        there = torch.arange(user.shape[1], device=user.device) < lengths.unsqueeze(1)
        scores = scores.masked_fill(~there, float("-inf")).amax(1)
        return scores.masked_fill(lengths == 0, 0.0)


def _unit(vectors: Tensor) -> Tensor:
    """Return vectors of length 1; one of zeros stays so. The largest number is made 1 first, so no square overflows."""
    largest = vectors.abs().amax(-1, keepdim=True)
    scaled = vectors / torch.where(largest > 0, largest, torch.ones_like(largest))
    norm = scaled.square().sum(-1, keepdim=True).sqrt()
    return scaled / torch.where(norm > 0, norm, torch.ones_like(norm))


class FunctionScore(nn.Module):
    """A function of the caller's, or a module, given vectors and the features that it takes."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self._function = function
        self.described = getattr(function, "__qualname__", type(function).__name__)
        parameters = inspect.signature(function.forward if isinstance(function, nn.Module) else function).parameters
        self._all = any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters.values())
        named = [each for each in parameters.values() if each.kind not in _VARIADIC]
        if [each.name for each in named[:2]] != list(_TAKEN) and len(named) < 2:
            raise InvalidInput(
                f"score: {self.described}({', '.join(parameters)}) must take the user's and the item's vectors, then"
                " features by name"
            )
        self._needed = [each.name for each in named[2:] if each.default is each.empty]
        self._known = [each.name for each in named[2:]]

    def features_of(self, made: Mapping[str, Any]) -> list[str]:
        """Return the arguments of a schema that the function is given.

        Raises:
            InvalidInput: It needs one that the schema does not make.
        """
        if missing := [name for name in self._needed if name not in made]:
            raise InvalidInput(
                f"score: {self.described} takes {', '.join(missing)}, which no feature makes; declare it in the schema,"
                f" which makes {', '.join(made) or 'nothing'}"
            )
        return list(made) if self._all else [name for name in self._known if name in made]

    def forward(self, user: Tensor, item: Tensor, **features: Tensor) -> Any:
        """Return what the function does."""
        return self._function(user, item, **features)


def read_score(given: object) -> Similarity | FunctionScore:
    """Return the module that scores.

    Args:
        given: "dot", "cosine"; a function or module that takes a user's vectors (B, D), an item's (B, D), and features
            by name; a class of such modules, or a function without parameters that makes one.

    Raises:
        InvalidInput: It is none of these.
    """
    if isinstance(given, str):
        if given not in BUILT_IN:
            raise InvalidInput(f"score is {given!r}; it must be dot, cosine or a function, MODULE:FUNCTION")
        return Similarity(cosine=given == "cosine")
    if isinstance(given, nn.Module):
        return FunctionScore(given)
    if not callable(given):
        raise InvalidInput(f"score is {type(given).__name__}; it must be dot, cosine, a function or a module")
    if isinstance(given, type) or not inspect.signature(given).parameters:
        made = given()
        if not isinstance(made, nn.Module):
            raise InvalidInput(f"score: {given!r} makes {type(made).__name__}; it must make a torch.nn.Module")
        return FunctionScore(made)
    return FunctionScore(given)
