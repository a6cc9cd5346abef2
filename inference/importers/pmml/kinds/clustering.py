"""ClusteringModel: centers, and the measure by which the nearest one is found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ringpull.inference.importers.pmml.document import Element

MEASURES: Final = ("squaredEuclidean", "euclidean", "chebychev", "cityBlock", "minkowski")
_COMPARISONS: Final = ("absDiff", "gaussSim", "delta", "equal")


@dataclass(frozen=True, slots=True)
class ClusterField:
    """One field that is compared with the centers."""

    field: str
    weight: float
    comparison: str
    scale: float
    """Scale of gaussSim."""
    missing_weight: float
    """Part of a distance that it stands for where others are missing."""
    line: int


@dataclass(frozen=True, slots=True)
class Clustering:
    """Centers."""

    fields: tuple[ClusterField, ...]
    measure: str
    power: float
    """Power of a minkowski measure."""
    names: tuple[str, ...]
    centers: tuple[tuple[float, ...], ...]
    line: int


def read_clustering(element: Element, classes: tuple[str, ...]) -> Clustering:
    """Read a ClusteringModel.

    Raises:
        InvalidInput: It has what is not known here.
    """
    parts = ("ComparisonMeasure", "ClusteringField", "MissingValueWeights", "Cluster")
    element.only("MiningSchema", "Output", "Targets", "LocalTransformations", *parts)
    element.choice("modelClass", ("centerBased",))
    measure = element.need("ComparisonMeasure")
    measure.choice("kind", ("distance",))
    known = measure.only(*MEASURES)
    if len(known) != 1:
        raise measure.refusal(f"has not one of {', '.join(MEASURES)}")
    default = measure.choice("compareFunction", _COMPARISONS, "absDiff")
    fields = [each for each in element.all("ClusteringField") if each.get("isCenterField", "true") == "true"]
    weights = [1.0] * len(fields)
    if (given := element.first("MissingValueWeights")) is not None:
        weights = given.need("Array").numbers()
        if len(weights) != len(fields):
            raise given.refusal(f"has {len(weights)} values of {len(fields)} fields")
    made = []
    for each, missing in zip(fields, weights, strict=True):
        each.only()
        comparison = each.choice("compareFunction", _COMPARISONS, default)
        scale = each.number("similarityScale") if comparison == "gaussSim" else 1.0
        weight = each.number("fieldWeight", 1.0)
        made.append(ClusterField(each.attribute("field"), weight, comparison, scale, missing, each.line))
    names, centers = [], []
    for number, each in enumerate(element.all("Cluster"), 1):
        each.only("Array", "KohonenMap", "Partition", "Covariances")
        center = each.need("Array").numbers()
        if len(center) != len(fields):
            raise each.refusal(f"has {len(center)} values of {len(fields)} fields")
        names.append(each.get("id") or each.get("name") or str(number))
        centers.append(tuple(center))
    if not centers or not made:
        raise element.refusal("has no clusters, or no fields")
    power = known[0].number("p-parameter") if known[0].tag == "minkowski" else 2.0
    return Clustering(tuple(made), known[0].tag, power, tuple(names), tuple(centers), element.line)
