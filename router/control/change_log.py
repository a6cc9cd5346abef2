"""Log events of a change: it begins, enters a phase, ends."""

from __future__ import annotations

import logging
from typing import Final

from ringpull.router.control.operations import ChangeStatus

logger: Final = logging.getLogger(__name__)


def log_change(before: ChangeStatus, now: ChangeStatus) -> None:
    """Log what happened to a change between two statuses; nothing if its phase is the same."""
    if (before.id, before.phase) == (now.id, now.phase):
        return
    fields: dict[str, object] = {"change": now.id, "kind": now.kind.value, "subject": now.subject}
    if now.phase is not None:
        logger.info("change under way", extra={**fields, "phase": now.phase.value})
    elif now.error:
        logger.warning("change given up", extra={**fields, "error": now.error})
    elif now.id:
        logger.info("change done", extra=fields)
