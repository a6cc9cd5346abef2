"""An inference as the protocol asks for it, whichever way it came, and what the predictor takes for it.

Parameters that ask for something a head does not do are refused by name. Those that only advise (`priority`), and those
that a client made up, are taken and change nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ringpull.inference.head.catalog import Catalog, ServedVersion
from ringpull.inference.head.frontends.oip.datatypes import BYTES, LENGTH_BYTES, check_shape, read_raw
from ringpull.inference.head.frontends.plans import Plans, TensorKind, kind_of
from ringpull.inference.head.frontends.tensors import check_sizes, columns_of
from ringpull.inference.head.request.inference_request import InferenceRequest
from ringpull.inference.head.request.received import Limits, ReceivedColumns
from ringpull.ps.errors import InvalidInput
from ringpull.ps.text.version_number import RANGE, version_number

MAX_UINT64: Final = (1 << 64) - 1

EASE: Final = 4
"""Times that a message is read as fast as JSON of its length, but for its strings."""
BYTES_OF_STRING: Final = 64
"""Bytes of JSON that take as long to read as a string of a tensor, most of a microsecond."""
MAX_UNCHECKED_BYTES: Final = 64 << 10
"""Highest cost of tensors that are read without a look at their shapes first."""

SentValues = bytes | memoryview | NDArray[Any]
"""Values of an input: their bytes, not looked at yet; or the array that they were, in JSON or in typed fields."""


class TensorHead(NamedTuple):
    """What is said of an input besides its values."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    kind: TensorKind

    @classmethod
    def of(cls, name: str, datatype: str, shape: Iterable[int]) -> TensorHead:
        """Return it with its kind."""
        dimensions = tuple(shape)
        return cls(name, datatype, dimensions, kind_of(name, datatype, dimensions))


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class InferHead:
    """What an inference asks for, but for the values of its inputs."""

    model: str
    version: int
    """Version asked for; 0: the live one."""
    inputs: tuple[TensorHead, ...]
    outputs: tuple[str, ...]
    """Names of outputs; empty: all."""
    timeout_s: float | None = None
    """Time that its parameters give it; None: they do not."""

    @property
    def kinds(self) -> tuple[TensorKind, ...]:
        """Kinds of the inputs."""
        return tuple([each.kind for each in self.inputs])


@dataclass(frozen=True, slots=True, eq=False)
class InferCall:
    """Inference that is asked for."""

    head: InferHead
    values: Sequence[SentValues]
    """Values of each input."""
    request_id: str

    def tensors(self) -> dict[str, NDArray[Any]]:
        """Return the inputs by name.

        Raises:
            InvalidInput: One is there twice, or is not what its type and shape say; the message names it.
        """
        arrays: dict[str, NDArray[Any]] = {}
        for (name, datatype, shape, _), values in zip(self.head.inputs, self.values, strict=True):
            if name in arrays:
                raise InvalidInput(f"input {name}: is twice among the inputs")
            if isinstance(values, np.ndarray):
                arrays[name] = values
            else:
                arrays[name] = read_raw(name, datatype, shape, values)
        return arrays

    def served(self, catalog: Catalog) -> ServedVersion:
        """Return the version that is asked for.

        Raises:
            NotFound: The model or version is not served here.
            InvalidInput: It has tables only.
        """
        served = catalog.get(self.head.model, self.head.version)
        if served.loaded.program is None:
            names = ", ".join(f"{self.head.model}.{table}" for table in served.tables)
            raise InvalidInput(f"{served.loaded.name} has tables only; rows are read from the models {names}")
        return served

    def request(self, served: ServedVersion, columns: ReceivedColumns) -> InferenceRequest:
        """Return what the predictor is to be asked, of the version whose columns these are."""
        head = self.head
        return InferenceRequest(
            columns=columns,
            model=head.model,
            version=head.version,
            outputs=head.outputs or tuple(each.name for each in served.loaded.manifest.outputs),
            request_id=self.request_id,
            served=served,
        )

    def columns(self, served: ServedVersion, limits: Limits) -> ReceivedColumns:
        """Return the columns the long way, which is for a thread where `cost` is high.

        Raises:
            InvalidInput: A tensor does not fit the model; the message names it.
            LimitExceeded: The request is larger than `limits`.
        """
        features = served.loaded.schema.features
        if self.cost > MAX_UNCHECKED_BYTES:
            for each in self.head.inputs:
                check_shape(each.name, each.datatype, each.shape)
            check_sizes({each.name: each.shape for each in self.head.inputs}, features, limits)
        return columns_of(self.tensors(), features, limits)

    @property
    def cost(self) -> int:
        """Bytes of JSON that take as long to read as its tensors to become columns."""
        nbytes = strings = 0
        for (_, datatype, _, _), values in zip(self.head.inputs, self.values, strict=True):
            if isinstance(values, np.ndarray):
                nbytes += values.nbytes
                strings += values.size * (values.dtype == object)
            else:
                nbytes += len(values)
                strings += (datatype == BYTES) * (len(values) // LENGTH_BYTES)
        return max(nbytes // EASE, BYTES_OF_STRING * strings)

    def planned(self, served: ServedVersion, limits: Limits, plans: Plans) -> ReceivedColumns | None:
        """Return the columns by a plan; None: there is none for them, or it does not fit."""
        plan = plans.find(served, self.head.kinds)
        raws = [each for each in self.values if not isinstance(each, np.ndarray)]
        if plan is None or len(raws) < len(self.values):
            return None
        return plan.columns([each.shape for each in self.head.inputs], raws, limits)


def version_of(text: str) -> int:
    """Return the version that a string names; 0: the live one.

    Raises:
        InvalidInput: It names none.
    """
    if not text:
        return 0
    number = version_number(text)
    if not number:
        raise InvalidInput(f"version is {text[:40]!r}; it must be a number {RANGE}, or be left out for the live one")
    return number


def timeout_of(parameters: Mapping[str, Any]) -> float | None:
    """Return the time that a request's parameters give it, in seconds; None: they do not.

    Raises:
        InvalidInput: They ask for what is not done here.
    """
    if parameters.get("sequence_id"):
        raise InvalidInput("parameter sequence_id: no state is kept from request to request, so there are no sequences")
    for name in ("priority", "timeout"):
        value = parameters.get(name, 0)
        if type(value) is not int or not 0 <= value <= MAX_UINT64:
            raise InvalidInput(f"parameter {name}: is {str(value)[:40]!r}; it must be an integer, 0 or more")
    timeout_us = parameters.get("timeout", 0)
    return timeout_us / 1e6 if timeout_us else None


def wanted(outputs: Iterable[tuple[str, Mapping[str, Any]]]) -> tuple[str, ...]:
    """Return the names of outputs that are asked for.

    Args:
        outputs: Name and parameters of each.

    Raises:
        InvalidInput: One is asked for twice, or as it cannot be given; the message names it.
    """
    names: dict[str, None] = {}
    for name, parameters in outputs:
        if name in names:
            raise InvalidInput(f"output {name}: is twice among the outputs")
        _check_memory(f"output {name}", parameters)
        if parameters.get("classification"):
            raise InvalidInput(f"output {name}: classification is not done here; sort its values")
        names[name] = None
    return tuple(names)


def check_input_parameters(name: str, parameters: Mapping[str, Any]) -> None:
    """Check what is said of an input besides its values.

    Raises:
        InvalidInput: Its values are to be read from where they cannot be; the message names it.
    """
    _check_memory(f"input {name}", parameters)


def _check_memory(what: str, parameters: Mapping[str, Any]) -> None:
    if any(parameter.startswith("shared_memory_") for parameter in parameters):
        raise InvalidInput(f"{what}: shared memory is not used here; send its bytes")
