"""Metadata of a model, what it takes and gives, as the `Model` message of the proto: off its schema and manifest."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from ringpull import __version__
from ringpull.inference.head.catalog import Catalog, ServedVersion
from ringpull.inference.model.dense_program import DenseProgram
from ringpull.inference.model.version import LoadedVersion
from ringpull.inference.proto import ringpull_pb2 as pb
from ringpull.inference.schema.kinds import Dense, IdSequence, SentFeature, Sparse

DATA_TYPES: Final = {"int64": pb.INT64, "uint64": pb.UINT64, "float32": pb.FLOAT32, "string": pb.STRING}


def describe_served(served: ServedVersion, catalog: Catalog) -> pb.Model:
    """Describe one version that a head serves."""
    model = served.loaded.manifest.model
    described = describe(served.loaded, catalog.versions(model), catalog.labels(model))
    described.lineage = served.writer.lineage
    for table in described.tables:
        table.live = table.name in served.writer.live
    return described


def describe(loaded: LoadedVersion, versions: Iterable[int], labels: Mapping[str, int] | None = None) -> pb.Model:
    """Describe one version. Crosses are left out: nobody sends them.

    Args:
        versions: All served versions of its model.
        labels: Labels of these; None: there are none.
    """
    manifest = loaded.manifest
    return pb.Model(
        name=manifest.model,
        version=manifest.version,
        versions=versions,
        features=[_feature(each) for each in loaded.schema.features if isinstance(each, Sparse | Dense | IdSequence)],
        outputs=[
            pb.OutputInfo(
                name=output.name,
                shape=output.shape,
                ranks="" if output.ranks is None else output.ranks.table,
                classes=output.classes,
            )
            for output in manifest.outputs
        ],
        tables=[
            pb.TableInfo(
                name=entry.spec.name,
                rows=entry.rows,
                dim=entry.spec.dim,
                row_type=entry.spec.row_type.value,
                bytes=entry.bytes,
                replicas=str(entry.spec.replicas),
                features=sorted({each.feature for each in manifest.lookups if each.table == entry.spec.name}),
                key_type=entry.spec.key_type.value,
            )
            for entry in manifest.tables
        ],
        server_version=__version__,
        labels=labels,
        program=None if loaded.program is None else _program(loaded.program),
    )


def _program(program: DenseProgram) -> pb.Program:
    runtime = program.runtime
    return pb.Program(
        runtime=runtime.name,
        version=runtime.version,
        provider=runtime.provider,
        device=program.device,
        threads=runtime.threads or 0,
        precision=runtime.precision,
        eager_because=runtime.eager_because,
        max_threads=runtime.max_threads,
    )


def _feature(feature: SentFeature) -> pb.FeatureInfo:
    info = pb.FeatureInfo(name=feature.name, kind=feature.KIND, optional=feature.missing is not None)
    if isinstance(feature, Dense):
        info.dtype, info.width = pb.FLOAT32, feature.width
        return info
    info.dtype, info.never_empty = DATA_TYPES[feature.dtype], feature.never_empty
    if isinstance(feature, IdSequence):
        info.many, info.max_length = True, feature.length
    else:
        info.many, info.weighted, info.max_length = feature.many, feature.weighted, feature.max_length or 0
    return info
