"""The digest of a kernel's sources changes with each module that is compiled into it, and with no other."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

from ringpull.ps import kernel_sources
from ringpull.ps.kernel_sources import digest_of

SOURCES = {
    "ringpull.one": "from ringpull.two import number\nimport numba\n",
    "ringpull.two": "from ringpull import three\nfrom ringpull.one import something\n",
    "ringpull.three": "number = 3\n",
    "ringpull.four": "from ringpull.one import something\n",
}


@pytest.mark.parametrize("changed", [*SOURCES, "nothing"])
def test_it_covers_what_is_imported_however_far(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: str) -> None:
    for name, source in SOURCES.items():
        module = ModuleType(name)
        module.__file__ = str(tmp_path / f"{name}.py")
        monkeypatch.setitem(sys.modules, name, module)
        (tmp_path / f"{name}.py").write_text(source, encoding="utf-8")
    before = digest_of("ringpull.one")
    if changed in SOURCES:
        (tmp_path / f"{changed}.py").write_text(SOURCES[changed] + "other = 4\n", encoding="utf-8")
    kernel_sources._read.cache_clear()
    assert (digest_of("ringpull.one") == before) == (changed in ("ringpull.four", "nothing"))


def test_the_kernels_of_pulls_cover_what_they_are_made_from() -> None:
    read = kernel_sources._read
    read.cache_clear()
    digest_of("ringpull.ps.store.kernels")
    assert read.cache_info().currsize > 8
    assert digest_of("no such module") == digest_of("nor this one")
