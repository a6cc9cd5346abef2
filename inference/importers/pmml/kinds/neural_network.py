"""NeuralNetwork: inputs, layers of neurons, and which neuron is which class, or the prediction."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from ringpull.inference.importers.pmml.document import Element
from ringpull.inference.importers.pmml.expressions import (
    EXPRESSIONS,
    Expression,
    FieldRef,
    Functions,
    NormContinuous,
    NormDiscrete,
    read_expression,
)

ACTIVATIONS: Final = (
    *("threshold", "logistic", "tanh", "identity", "exponential", "reciprocal", "square", "Gauss", "sine", "cosine"),
    *("Elliott", "arctan", "rectifier"),
)
_NORMALIZATIONS: Final = ("none", "softmax", "simplemax")


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer: rows are its neurons."""

    names: tuple[str, ...]
    biases: tuple[float, ...]
    weights: tuple[dict[str, float], ...]
    """Weights of each neuron's connections, by the name of the neuron or input that they come from."""
    activation: str
    threshold: float
    normalization: str


@dataclass(frozen=True, slots=True)
class NeuralNetwork:
    """A network."""

    inputs: dict[str, Expression]
    """Inputs by their names."""
    layers: tuple[Layer, ...]
    outputs: tuple[tuple[str, str], ...]
    """Neuron and class of each output of a classification."""
    predicted: tuple[str, NormContinuous | None] | None
    """Neuron of a regression's prediction, and what the target was normalised by."""
    line: int

    @property
    def classes(self) -> tuple[str, ...]:
        """Classes, in the order of the outputs."""
        return tuple(each for _, each in self.outputs)


def read_neural_network(element: Element, functions: Functions) -> NeuralNetwork:
    """Read a NeuralNetwork.

    Raises:
        InvalidInput: It has what is not known here.
    """
    parts = ("NeuralInputs", "NeuralLayer", "NeuralOutputs")
    element.only("MiningSchema", "Output", "Targets", "LocalTransformations", *parts)
    inputs = {}
    for each in element.need("NeuralInputs").only("NeuralInput"):
        derived = each.need("DerivedField")
        inputs[each.attribute("id")] = read_expression(
            derived.need(*EXPRESSIONS), derived.get("dataType", "double"), functions
        )
    known, layers = set(inputs), []
    for each in element.all("NeuralLayer"):
        layers.append(_read_layer(element, each, known))
        known |= set(layers[-1].names)
    if not layers or not inputs:
        raise element.refusal("has no layers, or no inputs")
    outputs, predicted = [], None
    for each in element.need("NeuralOutputs").only("NeuralOutput"):
        neuron, inner = each.attribute("outputNeuron"), each.need("DerivedField").need(*EXPRESSIONS)
        expression = read_expression(inner)
        if neuron not in known:
            raise each.refusal(f"is of {neuron[:80]!r}, which is no neuron")
        if element.get("functionName") == "classification":
            if not isinstance(expression, NormDiscrete):
                raise inner.refusal("is an output of classes; <NormDiscrete> is known here")
            outputs.append((neuron, expression.value))
        elif predicted is not None or not isinstance(expression, FieldRef | NormContinuous):
            raise inner.refusal("is an output; one of <FieldRef> or <NormContinuous> is known here")
        elif isinstance(expression, NormContinuous) and any(
            after[1] == before[1] for before, after in pairwise(expression.points)
        ):
            raise inner.refusal("has one norm twice: no number can be told of it")
        else:
            predicted = neuron, expression if isinstance(expression, NormContinuous) else None
    if element.get("functionName") == "classification" and len(outputs) < 2:
        raise element.refusal("has not one <NeuralOutput> for each class")
    return NeuralNetwork(inputs, tuple(layers), tuple(outputs), predicted, element.line)


def _read_layer(network: Element, element: Element, known: set[str]) -> Layer:
    """Read a layer; what its attributes do not say those of the network do."""
    said = Element(element.tag, element.line, {**network.attributes, **element.attributes})
    activation = said.choice("activationFunction", ACTIVATIONS)
    normalization = said.choice("normalizationMethod", _NORMALIZATIONS, "none")
    names: list[str] = []
    biases, weights = [], []
    for neuron in element.only("Neuron"):
        if neuron.attribute("id") in (*known, *names):
            raise neuron.refusal(f"is the second one called {neuron.get('id')[:80]!r}")
        names.append(neuron.attribute("id"))
        biases.append(neuron.number("bias", 0.0))
        own = {}
        for each in neuron.only("Con"):
            if each.attribute("from") not in known:
                raise each.refusal(f"is from {each.get('from')[:80]!r}, which is no neuron before it")
            own[each.attribute("from")] = each.number("weight")
        weights.append(own)
    if not names:
        raise element.refusal("has no neurons")
    return Layer(tuple(names), tuple(biases), tuple(weights), activation, said.number("threshold", 0.0), normalization)
