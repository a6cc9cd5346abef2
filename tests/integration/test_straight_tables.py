"""Straight pushes to tables of short rows and of bytes, to the bit; and deployments that let nobody push straight."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ringpull import Client, TableOptions, export_tables
from ringpull.inference.client.credentials import Credentials
from ringpull.inference.client.straight_ways import route_request
from ringpull.inference.head.config import HeadConfig
from ringpull.inference.head.tokens.settings import TokenSettings
from ringpull.inference.proto import writer_pb2 as pb
from ringpull.ps.errors import Forbidden, InvalidInput
from tests.certificates import Certificates
from tests.integration.local import local_cluster
from tests.integration.test_straight_pushes import ROW, counted, serving
from tests.integration.test_straight_pushes import patient as patient
from tests.integration.test_writer import DIM

pytestmark = [pytest.mark.net, pytest.mark.medium]

Numbers = NDArray[np.float32]

WIDE = 13
"""Numbers of a row: no multiple of any vector's width."""
KEYS = np.r_[5:25, 1000:1180]


def as_half(rows: Numbers) -> Numbers:
    """What float16 makes of rows."""
    return rows.astype(np.float16).astype(np.float32)


def as_bfloat(rows: Numbers) -> Numbers:
    """What bfloat16 makes of rows: 8 significant bits, the nearest, ties to even; below 2^-126 all have one step."""
    wide = rows.astype(np.float64)
    step = np.ldexp(1.0, np.maximum(np.frexp(wide)[1], -125) - 8)
    return (np.round(wide / step) * step).astype(np.float32)


SHORT: dict[str, tuple[str, float, Callable[[Numbers], Numbers]]] = {
    "half": ("float16", 65_000, as_half),
    "brain": ("bfloat16", 3.38e38, as_bfloat),
}
"""Row type, largest number that is pushed, and the reference, of each table of short rows."""


def drawn(largest: float) -> Numbers:
    """Rows of numbers from the smallest to the largest, halves between two short ones, zeros of both signs."""
    rng = np.random.default_rng(3)
    rows = (rng.choice([-1, 1], (len(KEYS), WIDE)) * 2.0 ** rng.uniform(-149, 127, (len(KEYS), WIDE))).astype(
        np.float32
    )
    rows[1::2] = rng.normal(size=rows[1::2].shape)
    rows[:, 0] = 1 + (2 * rng.integers(0, 1 << 10, len(KEYS)) + 1) / 256  # a tie of bfloat16
    rows[:, 1] = 1 + (2 * rng.integers(0, 1 << 10, len(KEYS)) + 1) / 2048  # of float16
    rows[0], rows[2, :2], rows[4, :2] = 0, (largest, -largest), (-0.0, 1e-45)
    return np.clip(rows, -largest, largest)


def export_short(folder: Path) -> Path:
    rows = np.zeros((50, WIDE), np.float32)
    tables: dict[str, Any] = {name: (np.arange(50), rows) for name in SHORT}
    tables["blobs"] = (np.arange(50), [b"old"] * 50)
    options = {name: TableOptions(live=True, row_type=row_type) for name, (row_type, *_) in SHORT.items()}
    options["blobs"] = TableOptions(live=True)
    return export_tables(tables, folder / "feed", 1, options=options, quiet=True).path


@pytest.mark.parametrize("shards", [1, 3])
def test_short_rows_and_bytes_are_pushed_to_the_bit(tmp_path: Path, shards: int) -> None:
    rng = np.random.default_rng(7)
    with (
        local_cluster([export_short(tmp_path)], shards=shards, data_dir=tmp_path / "data") as cluster,
        cluster.client() as client,
        cluster.client() as other,
    ):
        through = counted(client)
        for table, (_, largest, reference) in SHORT.items():
            rows = drawn(largest)
            done = client.push("feed", table, KEYS, rows)
            assert (done.rows, done.new_keys) == (len(KEYS), len(KEYS))
            found = other.lookup("feed", table, KEYS).rows
            np.testing.assert_array_equal(found.view(np.uint32), reference(rows).view(np.uint32))
            with pytest.raises(InvalidInput, match=f"table {table}: .*is beyond"):
                client.push("feed", table, KEYS[:2], np.full((2, WIDE), 3.4e38, np.float32))
        texts = [rng.bytes(int(length)) for length in [0, 1, 70_000, *rng.integers(0, 200, len(KEYS) - 3)]]
        through.clear()
        assert client.push("feed", "blobs", KEYS, texts).rows == len(KEYS)
        assert list(other.lookup("feed", "blobs", KEYS).rows) == texts
        with client.pusher("feed", writer="trainer") as pusher:
            for step in range(5):
                pusher.push("brain", KEYS, np.roll(drawn(1e30), step, axis=0))
                pusher.push("blobs", KEYS, texts[step:] + texts[:step])
            pusher.flush()
        found = other.lookup("feed", "brain", KEYS).rows
        np.testing.assert_array_equal(found.view(np.uint32), as_bfloat(np.roll(drawn(1e30), 4, axis=0)).view(np.uint32))
        assert list(other.lookup("feed", "blobs", KEYS).rows) == texts[4:] + texts[:4]
        assert through == []


def reason(client: Client) -> str:
    """Why a head tells a client no push route, whoever asks."""
    reply = client._call(client._push_route, route_request("feed", None), 60, client._asking)
    assert isinstance(reply, pb.RouteResponse)
    assert not reply.shard_map
    return reply.reason


def pushes_through_the_head(client: Client, why: str) -> None:
    through = counted(client)
    for number in range(3):
        assert client.push("feed", "user", [number, 1000 + number], np.full((2, DIM), 7, np.float32)).rows == 2
    assert client.push("feed", "blobs", [3], [b"three"]).rows == 1
    assert len(through) == 4
    assert client._straight == {}
    assert (client.lookup("feed", "user", [0, 1, 2, 1000, 1002]).rows == 7).all()
    assert list(client.lookup("feed", "blobs", [3]).rows) == [b"three"]
    assert why in client.status().straight_pushes


@pytest.mark.parametrize("mutual", [False, True])
def test_over_tls_pushes_go_through_a_head(tmp_path: Path, certificates: Certificates, mutual: bool) -> None:
    files = certificates.mutual if mutual else certificates.tls
    pair = certificates.client
    shown = (str(pair.cert), str(pair.key)) if mutual else ("", "")
    credentials = Credentials.given(str(certificates.ca), *shown, "")
    with (
        serving(tmp_path, config=HeadConfig(default_timeout_s=60, tls=files)) as cluster,
        cluster.client(credentials) as client,
    ):
        pushes_through_the_head(client, "shards take connections of members of the deployment only (--tls-cert)")
        assert "shards take connections of members of the deployment only" in reason(client)


def test_with_tokens_pushes_go_through_a_head_and_need_the_role(tmp_path: Path) -> None:
    writer, reader = "secret-of-the-trainer-0123", "secret-of-a-reader-0123456"
    file = tmp_path / "tokens.toml"
    file.touch(0o600)
    file.write_text(
        f'[[token]]\nname = "trainer"\ntoken = "{writer}"\nroles = ["write", "predict", "read"]\n'
        f'[[token]]\nname = "reader"\ntoken = "{reader}"\nroles = ["predict", "read"]\n'
    )
    config = HeadConfig(default_timeout_s=60, tokens=TokenSettings(file=str(file)))
    with (
        serving(tmp_path, config=config) as cluster,
        cluster.client(Credentials.given(token=writer)) as client,
        cluster.client(Credentials.given(token=reader)) as other,
    ):
        pushes_through_the_head(client, "callers have to show tokens, for which shards do not ask")
        assert "callers are asked who they are here, and not by shards" in reason(client)
        with pytest.raises(Forbidden, match="write"):
            other.push("feed", "user", [0], ROW)
        assert (other.lookup("feed", "user", [0]).rows == 7).all()
        assert reason(other)
