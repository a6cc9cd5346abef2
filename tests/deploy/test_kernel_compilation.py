"""Kernels compiled by a process of its own, which can be waited for and ended."""

from __future__ import annotations

import tempfile
from pathlib import Path

import psutil
import pytest

from ringpull.deploy.cluster.kernel_compilation import KernelCompilation
from ringpull.ps.errors import StartupError


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@pytest.mark.medium
@pytest.mark.net
def test_it_compiles_and_leaves_nothing(temporary: Path) -> None:
    with KernelCompilation() as kernels:
        assert kernels.wait() == ""
        assert kernels.done
    assert list(temporary.iterdir()) == []


def test_leaving_early_ends_the_process(temporary: Path) -> None:
    """As an interrupt does; its folder goes with it."""
    others = psutil.Process().children()  # of other tests
    with KernelCompilation() as kernels:
        [child] = [each for each in psutil.Process().children() if each not in others]
        assert child.is_running()
        assert not kernels.done
    assert not child.is_running()
    assert list(temporary.iterdir()) == []


def test_a_failure_is_one_line(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = temporary / "broken"
    broken.mkdir()
    (broken / "numba.py").write_text("raise ImportError('numba is broken here')")
    monkeypatch.setenv("PYTHONPATH", str(broken))
    with pytest.raises(StartupError) as raised, KernelCompilation() as kernels:
        kernels.wait()
    assert str(raised.value) == "the kernels could not be compiled: ImportError: numba is broken here"
