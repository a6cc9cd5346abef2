"""What a converter tells of a SavedModel, as values, and the schema that its inputs are.

An input keeps its name, so a client of TensorFlow Serving sends what it sent. Of a value a row comes a Sparse or Dense
feature, of several whole numbers or texts an IdSequence, of several floats a Dense one. Texts, and ids that a table of
look-ups numbers, have the vocabulary that was found in the graph.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ringpull.inference.importers.onnx.guess import GUESSED_LENGTH, Guess
from ringpull.inference.schema.kinds import Dense, Feature, IdSequence, Sparse
from ringpull.inference.schema.schema import Schema
from ringpull.inference.schema.transforms import Fingerprint, Hash, Transform, Vocabulary
from ringpull.ps.errors import InvalidInput
from ringpull.ps.spec import check_name

_FLOATS: Final = ("float", "bfloat", "bool", "half")
"""Beginnings of the types of inputs that are numbers, not ids."""
DEFAULT: Final = "serving_default"
"""Signature whose outputs keep their names; those of others are called SIGNATURE:OUTPUT."""


@dataclass(frozen=True, slots=True)
class ModelInput:
    """One input of a SavedModel."""

    name: str
    tensor: str | None
    """Input of the ONNX graph; None: no output needs it."""
    dtype: str
    """TensorFlow's name of its type."""
    shape: tuple[int | None, ...]
    """Shape, the first dimension being the row; None: of any size."""
    known: tuple[Any, ...] | None
    """Texts or ids that codes stand for, from code 1 on; None: it is given as it is."""
    pad: int | None
    """Code or id that stands for none in a bag; None: it is not known."""
    hashed: bool = False
    """Whether the graph takes fingerprints of its values."""

    @property
    def width(self) -> int:
        """Number of values a row, where that is said."""
        return math.prod(each or 1 for each in self.shape[1:])

    @property
    def is_free(self) -> bool:
        """Whether it takes any number of values a row, and is needed."""
        return self.shape[1:] == (None,) and self.tensor is not None

    def values(self, argument: NDArray[Any], rows: int, raw: Mapping[int, Any]) -> NDArray[Any]:
        """Return what the SavedModel takes of an argument of the schema.

        Args:
            raw: What a fingerprint is of.
        """
        if self.tensor is None:
            shape = (rows, *(each or 1 for each in self.shape[1:]))
            return np.full(shape, "") if self.dtype == "string" else np.zeros(shape, self.dtype)
        if self.hashed:
            dtype = np.str_ if self.dtype == "string" else self.dtype
            values = [raw[each] for each in argument.reshape(-1).tolist()]
            argument = np.array(values, dtype).reshape(argument.shape)
        wide = -1 if self.shape[1:] == (None,) else self.width
        shaped = argument.reshape(rows) if len(self.shape) == 1 else argument.reshape(rows, wide)
        if len(self.shape) > 2:
            shaped = argument.reshape(rows, *(each or 1 for each in self.shape[1:]))
        return shaped if self.known is not None or self.hashed else shaped.astype(self.dtype)


@dataclass(frozen=True, slots=True)
class ModelOutput:
    """One output of a SavedModel."""

    signature: str
    name: str
    tensor: str
    """Output of the ONNX graph."""

    @property
    def served_as(self) -> str:
        """Name under which it is served."""
        return self.name if self.signature == DEFAULT else f"{self.signature}:{self.name}"


@dataclass(frozen=True, slots=True)
class BigVariable:
    """Values of one variable, in a file."""

    tensor: str
    shape: tuple[int, ...]
    dtype: str
    file: Path
    offset: int


@dataclass(frozen=True, slots=True)
class Description:
    """All that a converter tells of a SavedModel."""

    inputs: tuple[ModelInput, ...]
    outputs: tuple[ModelOutput, ...]
    variables: tuple[BigVariable, ...]
    signatures: tuple[str, ...]
    notes: tuple[str, ...]

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Description:
        """Return what a converter told as JSON."""
        inputs = tuple(
            ModelInput(
                each["name"],
                each["tensor"],
                each["dtype"],
                tuple(each["shape"]),
                None if each["known"] is None else tuple(each["known"]),
                each["pad"],
                each["hashed"],
            )
            for each in told["inputs"]
        )
        outputs = tuple(ModelOutput(each["signature"], each["name"], each["tensor"]) for each in told["outputs"])
        variables = tuple(
            BigVariable(each["tensor"], tuple(each["shape"]), each["dtype"], Path(each["file"]), each["offset"])
            for each in told["variables"]
        )
        return cls(inputs, outputs, variables, tuple(told["signatures"]), tuple(told["notes"]))

    def schema(self, lengths: Mapping[str, int] | None = None, described: Schema | None = None) -> Schema:
        """Return the schema of the inputs.

        Args:
            lengths: Number of values a row, by input, where the SavedModel takes any.
            described: Features of some or all inputs, which are taken as they are.

        Raises:
            InvalidInput: An input has a name that no feature can have, or any number of values and no length is given;
                a feature that is described is no input, or does not give what the SavedModel takes.
        """
        own = {} if described is None else {each.name: each for each in described.features}
        if strangers := sorted(own.keys() - {each.name for each in self.inputs}):
            there = ", ".join(each.name for each in self.inputs)
            raise InvalidInput(f"schema: the SavedModel has no input {strangers[0]}; it has {there}")
        for each in self.inputs:
            if each.name in own:
                _check_feature(each, own[each.name])
        given = {**dict.fromkeys(own, 1), **(lengths or {})}
        if unknown := sorted(given.keys() - {each.name for each in self.inputs}):
            there = ", ".join(each.name for each in self.inputs)
            raise InvalidInput(f"--length {unknown[0]}: there is no such input; there are: {there}")
        if free := [each.name for each in self.inputs if each.is_free and each.name not in given]:
            options = " ".join(f"--length {name}=NUMBER" for name in free)
            raise InvalidInput(
                f"input {', '.join(free)}: takes any number of values a row; say how many at most: {options}"
            )
        return Schema([own.get(each.name) or _feature(each, given.get(each.name)) for each in self.inputs])

    def guess(self, lengths: Mapping[str, int] | None = None) -> Guess:
        """Return the schema with a length guessed wherever any is taken and none is given, and what was guessed."""
        free = [each.name for each in self.inputs if each.is_free and each.name not in (lengths or {})]
        schema = self.schema({**dict.fromkeys(free, GUESSED_LENGTH), **(lengths or {})})
        told = [f"{name}: any number of values a row is taken; {GUESSED_LENGTH} was guessed" for name in free]
        return Guess(schema, {}, (*self.notes, *told))


def _check_feature(given: ModelInput, feature: Feature) -> None:
    """Check that a feature gives what an input takes: codes of the model's own texts, fingerprints, ids or numbers."""
    numbers = given.dtype.startswith(_FLOATS)
    if numbers != isinstance(feature, Dense):
        wanted = "Dense" if numbers else "Sparse or IdSequence"
        raise InvalidInput(f"schema: feature {given.name} must be {wanted}: the SavedModel takes {given.dtype}")
    transforms = getattr(feature, "transforms", ())
    wanted_last = _transforms(given)
    if wanted_last and transforms[-1:] != wanted_last:
        what = "Fingerprint()" if given.hashed else f"the vocabulary of the model, {len(given.known or ()):,} values"
        raise InvalidInput(f"schema: the transforms of feature {given.name} must end in {what}, as --guess prints it")


def _feature(given: ModelInput, length: int | None) -> Feature:
    if None in given.shape[2:] or (None in given.shape[1:] and len(given.shape) > 2):
        raise InvalidInput(f"input {given.name}: has the shape {given.shape}; at most its second dimension may be free")
    try:
        check_name("feature", given.name)
    except InvalidInput as exc:
        raise InvalidInput(f"{exc}; save the SavedModel with a signature that calls its input otherwise") from exc
    if given.dtype.startswith(_FLOATS):
        missing = 0.0 if given.tensor is None else None
        return Dense(given.name, width=length or given.width, flat=len(given.shape) == 1, missing=missing)
    return _ids(given, length)


def _ids(given: ModelInput, length: int | None) -> Sparse | IdSequence:
    text = given.dtype == "string"
    dtype: Any = "string" if text else "int64"
    transforms = _transforms(given)
    missing: Any = None if given.tensor is not None else "" if text else 0
    if given.shape[1:] in ((), (1,)):
        return Sparse(given.name, dtype=dtype, transforms=transforms, missing=missing)
    pad = given.pad if given.pad is not None else _empty_text(given)
    return IdSequence(
        given.name,
        length=length or given.width,
        dtype=dtype,
        pad=pad,
        transforms=transforms,
        missing=() if given.tensor is None else None,
    )


def _empty_text(given: ModelInput) -> int:
    """Return what stands for none where nothing says so: the empty text, or 0."""
    known: Sequence[Any] = given.known or ()
    return known.index("") + 1 if given.dtype == "string" and "" in known else 0


def _transforms(given: ModelInput) -> tuple[Transform, ...]:
    if given.hashed:
        return (Fingerprint(),)
    if given.known is None:
        return ()
    return (Vocabulary(given.known),) if given.known else (Hash(1),)  # of no known text every one is unknown: code 0
