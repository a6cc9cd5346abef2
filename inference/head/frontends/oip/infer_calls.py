"""An inference as the protocol asks for it, whichever way it came, and what the predictor takes for it.

Parameters that ask for something a head does not do are refused by name. Those that only advise (`priority`), and those
that a client made up, are taken and change nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ringpull.inference.head.catalog import Catalog, ServedVersion
from ringpull.inference.head.frontends.oip.datatypes import read_contents, read_raw
from ringpull.inference.head.frontends.oip.plans import Plans, kind_of
from ringpull.inference.head.frontends.tensors import columns_of
from ringpull.inference.head.predictor import InferenceRequest
from ringpull.inference.head.request.received import Limits, ReceivedColumns, check_count
from ringpull.ps.errors import InvalidInput

MAX_VERSION: Final = (1 << 63) - 1
MAX_TIMEOUT_US: Final = (1 << 63) - 1


class SentTensor(NamedTuple):
    """Input as it came."""

    name: str
    datatype: str
    shape: Sequence[int]
    values: bytes | memoryview | NDArray[Any]
    """Its bytes, not looked at yet; or the array that they were, in JSON or in typed fields."""

    def array(self) -> NDArray[Any]:
        """Return its values.

        Raises:
            InvalidInput: They do not fit its type and shape; the message names it.
        """
        if isinstance(self.values, np.ndarray):
            return self.values
        return read_raw(self.name, self.datatype, self.shape, self.values)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class InferCall:
    """Inference that is asked for."""

    model: str
    version: int
    """Version asked for; 0: the live one."""
    request_id: str
    sent: Sequence[SentTensor]
    outputs: tuple[str, ...]
    """Names of outputs; empty: all."""
    timeout_s: float | None = None
    """Time that its parameters give it; None: they do not."""

    def tensors(self) -> dict[str, NDArray[Any]]:
        """Return the inputs by name.

        Raises:
            InvalidInput: One is there twice, or is not what its type and shape say; the message names it.
        """
        arrays: dict[str, NDArray[Any]] = {}
        for each in self.sent:
            if each.name in arrays:
                raise InvalidInput(f"input {each.name}: is twice among the inputs")
            arrays[each.name] = each.array()
        return arrays

    def request(self, catalog: Catalog, limits: Limits, plans: Plans) -> InferenceRequest:
        """Return what the predictor is to be asked.

        Raises:
            NotFound: The model or version is not served here.
            InvalidInput: A tensor does not fit the model; the message names it.
            LimitExceeded: The request is larger than `limits`.
        """
        served = catalog.get(self.model, self.version)
        loaded = served.loaded
        if loaded.program is None:
            names = ", ".join(f"{self.model}.{table}" for table in served.tables)
            raise InvalidInput(f"{loaded.name} has tables only; rows are read from the models {names}")
        columns = self._planned(served, limits, plans)
        if columns is None:
            columns = columns_of(self.tensors(), loaded.schema.features, limits)
        return InferenceRequest(
            columns=columns,
            model=self.model,
            version=self.version,
            outputs=self.outputs or tuple(each.name for each in loaded.manifest.outputs),
            request_id=self.request_id,
        )

    def _planned(self, served: ServedVersion, limits: Limits, plans: Plans) -> ReceivedColumns | None:
        """Return the columns by a plan; None: there is none for it, or it does not fit."""
        kinds, shapes, raws = [], [], []
        for name, datatype, shape, values in self.sent:
            if isinstance(values, np.ndarray):
                return None
            kinds.append(kind_of(name, datatype, shape))
            shapes.append(shape)
            raws.append(values)
        plan = plans.find(served, tuple(kinds))
        return None if plan is None else plan.columns(shapes, raws, limits)


def version_of(text: str) -> int:
    """Return the version that a string names; 0: the live one.

    Raises:
        InvalidInput: It names none.
    """
    if not text:
        return 0
    number = int(text) if text.isascii() and text.isdecimal() and len(text) <= len(str(MAX_VERSION)) else 0
    if not 1 <= number <= MAX_VERSION:
        raise InvalidInput(f"version is {text[:40]!r}; it must be a number from 1 on, or be left out for the live one")
    return number


def read_message(message: Any, limits: Limits) -> InferCall:
    """Return what a `ModelInferRequest` asks for. Its numbers stay where they are in the message's bytes.

    Raises:
        InvalidInput: It is not as it should be; the message names the input, output or parameter.
        LimitExceeded: It has more inputs than a request may have columns.
    """
    inputs, raws = message.inputs, message.raw_input_contents
    check_count(len(inputs), limits.max_columns)
    if raws and len(raws) != len(inputs):
        raise InvalidInput(f"raw_input_contents: {len(raws)} of them for {len(inputs)} inputs; give one each, or none")
    sent = []
    for each, raw in zip_longest(inputs, raws):
        name, datatype, shape = each.name, each.datatype, tuple(each.shape)
        if each.parameters:
            check_input_parameters(name, values_of(each.parameters))
        if raw is None:
            sent.append(SentTensor(name, datatype, shape, read_contents(name, datatype, shape, each.contents)))
        elif each.HasField("contents"):
            raise InvalidInput(f"input {name}: has contents, and the request raw_input_contents, too; give one of both")
        else:
            sent.append(SentTensor(name, datatype, shape, raw))
    return InferCall(
        model=message.model_name,
        version=version_of(message.model_version),
        request_id=message.id,
        sent=sent,
        outputs=wanted((each.name, values_of(each.parameters)) for each in message.outputs) if message.outputs else (),
        timeout_s=timeout_of(values_of(message.parameters)) if message.parameters else None,
    )


def values_of(parameters: Any) -> dict[str, Any]:
    """Return a map of `InferParameter` as plain values; None: one without a value."""
    plain = {}
    for name, parameter in parameters.items():
        choice = parameter.WhichOneof("parameter_choice")
        plain[name] = getattr(parameter, choice) if choice else None
    return plain


def timeout_of(parameters: Mapping[str, Any]) -> float | None:
    """Return the time that a request's parameters give it, in seconds; None: they do not.

    Raises:
        InvalidInput: They ask for what is not done here.
    """
    if parameters.get("sequence_id"):
        raise InvalidInput("parameter sequence_id: no state is kept from request to request, so there are no sequences")
    for name in ("priority", "timeout"):
        value = parameters.get(name, 0)
        if type(value) is not int or not 0 <= value <= 2 * MAX_TIMEOUT_US + 1:
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
