"""Silence of torch while it traces: what it logs and prints of a failure beside the error that it raises.

The error says it all, and ours says it in the user's words. What a user asks for by `TORCH_LOGS` still comes.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from threading import RLock, get_ident
from typing import Any

import torch.export._trace as tracer

_ONE_AT_A_TIME = RLock()
"""Held while torch is patched."""


@contextmanager
def silent_tracer() -> Iterator[None]:
    """Leave out the warnings and errors that torch logs, and the graph that it prints when a trace fails."""
    own = get_ident()

    def kept(record: logging.LogRecord) -> bool:
        return record.thread != own or not logging.WARNING <= record.levelno <= logging.ERROR

    def printed(*args: Any, **kwargs: Any) -> None:
        if get_ident() != own:
            print(*args, **kwargs)

    with _ONE_AT_A_TIME:
        loggers = [each for name, each in logging.root.manager.loggerDict.items() if f"{name}.".startswith("torch.")]
        handlers = {handler for each in loggers if isinstance(each, logging.Logger) for handler in each.handlers}
        before = vars(tracer).get("print")
        vars(tracer)["print"] = printed  # hides the builtin from that one module
        for handler in handlers:
            handler.addFilter(kept)
        try:
            yield
        finally:
            for handler in handlers:
                handler.removeFilter(kept)
            if before is None:
                del vars(tracer)["print"]
            else:
                vars(tracer)["print"] = before
