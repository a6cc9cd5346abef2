"""Versions of other packages that an export needs, named before something of theirs is missing."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib import metadata
from typing import Final

from ringpull.ps.errors import ExportError

MIN_VERSIONS: Final[Mapping[str, tuple[int, int]]] = {"numpy": (1, 26), "torch": (2, 6)}
"""The oldest version of each package, as pyproject.toml asks for."""


def check_supported() -> None:
    """Check that no package is older than an export needs; one that is missing is another error's to name.

    Raises:
        ExportError: One is; the message names it, its version and the one needed.
    """
    for package, least in MIN_VERSIONS.items():
        try:
            found = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
        numbers = re.match(r"(\d+)\.(\d+)", found)
        if numbers is not None and (int(numbers[1]), int(numbers[2])) < least:
            needed = ".".join(map(str, least))
            raise ExportError(
                f"{package} {found} is too old for an export, which needs {package} {needed} or newer:"
                f" pip install '{package}>={needed}'"
            )
