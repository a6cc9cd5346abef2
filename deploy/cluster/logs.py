"""Log of a deployment's processes: one line per event, as text for people or as JSON for machines.

An event is a message of fixed words with fields beside it, given to the standard library as
`logger.warning("predict failed", extra={"request_id": ...})`. So events can be counted and searched by name, and
libraries log without knowing the format. A field never begins a new line, whatever its value.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final

from ringpull.deploy.cluster.log_file import LogFile, StderrHandler
from ringpull.deploy.folders import as_folder_text
from ringpull.ps.errors import StartupError
from ringpull.ps.settings import Group, Option

_STANDARD_ATTRIBUTES: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}

_PLAIN: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.:/@%+-")

_VERBOSE_LIBRARIES: Final = ("uvicorn", "asyncio", "fsspec", "botocore", "grpc", "numba", "torch", "ray")
"""Libraries that would drown our events if they logged more than warnings."""


class LogLevel(StrEnum):
    """Lowest level of events that are logged."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class LogFormat(StrEnum):
    """Form of a line."""

    TEXT = "text"
    JSON = "json"


@dataclass(frozen=True, slots=True, kw_only=True)
class LogSettings:
    """Settings of logs: what every process of a deployment tells, and where."""

    level: Annotated[LogLevel, Option("Level from which every process logs.", Group.LOGS, "log-level")] = LogLevel.INFO
    format: Annotated[
        LogFormat, Option("Form of a log line: for people, or for machines.", Group.LOGS, "log-format")
    ] = LogFormat.TEXT
    folder: Annotated[
        str | None,
        Option(
            "Each process logs to a file in it. Default: to where Ray keeps its own.",
            Group.LOGS,
            "log-dir",
            "FOLDER",
            given_as=Path | None,
            parse=as_folder_text,
        ),
    ] = None
    """Folder in which each process writes `NAME-MEMBER.log`; None: standard error, which Ray keeps."""


def configure(settings: LogSettings, deployment: str, member: str, *, restarted: bool = False) -> None:
    """Configure the log of this process, in place of any earlier configuration.

    Args:
        deployment: Its name.
        member: `coordinator`, `head-0`, `shard-3`; on every line.
        restarted: Ray has restarted this process: a folder that cannot be written is waited for, as it is later on.

    Raises:
        StartupError: The folder cannot be written to; never on a restart.
    """
    handler: logging.Handler = StderrHandler()
    if settings.folder is not None:
        path = Path(settings.folder) / f"{deployment}-{member}.log"
        handler = LogFile(path)
        if not restarted:
            try:
                handler.open()
            except OSError as exc:
                raise StartupError(f"--log-dir: {path} cannot be written: {exc.strerror or exc}") from exc
    formatter = JsonLines if settings.format is LogFormat.JSON else TextLines
    handler.setFormatter(formatter({"deployment": deployment, "member": member, "pid": os.getpid()}))
    logging.basicConfig(level=settings.level.upper(), handlers=[handler], force=True)
    for name in _VERBOSE_LIBRARIES:
        logging.getLogger(name).setLevel(logging.WARNING)


@contextmanager
def silence() -> Iterator[None]:
    """Context in which this process logs nothing."""
    before = logging.root.manager.disable
    logging.disable()
    try:
        yield
    finally:
        logging.disable(before)


class JsonLines(logging.Formatter):
    """Formatter of one JSON object a line: time, level, event, logger, the process, and the event's fields."""

    def __init__(self, process: Mapping[str, Any]) -> None:
        super().__init__()
        self._process = dict(process)

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": _time_of(record),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            "logger": record.name,
            **self._process,
            **fields_of(record),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class TextLines(logging.Formatter):
    """`TIME LEVEL MEMBER EVENT key=value ...`; tracebacks below."""

    def __init__(self, process: Mapping[str, Any]) -> None:
        super().__init__()
        self._member = process["member"]

    def format(self, record: logging.LogRecord) -> str:
        event = " ".join(record.getMessage().splitlines())
        parts = [_time_of(record), record.levelname.lower(), self._member, event]
        parts += [f"{name}={_word(value)}" for name, value in fields_of(record).items()]
        line = " ".join(parts)
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def fields_of(record: logging.LogRecord) -> dict[str, Any]:
    """Return the fields of an event, without the private attributes that libraries such as Ray add to every record."""
    fields = vars(record).items()
    return {name: value for name, value in fields if name not in _STANDARD_ATTRIBUTES and not name.startswith("_")}


def _time_of(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _word(value: object) -> str:
    text = str(value)
    return text if text and _PLAIN.issuperset(text) else json.dumps(text)
