"""The extras of the package: what a command or a function says when a package is missing that an extra would install.

The base install is the client and the commands that speak to a deployment. `ringpull[server]` serves,
`ringpull[export]` prepares and exports models, `ringpull[import]` takes those of other makers, some of which need an
extra of their own; `ringpull[loadtest]` sends load.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from ringpull.ps.errors import RingpullError

Extra = Literal["server", "export", "import", "trees", "savedmodel", "loadtest"]


class MissingExtra(RingpullError, ImportError):
    """Raised when something needs a package that is not installed. The message names the extra that brings it."""


@contextmanager
def needing(extra: Extra, what: str) -> Iterator[None]:
    """Name `extra` where an import inside this context fails for want of a package.

    Args:
        what: Who needs it, to begin the message: `ringpull serve`.

    Raises:
        MissingExtra: A package, not a module of ringpull itself, cannot be found.
    """
    try:
        yield
    except ModuleNotFoundError as exc:
        if exc.name is None or exc.name.partition(".")[0] == "ringpull":
            raise
        raise MissingExtra(f"{what} needs {exc.name}: pip install 'ringpull[{extra}]'") from exc
