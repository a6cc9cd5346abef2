"""Maps of files: what they hold, and where they begin, which decides whether their huge pages are mapped as such."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from ringpull.ps.store.mapping import HUGE_PAGE_BYTES, MADV_POPULATE_READ, advise, mapped_array

SIZES = [1, mmap.PAGESIZE + 1, HUGE_PAGE_BYTES - 1, HUGE_PAGE_BYTES, 3 * HUGE_PAGE_BYTES + mmap.PAGESIZE + 5]


@pytest.fixture(params=SIZES)
def content(request: pytest.FixtureRequest) -> bytes:
    return np.random.default_rng(0).bytes(request.param)


@pytest.fixture
def path(content: bytes, tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "file").write_bytes(content)
    yield tmp_path / "file"
    assert str(tmp_path) not in Path("/proc/self/maps").read_text(), "a map goes with the last array of it"


def test_an_array_is_the_file_and_begins_where_a_huge_page_can(path: Path, content: bytes) -> None:
    with path.open("rb") as file:
        arrays = [mapped_array(file.fileno(), len(content)) for _ in range(5)]
    for array in arrays:
        assert array.tobytes() == content
        assert not array.flags.writeable
        begin = array.__array_interface__["data"][0]
        assert begin % (HUGE_PAGE_BYTES if len(content) >= HUGE_PAGE_BYTES else mmap.PAGESIZE) == 0


def test_a_view_keeps_the_map(path: Path, content: bytes) -> None:
    with path.open("rb") as file:
        view = mapped_array(file.fileno(), len(content))[-1:]
    assert view.tobytes() == content[-1:]


def test_advice_is_for_the_bytes_of_the_array(path: Path, content: bytes) -> None:
    """Pages of the file and no others come into this process: reserved addresses are never read."""
    with path.open("rb") as file:
        array = mapped_array(file.fileno(), len(content))
    try:
        for begin in range(0, len(content), HUGE_PAGE_BYTES):
            advise(array, MADV_POPULATE_READ, begin, min(HUGE_PAGE_BYTES, len(content) - begin))
    except OSError:
        pytest.skip("this kernel knows no MADV_POPULATE_READ")
    pages = -(-len(content) // mmap.PAGESIZE)
    assert resident_bytes(path) == pages * mmap.PAGESIZE
    with pytest.raises(OSError, match="Invalid argument"):
        advise(array.reshape(1, -1), -1)


def resident_bytes(path: Path) -> int:
    """Return how much of the maps of a file is in this process."""
    name, found = "", 0
    for line in Path("/proc/self/smaps").read_text().splitlines():
        field, *values = line.split()
        if not field.endswith(":"):
            name = values[-1]
        elif field == "Rss:" and name == os.fspath(path):
            found += 1024 * int(values[0])
    return found
