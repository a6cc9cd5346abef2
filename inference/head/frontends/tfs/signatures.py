"""Signatures of a model: which version is asked for, and which of its outputs answer.

A model has the signature `serving_default` (also asked for by an empty name): all outputs. And one signature for each
output, of the output's name. An imported SavedModel has more, each with outputs of its own: these are called
SIGNATURE:OUTPUT, here answered as OUTPUT, and none of `serving_default`'s. Classify and Regress need one output: that
of the signature, or the only one that fits. What does not fit is answered with the codes, and where clients look at
them with the words, of TensorFlow Serving.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ringpull.inference.head.catalog import Catalog, ServedVersion
from ringpull.inference.head.outputs import predicts_nothing
from ringpull.inference.model.manifest import ProgramOutput
from ringpull.ps.errors import InvalidInput, NotFound, UnmetCondition

DEFAULT: Final = "serving_default"
PREDICT_METHOD: Final = "tensorflow/serving/predict"
OF: Final = ":"
"""What lies between the name of a signature and that of its output, in the name of an output that is of one alone."""
DEFAULTS: Final = frozenset({"", DEFAULT, PREDICT_METHOD, "tensorflow/serving/classify", "tensorflow/serving/regress"})
"""Names of the default signature: TensorFlow Serving's own examples ask for its methods' names."""


def version_of(catalog: Catalog, model: str, version: int = 0, label: str = "") -> ServedVersion:
    """Return the version that is asked for.

    Args:
        version: Its number; 0: the live one.
        label: Its label; empty: none.

    Raises:
        InvalidInput: There is no name, a number below 0, or no such label.
        NotFound: It is not served here.
        Unavailable: It should be, and could not be loaded.
    """
    if not model:
        raise InvalidInput("model_spec.name: is empty; it must name a model")
    if label:
        version = number_of(catalog, model, label)
    if version < 0:
        raise InvalidInput(f"model_spec.version: is {version}; it must be 1 or more, or absent for the live one")
    try:
        return catalog.get(model, version)
    except NotFound as exc:
        asked = f"Specific({model}, {version})" if version else f"Latest({model})"
        raise NotFound(f"Servable not found for request: {asked}") from exc


def number_of(catalog: Catalog, model: str, label: str) -> int:
    """Return the version that a label names.

    Raises:
        InvalidInput: The model has no such label, or is not served here.
    """
    number = catalog.labels(model).get(label)
    if number is None:
        raise InvalidInput(f"Unrecognized servable version label: {label}")
    return number


def outputs_of(served: ServedVersion, signature: str = "", output_filter: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the outputs that Predict answers with; empty: all.

    Args:
        signature: Name of a signature; empty: the default one.
        output_filter: Names of outputs; empty: all of the signature.

    Raises:
        UnmetCondition: The model has no such signature.
        InvalidInput: The signature has no such output, or one is named twice. Or the version is of tables alone.
    """
    outputs = _of_signature(served, signature)
    if not output_filter:
        return () if len(outputs) == len(served.outputs) else tuple(outputs.values())
    for name in islice(output_filter, len(outputs) + 1):  # Of any more, one is named twice.
        if name not in outputs:
            known = ",".join(sorted(outputs))
            raise InvalidInput(
                f"output_filter: output tensor alias not found in signature: {name}"
                f" Outputs expected to be in the set {{{known}}}."
            )
    if len(output_filter) > len(outputs) or len(set(output_filter)) != len(output_filter):
        raise InvalidInput("output_filter: duplicate output tensor alias: name each output once")
    return tuple(outputs[name] for name in output_filter)


def answered_as(signature: str, output: str) -> str:
    """Return the name under which a signature has an output."""
    return output.removeprefix(signature + OF) if signature else output


def classified_output(served: ServedVersion, signature: str = "") -> ProgramOutput:
    """Return the output that Classify answers with: C scores a row.

    Raises:
        InvalidInput: There is no such signature, none fits, or several do.
    """
    return _only(served, signature, "Classify", "C values a row", lambda shape: len(shape) == 1 and shape[0] >= 1)


def regressed_output(served: ServedVersion, signature: str = "") -> ProgramOutput:
    """Return the output that Regress answers with: one value a row.

    Raises:
        InvalidInput: There is no such signature, none fits, or several do.
    """
    return _only(served, signature, "Regress", "one value a row", lambda shape: shape in ((), (1,)))


def class_labels(output: ProgramOutput) -> list[str]:
    """Return the labels of the classes of an output; empty ones where the version names none."""
    return list(output.classes) or [""] * output.shape[0]


def for_each_row(values: NDArray[np.float32], rows: int) -> NDArray[np.float32]:
    """Return an output (B, ...) with a row for each of B that were sent.

    Where those have nothing of their own, one row was scored, which stands for all of them.

    Raises:
        RuntimeError: It has another number of rows: a fault of ours, that must not reach a client as an answer.
    """
    if len(values) == rows:
        return values
    if len(values) != 1:
        raise RuntimeError(f"an answer has {len(values)} rows; {rows} were sent")
    return np.broadcast_to(values, (rows, *values.shape[1:]))


def values_of(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return an output of one value a row, (B,) or (B, 1), as (B,)."""
    return scores.reshape(-1)


def _of_signature(served: ServedVersion, signature: str) -> dict[str, str]:
    """Return the outputs of a signature, by the name that it has for each."""
    if served.loaded.program is None:
        raise predicts_nothing(served)
    if signature in DEFAULTS:
        return {name: name for name in served.outputs if OF not in name} or {name: name for name in served.outputs}
    own = {answered_as(signature, name): name for name in served.outputs if name.startswith(signature + OF)}
    if own:
        return own
    if signature in served.outputs:
        return {signature: signature}
    raise UnmetCondition(
        f'Serving signature key "{signature}" not found. {served.loaded.name} has: {", ".join(names_of(served))}'
    )


def names_of(served: ServedVersion) -> list[str]:
    """Return the names of the signatures of a version."""
    outputs = [each.name for each in served.loaded.manifest.outputs]
    own = dict.fromkeys(name.partition(OF)[0] for name in outputs if OF in name)
    return list(dict.fromkeys([DEFAULT, *own, *(name for name in outputs if OF not in name)]))


def named_outputs(served: ServedVersion, signature: str) -> dict[str, ProgramOutput]:
    """Return the outputs of a signature that a version has, by the name that it has for each; none of tables alone."""
    if served.loaded.program is None:
        return {}
    described = {each.name: each for each in served.loaded.manifest.outputs}
    return {name: described[output] for name, output in _of_signature(served, signature).items()}


def _only(
    served: ServedVersion, signature: str, verb: str, what: str, fits: Callable[[tuple[int, ...]], bool]
) -> ProgramOutput:
    try:
        names = set(_of_signature(served, signature).values())
    except UnmetCondition as exc:  # TensorFlow Serving has another code for it here than for Predict.
        raise InvalidInput(f"No signature was found with the name: {signature}. {exc}") from exc
    outputs = [each for each in served.loaded.manifest.outputs if each.name in names]
    fitting = [each for each in outputs if fits(each.shape)]
    if len(fitting) == 1:
        return fitting[0]
    if not fitting:
        raise InvalidInput(f"signature_name: {verb} needs an output of {what}; there are {_shapes(outputs)}")
    raise InvalidInput(
        f"signature_name: {verb} answers with one output, and several have {what}: {_shapes(fitting)};"
        " give one's name as signature_name"
    )


def _shapes(outputs: Iterable[ProgramOutput]) -> str:
    return ", ".join(f"{each.name} {('B', *each.shape)}".replace("'", "") for each in outputs)
