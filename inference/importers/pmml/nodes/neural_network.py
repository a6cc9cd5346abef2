"""NeuralNetwork as nodes of a graph."""

from __future__ import annotations

import numpy as np

from ringpull.inference.importers.pmml.expressions import NormContinuous
from ringpull.inference.importers.pmml.kinds.neural_network import Layer, NeuralNetwork
from ringpull.inference.importers.pmml.nodes.expressions import build_expression
from ringpull.inference.importers.pmml.nodes.functions import sigmoid, single, tanh
from ringpull.inference.importers.pmml.nodes.graph import Graph
from ringpull.inference.importers.pmml.nodes.result import Result, of_probabilities, picked, simplemax, softmax
from ringpull.inference.importers.pmml.nodes.scope import Scope


def build_neural_network(scope: Scope, body: NeuralNetwork) -> Result:
    """Return what a network predicts.

    Raises:
        InvalidInput: A field is not there.
    """
    graph = scope.graph
    columns = [graph.full_column(graph.number(build_expression(scope, each)).name) for each in body.inputs.values()]
    blocks: list[tuple[tuple[str, ...], str]] = [(tuple(body.inputs), graph.joined(columns))]
    for layer in body.layers:
        blocks.append((layer.names, _layer(graph, layer, blocks)))
    if body.predicted is None:
        outputs = graph.joined([_neuron(graph, blocks, neuron) for neuron, _ in body.outputs])
        return of_probabilities(graph, body.classes, outputs)
    neuron, norm = body.predicted
    found = _neuron(graph, blocks, neuron)
    return Result(found if norm is None else _denormalised(graph, found, norm))


def _neuron(graph: Graph, blocks: list[tuple[tuple[str, ...], str]], name: str) -> str:
    tensor, place = next((tensor, names.index(name)) for names, tensor in reversed(blocks) if name in names)
    return picked(graph, tensor, place)


def _layer(graph: Graph, layer: Layer, blocks: list[tuple[tuple[str, ...], str]]) -> str:
    total = graph.tensor([layer.biases])
    for names, tensor in blocks:
        place = {name: number for number, name in enumerate(names)}
        weights = np.zeros((len(names), len(layer.names)))
        for neuron, own in enumerate(layer.weights):
            for name, weight in own.items():
                if name in place:
                    weights[place[name], neuron] = weight
        if weights.any() or tensor == blocks[-1][1]:
            total = graph.node("Add", [graph.node("MatMul", [tensor, graph.tensor(weights)]), total])
    made = _activated(graph, layer.activation, layer.threshold, total)
    if layer.normalization == "softmax":
        return softmax(graph, made)
    return simplemax(graph, made) if layer.normalization == "simplemax" else made


def _activated(graph: Graph, activation: str, threshold: float, x: str) -> str:
    one = graph.tensor(1.0)
    match activation:
        case "identity":
            return x
        case "logistic":
            return sigmoid(graph, x)
        case "tanh":
            return tanh(graph, x)
        case "rectifier":
            return graph.node("Max", [x, graph.tensor(0.0)])
        case "threshold":
            above = graph.cast(graph.node("Greater", [x, graph.tensor(threshold)]))
            return graph.where(graph.node("IsNaN", [x]), graph.tensor(np.nan), above)
        case "exponential":
            return graph.node("Exp", [x])
        case "reciprocal":
            return graph.node("Div", [one, x])
        case "square":
            return graph.node("Mul", [x, x])
        case "Gauss":
            return graph.node("Exp", [graph.node("Neg", [graph.node("Mul", [x, x])])])
        case "sine":
            return graph.node("Sin", [x])
        case "cosine":
            return graph.node("Cos", [x])
        case "Elliott":
            return graph.node("Div", [x, graph.node("Add", [one, graph.node("Abs", [x])])])
        case _:
            return graph.node("Mul", [single(graph, "Atan", x), graph.tensor(2 / np.pi)])


def _denormalised(graph: Graph, y: str, norm: NormContinuous) -> str:
    """Return the number of which a normalised one was made: lines between points, the other way."""
    made = ""
    points = norm.points if norm.points[-1][1] >= norm.points[0][1] else norm.points[::-1]
    for place in range(len(points) - 2, -1, -1):
        (x0, y0), (x1, y1) = points[place], points[place + 1]
        slope = graph.tensor((x1 - x0) / (y1 - y0))
        line = graph.node(
            "Add", [graph.node("Mul", [graph.node("Sub", [y, graph.tensor(y0)]), slope]), graph.tensor(x0)]
        )
        made = line if not made else graph.where(graph.node("Less", [y, graph.tensor(y1)]), line, made)
    return made
