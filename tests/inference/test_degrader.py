"""Degrade steps at work in a head's parts: levels that follow the pressure, counts, and who may stand in for whom."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from ringpull.inference.degrade.control import Thresholds
from ringpull.inference.degrade.degrader import Degrader, following_pressure
from ringpull.inference.degrade.steps import CapCandidates, CutBags, Step, UseVersion
from ringpull.inference.head.catalog import Catalog, ServedVersion
from ringpull.inference.head.frontends.status import degrade_statuses
from ringpull.inference.head.lighter_version import can_stand_in
from ringpull.inference.model.manifest import ProgramOutput
from ringpull.inference.model.version import LoadedVersion
from ringpull.inference.schema.kinds import Cross, Dense, Feature, IdSequence, Sparse
from ringpull.inference.schema.schema import Schema
from tests.inference.fakes import EchoProgram, ReferenceRouter
from tests.inference.small_model import SCHEMA, columns_of, make_manifest, make_tables, plain_row, received_of

AT_ONCE = Thresholds(up_s=0.0, down_s=0.0, smoothing_s=0.0)
STEPS: list[Step] = [CutBags(2), CapCandidates(5)]


def degrader_at(level: int, *steps: Step) -> Degrader:
    degrader = Degrader("ranker", 3, steps or STEPS, SCHEMA, AT_ONCE)
    for now in range(level + 1):
        degrader.observe(1.0, float(now))
    return degrader


def test_what_is_in_force_follows_the_level(caplog: pytest.LogCaptureFixture) -> None:
    degrader = degrader_at(0)
    assert (degrader.level, degrader.in_force) == (0, None)
    with caplog.at_level(logging.WARNING):
        for now, pressure in enumerate((1.0, 1.0, 1.0, 0.0, 0.0), 1):
            degrader.observe(pressure, float(now))
    assert [record.getMessage() for record in caplog.records] == [
        "ranker/3: degrade level 1 of 2, from now on: cut bags to 2",
        "ranker/3: degrade level 2 of 2, from now on: scored the first 5 candidates",
        "ranker/3: degrade level 1 of 2, no more: scored the first 5 candidates",
        "ranker/3: degrade level 0 of 2, no more: cut bags to 2",
    ]
    both = degrader_at(2).in_force
    assert both is not None
    assert both.steps == tuple(STEPS)


def test_replies_are_counted_by_step_and_shown() -> None:
    degrader = degrader_at(1)
    degrader.count(["cut bags to 2"])
    degrader.count(["cut bags to 2", "scored the first 5 candidates"])
    degrader.count([])
    assert degrader.replies == {"cut bags to 2": 2, "scored the first 5 candidates": 1}
    [status] = degrade_statuses([degrader, Degrader("plain", 1, (), SCHEMA)])
    assert (status.model, status.version, status.level) == ("ranker", 3, 1)
    assert [(step.step, step.replies) for step in status.steps] == [*degrader.replies.items()]


async def test_pressure_is_looked_at_again_and_again_for_all_there_are() -> None:
    degraders = [degrader_at(0)]
    pressure = 1.0
    task = asyncio.create_task(following_pressure(lambda: degraders, lambda: pressure, every_s=0.0))
    while degraders[0].level < 2:
        await asyncio.sleep(0)
    degraders.append(degrader_at(0))
    while degraders[1].level < 2:
        await asyncio.sleep(0)
    pressure = 0.0
    while any(each.level for each in degraders):
        await asyncio.sleep(0)
    task.cancel()


# -- who may stand in --------------------------------------------------------------------------------------------------

ASKED = [
    Sparse("user"),
    Sparse("town", dtype="string", missing="?"),
    Sparse("genres", many=True, missing=()),
    Sparse("tags", many=True, weighted=True),
    IdSequence("history", length=9),
    Dense("age", width=2),
    Cross("place", of=("user", "town"), buckets=9),
]


def loaded(*features: Feature, outputs: tuple[ProgramOutput, ...] = ()) -> LoadedVersion:
    manifest = make_manifest()
    return LoadedVersion(
        Path("ranker/1"), replace(manifest, outputs=outputs or manifest.outputs), Schema(features), EchoProgram()
    )


@pytest.mark.parametrize(
    "features",
    [
        ASKED,
        ASKED[:1],
        [Sparse("user", missing=3)],
        [IdSequence("genres", length=2, missing=())],
        [Sparse("history", many=True, max_length=3)],
        [Sparse("user"), Dense("new", missing=0.0)],
        [Sparse("user"), Sparse("item", missing=1), Cross("both", of=("user", "item"), buckets=3)],
    ],
)
def test_a_version_that_takes_all_requests_of_another_stands_in_for_it(features: list[Feature]) -> None:
    assert can_stand_in(loaded(*features), loaded(*ASKED))


@pytest.mark.parametrize(
    "feature",
    [
        Sparse("new"),
        Sparse("user", dtype="string"),
        Sparse("user", many=True),
        Sparse("tags", many=True),
        Sparse("town", dtype="string"),
        Sparse("genres", many=True, missing=4),
        Dense("age", width=3),
        Dense("user"),
        Sparse("place"),
    ],
    ids=str,
)
def test_a_version_that_would_refuse_some_does_not(feature: Feature) -> None:
    assert not can_stand_in(loaded(feature), loaded(*ASKED))


def test_a_version_with_other_outputs_does_not() -> None:
    score, vector = ProgramOutput(name="score", shape=()), ProgramOutput(name="vector", shape=(3,))
    assert can_stand_in(loaded(*ASKED, outputs=(vector, score)), loaded(*ASKED, outputs=(score,)))
    assert not can_stand_in(loaded(*ASKED, outputs=(score,)), loaded(*ASKED, outputs=(score, vector)))
    other = replace(vector, shape=(4,))
    assert not can_stand_in(loaded(*ASKED, outputs=(other,)), loaded(*ASKED, outputs=(vector,)))


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as executor:
        yield executor


def served(executor: ThreadPoolExecutor, version: int, *steps: Step, schema: Schema = SCHEMA) -> ServedVersion:
    manifest = replace(make_manifest(), version=version, degrade=steps)
    each = LoadedVersion(Path(f"ranker/{version}"), manifest, schema, EchoProgram())
    return ServedVersion(each, ReferenceRouter(make_tables()), executor, max_batch_rows=64, thresholds=AT_ONCE)


def test_the_lighter_version_answers_while_it_is_open(executor: ThreadPoolExecutor) -> None:
    heavy, light = served(executor, 5, UseVersion(3)), served(executor, 3)
    catalog = Catalog([heavy, light])
    columns = received_of(columns_of([plain_row(1, 2)]))
    assert heavy.degraded(columns, named=False) == (heavy, columns)
    for now in range(2):
        heavy.degrader.observe(1.0, float(now))
    answering, taken = heavy.degraded(columns, named=False)
    assert answering is light
    assert taken.degradation is heavy.degrader.in_force
    assert heavy.degraded(columns, named=True)[0] is heavy
    assert light.degraded(columns, named=False) == (light, columns)
    catalog.show({"ranker": 5}, [("ranker", 5)])
    assert heavy.degraded(columns, named=False)[0] is heavy


def test_a_version_that_takes_other_requests_never_answers_for_another(executor: ThreadPoolExecutor) -> None:
    [*others, price, cross] = SCHEMA.features
    needs_more = Schema([*others, replace(price, missing=None), cross], SCHEMA.stacks)
    heavy = served(executor, 5, UseVersion(3))
    Catalog([heavy, served(executor, 3, schema=needs_more)])
    assert heavy.stand_in is None
