"""Kernels and their cache on disk, wherever it can be, and without it where it cannot."""

from __future__ import annotations

import logging
import os
import tempfile
from pathlib import Path
from typing import Any

import numba
import pytest
from numba.core.caching import CompileResultCacheImpl, UserProvidedCacheLocator, UserWideCacheLocator

from ringpull.ps import compiled
from ringpull.ps.compiled import kernel


def triple(number: int) -> int:
    return 3 * number


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The temporary folder; neither beside the module nor in the home can anything be written."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(numba.config, "CACHE_DIR", "")
    monkeypatch.setattr(CompileResultCacheImpl, "_locator_classes", [UserProvidedCacheLocator])
    monkeypatch.setattr(compiled, "_said", set())
    return tmp_path


def code_below(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.nbc"))


def made() -> Any:
    return kernel()(triple)


@pytest.mark.medium
def test_the_cache_is_in_the_users_own_folder(temporary: Path) -> None:
    assert made()(7) == 21
    assert len(code_below(temporary / f"ringpull-{os.geteuid()}" / "numba")) == 1
    assert numba.config.CACHE_DIR == "", "another's code of this process keeps numba's way"
    again = made()
    assert again(7) == 21
    assert sum(again.stats.cache_hits.values()) == 1


@pytest.mark.medium
def test_a_folder_that_the_user_names_is_obeyed(
    temporary: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    named = tmp_path_factory.mktemp("named")
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(named))
    assert made()(7) == 21
    assert len(code_below(named)) == 1
    assert list(temporary.iterdir()) == []


@pytest.mark.medium
@pytest.mark.parametrize("trouble", ["a link", "can be written by others", "set TMPDIR"])
def test_without_a_safe_place_it_is_compiled_all_the_same(
    temporary: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, trouble: str
) -> None:
    """The code that lies in a folder of somebody else is never loaded."""
    own = temporary / f"ringpull-{os.geteuid()}"
    if trouble == "a link":
        own.symlink_to(temporary)
    elif trouble == "can be written by others":
        own.mkdir()
        own.chmod(0o777)
    else:
        monkeypatch.setattr(tempfile, "tempdir", "/proc/no-such-folder")
    with caplog.at_level(logging.WARNING):
        assert [made()(7), made()(8)] == [21, 24]
    assert code_below(temporary) == []
    [said] = caplog.messages
    assert trouble in said
    assert "NUMBA_CACHE_DIR" in said


@pytest.mark.medium
@pytest.mark.parametrize("mode", [0o700, 0o777])
def test_the_cache_in_a_home_is_used_where_it_is_safe(
    temporary: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory, mode: int
) -> None:
    """With HOME=/tmp whoever comes first makes the folder, and code in it is loaded as it is."""
    home = tmp_path_factory.mktemp("home")
    cache = home / ".cache" / "numba"
    cache.mkdir(parents=True)
    cache.parent.chmod(mode)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    locators = [UserProvidedCacheLocator, UserWideCacheLocator]
    monkeypatch.setattr(CompileResultCacheImpl, "_locator_classes", locators)
    assert made()(7) == 21
    safe = mode == 0o700
    assert (len(code_below(home)), len(code_below(temporary))) == (safe, not safe)


@pytest.mark.medium
@pytest.mark.parametrize("trouble", ["gone", "torn", "a file"])
def test_a_cache_that_breaks_later_costs_no_answer(
    temporary: Path, caplog: pytest.LogCaptureFixture, trouble: str
) -> None:
    """As when a cleaner of old files took it, or the disk was full when it was written."""
    assert made()(7) == 21
    later = made()
    [index] = temporary.rglob("*.nbi")
    if trouble == "torn":
        index.write_bytes(index.read_bytes()[:5])
    else:
        for each in index.parent.iterdir():
            each.unlink()
        index.parent.rmdir()
        if trouble == "a file":
            index.parent.touch()
    with caplog.at_level(logging.WARNING):
        assert later(7) == 21
    assert len(caplog.messages) == (trouble != "gone")  # numba makes its folder anew
    again = made()
    assert again(7) == 21
    assert sum(again.stats.cache_hits.values()) == (trouble != "a file")


@pytest.mark.medium
def test_a_change_of_what_it_calls_has_a_kernel_compiled_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    assert made()(7) == 21
    monkeypatch.setattr(compiled, "digest_of", lambda module: f"another than that of {module}")
    for hits in (0, 1):
        again = made()
        assert again(7) == 21
        assert sum(again.stats.cache_hits.values()) == hits
