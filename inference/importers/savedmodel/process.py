"""The process that has TensorFlow: started here, asked by lines of JSON, ended when the context is.

Its interpreter is this one, or one of an environment of its own: TensorFlow's pins may clash with a server's. There
it needs tensorflow-cpu, tf2onnx and numpy, and nothing of ringpull: what it runs is the package `converter` beside this
file.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ringpull.extras import MissingExtra
from ringpull.ps.errors import CorruptData, ExportError, InvalidInput, RingpullError

TIMEOUT_S: Final = 1_800.0
"""Seconds that one answer may take: a graph of thousands of ops takes minutes."""
BIG_BYTES: Final = 16 << 20
"""Bytes from which a variable stays outside the graph that TensorFlow and tf2onnx pass on."""
_ENDING_S: Final = 10.0
"""Seconds that a process may take to end after its last answer."""
_LOG_CHARS: Final = 600
"""Last words of a process that died, in a message."""
_PACKAGE: Final = "ringpull.inference.importers.savedmodel"
_START: Final = f"""
import os, runpy, sys, types
name, *rest = {_PACKAGE!r}.split(".")
for part in ("", *rest):
    name = f"{{name}}.{{part}}" if part else name
    module = types.ModuleType(name)
    module.__path__ = [os.path.join(sys.argv[1], *name.split(".")[1:])]
    sys.modules[name] = module
runpy.run_module({f"{_PACKAGE}.converter"!r}, run_name="__main__", alter_sys=True)
"""
"""What starts the package under its name without the others that it lies in, which need what is not there."""
_ERRORS: Final[dict[str, type[RingpullError]]] = {
    "invalid": InvalidInput,
    "corrupt": CorruptData,
    "refused": ExportError,
}


class Converter:
    """One process that has TensorFlow, as a context: it and its files are gone when that ends."""

    def __init__(
        self, python: str | Path | None = None, *, timeout_s: float = TIMEOUT_S, legacy_keras: bool = True
    ) -> None:
        """Prepare a process.

        Args:
            python: Interpreter that has TensorFlow; None: this one.
            timeout_s: Seconds that one answer may take.
            legacy_keras: Whether `TF_USE_LEGACY_KERAS` is set for it, as models of Keras 2 want.
        """
        given = str(python or sys.executable)
        # Of this folder, though it is started in another; a link stays one, by which an environment knows itself.
        self._python = os.path.abspath(given) if os.sep in given else given
        self._timeout_s = timeout_s
        self._legacy_keras = legacy_keras
        self._process: subprocess.Popen[bytes] | None = None
        self._files: tempfile.TemporaryDirectory[str] | None = None
        self._answers = b""
        self._asked = 0

    @property
    def folder(self) -> Path:
        """The folder of what it writes; it goes with the context."""
        assert self._files is not None, "the context has not begun"
        return Path(self._files.name)

    def __enter__(self) -> Converter:
        import ringpull

        self._files = tempfile.TemporaryDirectory(prefix="ringpull-savedmodel-")
        own = {"TF_CPP_MIN_LOG_LEVEL": "2", "CUDA_VISIBLE_DEVICES": "-1", "PYTHONNOUSERSITE": "1"}
        if self._legacy_keras:
            own["TF_USE_LEGACY_KERAS"] = "1"
        root = str(Path(ringpull.__file__).parent)
        try:
            with (self.folder / "log").open("wb") as log:
                self._process = subprocess.Popen(
                    [self._python, "-c", _START, root],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    env=os.environ | own,
                    cwd=self.folder,
                    start_new_session=True,
                )
        except OSError as exc:
            self._files.cleanup()
            raise InvalidInput(f"--python {self._python}: cannot be started: {exc.strerror or exc}") from exc
        with suppress(OSError):  # where memory ends, it is the one to go: not who asks it, nor what serves here
            Path(f"/proc/{self._process.pid}/oom_score_adj").write_text("1000", encoding="ascii")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        process, files = self._process, self._files
        assert process is not None
        assert files is not None
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            assert stream is not None
            with suppress(OSError):  # what was not sent yet
                stream.close()
        files.cleanup()

    def convert(
        self,
        folder: Path,
        *,
        tags: Sequence[str] | None = None,
        signatures: Sequence[str] | None = None,
        texts: Mapping[str, Sequence[Any]] | None = None,
        big_bytes: int = BIG_BYTES,
    ) -> dict[str, Any]:
        """Have a SavedModel turned into `self.folder / "model.onnx"`; return what is known of it.

        Raises:
            InvalidInput: It is no SavedModel, or has no such signature.
            CorruptData: It is damaged.
            ExportError: It has what cannot be turned into ONNX, or the process died.
        """
        return self._ask(
            {
                "do": "convert",
                "folder": str(folder.absolute()),
                "out": str(self.folder),
                "tags": list(tags) if tags else None,
                "signatures": list(signatures) if signatures else None,
                "texts": {name: list(values) for name, values in (texts or {}).items()},
                "big_bytes": big_bytes,
            }
        )

    def score(self, rows: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """Return what TensorFlow itself answers for rows: its outputs, in the order of the conversion.

        Args:
            rows: Inputs by name, of the shapes that the SavedModel takes; those with known values as codes.

        Raises:
            ExportError: TensorFlow fails on them, or the process died.
        """
        given, found = self.folder / "rows.npz", self.folder / "scores.npz"
        np.savez(given, **rows)  # type: ignore[arg-type]
        self._ask({"do": "score", "rows": str(given), "scores": str(found)})
        with np.load(found, allow_pickle=False) as scores:
            return [scores[f"output_{place}"] for place in range(len(scores.files))]

    def _ask(self, job: Mapping[str, Any]) -> dict[str, Any]:
        process = self._process
        assert process is not None
        assert process.stdin is not None
        try:
            process.stdin.write(json.dumps(job).encode() + b"\n")
            process.stdin.flush()
            line = self._answer()
        except BrokenPipeError:
            line = b""
        if not line:
            raise self._died()
        answered = json.loads(line)
        if "answer" in answered:
            found: dict[str, Any] = answered["answer"]
            return found
        if "missing" in answered:
            raise self._missing(answered["missing"])
        raise _ERRORS.get(answered["refused"], ExportError)(answered["message"])

    def _answer(self) -> bytes:
        """Return the next line that it answers; empty: it ended."""
        process = self._process
        assert process is not None
        assert process.stdout is not None
        end = time.monotonic() + self._timeout_s
        with selectors.DefaultSelector() as waiting:
            waiting.register(process.stdout, selectors.EVENT_READ)
            while b"\n" not in self._answers:
                if not waiting.select(max(0.0, end - time.monotonic())):
                    process.kill()
                    raise ExportError(
                        f"TensorFlow took longer than {self._timeout_s:g} s for one answer, and was stopped;"
                        " --timeout-s allows more"
                    )
                read = os.read(process.stdout.fileno(), 1 << 16)
                if not read:
                    return b""
                self._answers += read
        line, _, self._answers = self._answers.partition(b"\n")
        return line

    def _missing(self, package: str) -> MissingExtra:
        return MissingExtra(
            f"importing a SavedModel needs {package} in {self._python}: pip install 'ringpull[savedmodel]', or name the"
            " interpreter of an environment that has tensorflow-cpu, tf-keras and tf2onnx: --python PATH"
        )

    def _died(self) -> RingpullError:
        """Return the error of a process that ended without an answer."""
        process = self._process
        assert process is not None
        try:
            code = process.wait(_ENDING_S)
        except subprocess.TimeoutExpired:  # it answers no more, and lives
            process.kill()
            code = process.wait()
        log = (self.folder / "log").read_text(encoding="utf-8", errors="replace").strip()
        if "ModuleNotFoundError" in log:
            return self._missing(log.rsplit("No module named ", 1)[-1].splitlines()[0].strip("'\""))
        if code == -signal.SIGKILL:
            return ExportError(
                "the process that runs TensorFlow was killed, most likely for want of memory: TensorFlow holds all"
                " variables of a model in memory"
            )
        ended = f"by signal {signal.Signals(-code).name}" if code < 0 else f"with code {code}"
        return ExportError(f"the process that runs TensorFlow ended {ended}; its last words:\n{log[-_LOG_CHARS:]}")
