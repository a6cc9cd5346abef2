"""One caller's ids beyond the dense program's rows: its own error, by every protocol; nobody else's, and no batch's.

The program holds an embedding of torch, which raises where an id has no row: as exported programs do.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ringpull.inference.client.client import AsyncClient
from ringpull.inference.model.dense_program import ProgramTensor
from ringpull.inference.model.manifest import IdLimit
from ringpull.inference.schema.schema import Schema
from ringpull.ps.errors import InvalidInput
from tests.inference.fakes import EchoProgram
from tests.inference.http_served import HttpServed, http_served
from tests.inference.served import Served
from tests.inference.small_model import ARGUMENTS, LOOKUPS, SCHEMA, columns_of, make_manifest, plain_row

pytestmark = pytest.mark.net

ROWS = 10
"""Rows of the embedding, so ids 0 to 9."""
USER = len(LOOKUPS) + ARGUMENTS.index("user")
"""Place of the ids that the embedding is given."""
SAYS = "feature user: row 1 has the id 1000000; the model takes ids from 0 to 9;"


class DenseEmbedding(EchoProgram):
    """Gives rows of an embedding as the output that was its ids; counts the batches that it failed."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.weight = torch.randn(ROWS, 3)
        self.failed = 0

    def run(self, inputs: Sequence[ProgramTensor], rows: int) -> dict[str, NDArray[np.float32]]:
        outputs = super().run(inputs, rows)
        try:
            vectors = torch.nn.functional.embedding(torch.from_numpy(outputs[f"input{USER}"]).long(), self.weight)
        except IndexError:
            self.failed += 1
            raise
        return {**outputs, f"input{USER}": vectors.numpy()}


def serve(executor: ThreadPoolExecutor, schema: Schema = SCHEMA) -> Served:
    manifest = replace(make_manifest(), limits=(IdLimit(feature="user", low=0, high=ROWS),))
    return Served(executor, program=DenseEmbedding(), manifest=manifest, schema=schema)


async def running(served: Served) -> AsyncIterator[Served]:
    served.target = f"127.0.0.1:{await served.server.start()}"
    yield served
    served.router.gate.set()
    await served.server.stop(grace_s=0)
    await served.version.batcher.close(timeout_s=60)


@pytest.fixture
async def limited() -> AsyncIterator[Served]:
    with ThreadPoolExecutor(1) as executor:
        async for served in running(serve(executor)):
            yield served


@pytest.fixture
async def http(limited: Served) -> AsyncIterator[HttpServed]:
    async with http_served(limited) as http:
        yield http


def columns(*users: int) -> dict[str, Any]:
    return columns_of([plain_row(user, 2) for user in users])


@pytest.mark.medium
async def test_one_caller_with_bad_ids_fails_alone_among_five(limited: Served) -> None:
    program = limited.version.pipeline._program

    async def honest(client: AsyncClient, user: int, times: int) -> int:
        for each in range(times):
            users = [user, (user + each) % ROWS]
            answer = await client.predict("ranker", columns(*users), outputs=[f"input{USER}"])
            np.testing.assert_array_equal(answer.outputs[f"input{USER}"], program.weight[users].numpy())
        return times

    async def poisoner(client: AsyncClient, times: int) -> int:
        for _ in range(times):
            with pytest.raises(InvalidInput, match=SAYS):
                await client.predict("ranker", columns(1, 1_000_000))
        return times

    clients = [AsyncClient(limited.target, timeout_s=60, retries=0) for _ in range(6)]
    try:
        calls = [honest(client, user, 20) for user, client in enumerate(clients[1:]) for _ in range(4)]
        done = await asyncio.gather(*calls, *(poisoner(clients[0], 20) for _ in range(4)))
    finally:
        for client in clients:
            await client.close()
    assert done == [20] * 24
    assert program.failed == 0
    # Their requests did ride together: or nothing was shown.
    assert len(program.runs) < 5 * 4 * 20


async def test_those_of_one_batch_are_told_apart(limited: Served) -> None:
    async with AsyncClient(limited.target, timeout_s=60, retries=0) as client:
        sent = [[2, 3], [1, 1_000_000], [4], [1, 1_000_000]]
        first, *calls = await limited.riding(*(client.predict("ranker", columns(*users)) for users in ([1], *sent)))
        limited.router.gate.set()
        await first
        for users, answer in zip(sent, await asyncio.gather(*calls, return_exceptions=True), strict=True):
            if 1_000_000 in users:
                assert isinstance(answer, InvalidInput)
                assert str(answer).startswith(SAYS)
            else:
                assert not isinstance(answer, BaseException)
                assert len(answer.outputs["input0"]) == len(users)
    assert limited.router.pulls_begun == 2


def tensors(users: Sequence[int]) -> list[dict[str, Any]]:
    rows, no = len(users), [0] * (len(users) + 1)
    listed = [("user", "INT64", [rows], users), ("item", "INT64", [rows], [2] * rows)]
    listed += [(f"{name}_offsets", "INT64", [rows + 1], no) for name in ("genres", "tags", "history", "recent")]
    listed += [(name, "INT64", [0], []) for name in ("genres", "tags", "history", "recent")]
    return [dict(zip(("name", "datatype", "shape", "data"), each, strict=True)) for each in listed]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/predict/ranker", lambda users: {"features": {"user": users, "item": [2] * len(users)}}),
        ("/v2/models/ranker/infer", lambda users: {"inputs": tensors(users)}),
        (
            "/v1/models/ranker:predict",
            lambda users: {"signature_name": "", "instances": [{"user": user, "item": 2} for user in users]},
        ),
    ],
    ids=["json", "oip", "tfs"],
)
async def test_every_protocol_says_so_as_a_bad_request(limited: Served, http: HttpServed, path, body) -> None:
    fine = await http.client.post(path, json=body([1, 2]))
    assert fine.status_code == 200, fine.text
    refused = await http.client.post(path, json=body([1, 1_000_000]))
    assert refused.status_code == 400
    assert SAYS in refused.text
    assert limited.version.pipeline._program.failed == 0


async def test_declared_stand_in_is_what_the_program_is_given() -> None:
    features = [replace(each, beyond=4) if each.name == "user" else each for each in SCHEMA.features]
    with ThreadPoolExecutor(1) as executor:
        async for served in running(serve(executor, Schema(features, SCHEMA.stacks))):
            async with AsyncClient(served.target, timeout_s=60, retries=0) as client:
                answer = await client.predict("ranker", columns(1, 1_000_000, -1))
                expected = await client.predict("ranker", columns(1, 4, 4))
            for name in ("input0", f"input{USER}"):
                np.testing.assert_array_equal(answer.outputs[name], expected.outputs[name])
