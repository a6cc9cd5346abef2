"""Block files: what was appended is there, byte for byte, however it is cut into pieces, blocks and failures."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ringpull.ps.live import block_file
from ringpull.ps.live.block_file import BLOCK_BYTES, BUFFER_BYTES, BlockFile, new_buffer

SIZES = (0, 1, 7, 8, BLOCK_BYTES - 8, BLOCK_BYTES, BLOCK_BYTES + 1, 3 * BLOCK_BYTES, BUFFER_BYTES, BUFFER_BYTES + 9)


@pytest.fixture(params=[True, False], ids=["direct", "cached"])
def opened(tmp_path: Path, request: pytest.FixtureRequest) -> Callable[[int], BlockFile]:
    """Function that opens the one file there is, whose content counts up to some byte."""
    (tmp_path / "file").touch()
    buffer = new_buffer()
    return lambda end: BlockFile(tmp_path / "file", end, buffer, direct=request.param)


def drawn_bytes(rng: np.random.Generator, size: int) -> bytes:
    return rng.integers(1, 256, size, np.uint8).tobytes()


def test_it_has_what_was_appended_over_many_sizes_and_reopenings(
    opened: Callable[[int], BlockFile], tmp_path: Path
) -> None:
    rng = np.random.default_rng(1)
    due, file = b"", opened(0)
    for turn in range(12):
        pieces = [drawn_bytes(rng, int(rng.choice(SIZES))) for _ in range(rng.integers(1, 4))]
        file.append([memoryview(piece) if turn % 2 else piece for piece in pieces])
        due += b"".join(pieces)
        assert file.end == len(due)
        content = (tmp_path / "file").read_bytes()
        assert content == due + bytes(-len(due) % BLOCK_BYTES)  # A crash now leaves this.
        if turn % 3 == 2:
            file.close()
            assert (tmp_path / "file").read_bytes() == due
            file = opened(len(due))
    file.sync()
    file.close()


def test_what_is_behind_the_end_that_it_is_opened_with_is_overwritten(
    opened: Callable[[int], BlockFile], tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(b"kept" + b"torn" * 3000)
    file = opened(4)
    file.append([b"new"])
    file.cut(file.end)
    assert (tmp_path / "file").read_bytes() == b"keptnew"
    file.close()


def test_it_goes_on_where_it_was_cut(opened: Callable[[int], BlockFile], tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    content = drawn_bytes(rng, 3 * BLOCK_BYTES)
    for end in (0, 5, BLOCK_BYTES, BLOCK_BYTES + 3, 3 * BLOCK_BYTES):
        file = opened(0)
        file.append([content])
        file.cut(end)
        file.append([b"more"])
        file.close()
        assert (tmp_path / "file").read_bytes() == content[:end] + b"more"


@pytest.mark.parametrize("before", [0, 10, BLOCK_BYTES, BLOCK_BYTES + 10])
@pytest.mark.parametrize("size", [100, BUFFER_BYTES + 100])
@pytest.mark.parametrize("done", [0, BLOCK_BYTES])
def test_a_write_that_fails_leaves_what_was_there_before(
    opened: Callable[[int], BlockFile],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    before: int,
    size: int,
    done: int,
) -> None:
    rng = np.random.default_rng(3)
    kept, lost, more = (drawn_bytes(rng, each) for each in (before, size, 50))
    file = opened(0)
    file.append([kept])
    real, calls = os.pwrite, 0

    def failing(descriptor: int, content: Any, offset: int) -> int:
        nonlocal calls
        calls += 1
        if calls == (1 if size < BUFFER_BYTES else 2):
            real(descriptor, content[:done], offset)
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, content, offset)

    with monkeypatch.context() as patch:
        patch.setattr(block_file.os, "pwrite", failing)
        with pytest.raises(OSError, match="No space left"):
            file.append([lost])
    assert file.end == before
    file.cut(file.end)
    file.append([more])
    file.close()
    assert (tmp_path / "file").read_bytes() == kept + more


def test_where_only_a_part_is_written_the_rest_follows(
    opened: Callable[[int], BlockFile], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.pwrite
    monkeypatch.setattr(block_file.os, "pwrite", lambda to, content, at: real(to, content[:BLOCK_BYTES], at))
    content = drawn_bytes(np.random.default_rng(4), 5 * BLOCK_BYTES + 1)
    file = opened(0)
    file.append([content])
    file.close()
    assert (tmp_path / "file").read_bytes() == content


@pytest.mark.parametrize("when", ["open", "preadv", "pwrite"])
def test_a_file_system_that_cannot_write_past_its_cache_writes_through_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """Some say so when a file is opened, some when it is first read or written."""
    if not block_file._DIRECT:
        pytest.skip("this system has no direct writes")
    path, real, refused = tmp_path / "file", getattr(os, when), 0
    path.write_bytes(b"content")

    def refusing(file: Any, *args: Any) -> object:
        nonlocal refused
        flags = args[0] if when == "open" else fcntl.fcntl(file, fcntl.F_GETFL)
        if flags & block_file._DIRECT:
            refused += 1
            raise OSError(errno.EINVAL, "Invalid argument")
        return real(file, *args)

    monkeypatch.setattr(block_file.os, when, refusing)
    file = BlockFile(path, 7, new_buffer())
    file.append([b" and more"])
    file.append([b", again"])
    file.close()
    assert refused == 1
    assert "direct" not in repr(file)
    assert path.read_bytes() == b"content and more, again"


def test_a_cut_whose_last_block_cannot_be_read_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.touch()
    file = BlockFile(path, 0, new_buffer())
    file.append([b"kept, and not"])

    def failing(*_: object) -> int:
        raise OSError(errno.EIO, "broken")

    with monkeypatch.context() as patch:
        patch.setattr(block_file.os, "preadv", failing)
        with pytest.raises(OSError, match="broken"):
            file.cut(4)
    file.cut(4)
    file.append([b" this"])
    file.close()
    assert path.read_bytes() == b"kept this"


def test_a_file_that_is_shorter_than_it_should_be_is_no_end_to_go_on_from(
    opened: Callable[[int], BlockFile], tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(b"short")
    with pytest.raises(OSError, match="ends before byte 100"):
        opened(100)
