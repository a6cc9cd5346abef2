"""What TensorFlow Serving tells of a model: its signatures, and the states of its versions. As messages.

Inputs of a signature are the features that a request carries, each under its name. One with many values is its values
end to end, with `NAME_offsets` and perhaps `NAME_weights` beside it (`ringpull.inference.head.frontends.tensors`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from ringpull.inference.head.catalog import Catalog, ServedVersion
from ringpull.inference.head.frontends.tensors import OFFSETS, WEIGHTS, has_many
from ringpull.inference.head.frontends.tfs import messages
from ringpull.inference.head.frontends.tfs.signatures import PREDICT_METHOD, named_outputs, names_of, number_of
from ringpull.inference.model.version import LoadedVersion
from ringpull.inference.schema.kinds import Dense, IdSequence, MadeFeature
from ringpull.ps.errors import InvalidInput, NotFound

SIGNATURE_DEF: Final = "signature_def"
"""The only field of a model's metadata."""

DTYPES: Final = {"int64": "DT_INT64", "uint64": "DT_UINT64", "float32": "DT_FLOAT", "string": "DT_STRING"}


def signature_map(served: ServedVersion) -> Any:
    """Return the signatures of a version, a `tensorflow.serving.SignatureDefMap`."""
    inputs = {name: _info(name, dtype, shape) for name, dtype, shape in _inputs(served.loaded)}

    def signature(name: str) -> Any:
        outputs = {key: _info(key, "DT_FLOAT", each.shape) for key, each in named_outputs(served, name).items()}
        return messages.SignatureDef(inputs=inputs, outputs=outputs, method_name=PREDICT_METHOD)

    return messages.SignatureDefMap(signature_def={name: signature(name) for name in names_of(served)})


def model_status(catalog: Catalog, model: str, version: int = 0, label: str = "") -> Any:
    """Return the states of one version or of all of a model, a `tensorflow.serving.GetModelStatusResponse`.

    Args:
        version: Number of a version; 0: all.
        label: Label of a version; empty: none.

    Raises:
        InvalidInput: There is no name, or no such label.
        NotFound: There is no such model or version.
    """
    if not model:
        raise InvalidInput("model_spec.name: is empty; it must name a model")
    if label:
        version = number_of(catalog, model, label)
    states = _states(catalog, model)
    if version:
        if version not in states:
            raise NotFound(f"Could not find version {version} of model {model}")
        states = {version: states[version]}
    if not states:
        raise NotFound(f"Could not find any versions of model {model}")
    # TensorFlow Serving tells the highest version first.
    return messages.GetModelStatusResponse(model_version_status=[states[each] for each in sorted(states, reverse=True)])


def _states(catalog: Catalog, model: str) -> dict[int, Any]:
    """Return the states of the versions of a model: those that requests see, others that are here or should be."""
    loaded = [each.key[1] for each in catalog.loaded() if each.key[0] == model]
    shown = {each.key[1] for each in catalog.served() if each.key[0] == model}
    here = {number: _state(number, "AVAILABLE" if number in shown else "LOADING") for number in loaded}
    return here | {number: _state(number, "END", reason) for number, reason in catalog.refused(model).items()}


def _state(version: int, state: str, trouble: str = "") -> Any:
    status = messages.StatusProto(error_code="UNAVAILABLE" if trouble else "OK", error_message=trouble)
    return messages.ModelVersionStatus(version=version, state=state, status=status)


def _inputs(loaded: LoadedVersion) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    """Yield name, type and shape of a row of each tensor that a request may have."""
    for feature in loaded.schema.features:
        if isinstance(feature, MadeFeature):
            continue
        if isinstance(feature, Dense):
            yield feature.name, "DT_FLOAT", (feature.width,) if feature.width > 1 else ()
            continue
        yield feature.name, DTYPES[feature.dtype], ()
        if has_many(feature):
            yield feature.name + OFFSETS, "DT_INT64", ()
        if not isinstance(feature, IdSequence) and feature.weighted:
            yield feature.name + WEIGHTS, "DT_FLOAT", ()


def _info(name: str, dtype: str, shape: tuple[int, ...]) -> Any:
    dims = [{"size": size} for size in (-1, *shape)]
    return messages.TensorInfo(name=f"{name}:0", dtype=dtype, tensor_shape={"dim": dims})
