"""Log lines about a change: when it begins, enters a phase, and ends."""

from __future__ import annotations

import logging
from typing import Final

from ringpull.router.control.operations import ChangeStatus

logger: Final = logging.getLogger(__name__)


def log_change(before: ChangeStatus, now: ChangeStatus) -> None:
    """Tell how a change went on between two looks at it; nothing if it is where it was."""
    if (before.id, before.phase) == (now.id, now.phase):
        return
    fields: dict[str, object] = {"change": now.id, "kind": now.kind.value, "subject": now.subject}
    if now.phase is not None:
        logger.info("change under way", extra={**fields, "phase": now.phase.value})
    elif now.error:
        logger.warning("change given up", extra={**fields, "error": now.error})
    elif now.id:
        logger.info("change done", extra=fields)
