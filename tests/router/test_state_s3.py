"""The coordinator's state in S3: what is made once there is made once, by If-None-Match."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ringpull.ps.errors import StartupError, Superseded
from ringpull.router.control.change import CoordinatorState
from ringpull.router.control.state_files import open_files, probe
from ringpull.router.control.state_store import Owner, StateStore
from tests.object_store import S3

pytestmark = [pytest.mark.net, pytest.mark.medium]

FOLDER = "s3://models/state/of/mine"


@pytest.fixture(scope="module")
def s3() -> Iterator[S3]:
    with S3() as server:
        yield server


def test_terms_generations_and_owners(s3: S3) -> None:
    files = open_files(FOLDER)
    probe(files, FOLDER)
    assert files.names() == []
    store = StateStore(files)
    first = store.take_over(Owner("mine"))
    for epoch in (1, 2, 3):
        assert first.save(CoordinatorState(epoch=epoch))
    second = store.claim(Owner("mine"))
    assert second.saved is not None
    assert second.saved.state == CoordinatorState(epoch=3)
    with pytest.raises(Superseded):
        first.save(CoordinatorState(epoch=4))
    second.beat()
    with pytest.raises(StartupError, match="which lives"):
        store.take_over(Owner("theirs"), wait=lambda _: second.beat())
    second.release()
    assert store.take_over(Owner("theirs")).term == 3


def test_a_file_is_made_once(s3: S3) -> None:
    files = open_files("s3://models/once")
    files.create("a", b"1")
    with pytest.raises(FileExistsError):
        files.create("a", b"2")
    assert files.read("a") == b"1"
    files.replace("a", b"3")
    assert files.read("a") == b"3"
    files.delete("a")
    files.delete("a")
    assert files.names() == []
