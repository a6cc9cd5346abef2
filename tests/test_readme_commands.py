"""Every command of every README works: those that need only this machine are run, in order, on what the READMEs made.

A newcomer's tour: each `sh` block from the top of the repository, command after command; a `python` block whose first
line is `# NAME.py` is a file of that name, and one that makes a `Client` is run. `SHORTENED` says what takes less time
here than it says there. What needs more than this machine is in `NOT_HERE`, with the reason; its options are parsed.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from ringpull.deploy import served
from tests.commands import COMMANDS

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
BLOCK_OR_HEADING = re.compile(
    r"^```(?P<kind>\w*)\n(?P<body>.*?)^```$|^#+ (?P<heading>[^\n]*)$", re.MULTILINE | re.DOTALL
)
FILE = re.compile(r"# (\w+\.py)\n")
READMES = (
    "README.md",
    "inference/COMING_FROM.md",
    "deploy/README.md",
    "loadtest/README.md",
    "inference/export/README.md",
    "inference/client/README.md",
    "inference/proto/README.md",
    "inference/README.md",
    "router/README.md",
    "ps/README.md",
)
"""In the order of the tour; one uses what those before it made."""
MAX_S = 240

NOT_HERE = (
    (r"^make test\b", "it runs these tests"),
    (r"^grpcurl\b", "grpcurl is no Python package; tests/test_docs.py holds the request against the model"),
    (r"^(ray|aws) ", "it needs a cluster of machines, or a bucket"),
    (r"^\$EDITOR ", "it asks a person"),
    (r"HEAD:8500|RAY_HEAD|HOST\b", "it needs other machines"),
    (r"^python3\.11 -m venv ~", "it installs into the home folder of another machine"),
    (r"/etc/ringpull/", "it needs certificates; tests/cluster/test_secured.py serves with some"),
    (r"s3://", "it needs a bucket; tests/cluster/test_s3.py serves from one"),
    (r"^ringpull publish ranker$", "it needs the version that the command before it would have uploaded"),
    (r"^make bench$", "it takes 20 minutes; the next line is the short one"),
    (r"^make bench QUICK=1", "it takes minutes; tests/loadtest/test_bench.py runs every bench small"),
)
"""Commands that are not run, and why."""

SHORTENED = (
    (r"\bSECONDS=\d+", "SECONDS=5"),
    (r"(^make loadtest (?!.*SECONDS).*)", r"\1 SECONDS=5"),
    (r"(^ringpull serve .*)", r"\1 --grpc-port 0 --http-port 0"),  # the usual ports may be somebody else's
    (r"(^ringpull loadtest .*--seconds) \d+", r"\1 2"),
    # Some rate keeps this bound, however busy the machine is.
    (r"(^ringpull loadtest --find-max.*--p99-ms) \d+", r"\1 500 --seconds 0.5"),
    (r"^curl ", "curl -fsS "),  # else it works whatever it is answered
    (r"(^locust (?!.*--headless).*)", r"\1 --headless -u 2 -t 3s"),
    (r"(^locust .*) -t \d+m", r"\1 -t 3s"),
    (r"(^locust .*) -u 32", r"\1 -u 2"),
    (r"(python -m ringpull\.loadtest\.chaos .*--seconds) \d+", r"\1 5"),
)
"""What is run in another way than it is written."""

SLOW = ("loadtest/README.md",)
"""READMEs whose commands take minutes, shortened too: clusters of their own, benches, faults."""

CLIENTS = ("README.md", "inference/COMING_FROM.md")
"""READMEs whose clients are run, on what is served by then."""

SERVED = {"loadtest/README.md": "ringpull serve models/ranker --shards 2 --detach"}
"""What a README takes as served already: the model of the first one."""


class Block(NamedTuple):
    """A fenced block of a README: the heading it stands under, what it is (`sh` or `python`), its text."""

    heading: str
    kind: str
    body: str


def blocks(readme: str) -> list[Block]:
    found = []
    heading = ""
    for match in BLOCK_OR_HEADING.finditer((ROOT / readme).read_text(encoding="utf-8")):
        if match["heading"]:
            heading = match["heading"]
        else:
            found.append(Block(heading, match["kind"], match["body"]))
    return found


def commands_of(block: str) -> Iterator[str]:
    """The commands of a shell block, each whole: over several lines, and without its comment."""
    command = ""
    for line in block.splitlines():
        command += line
        if line.endswith("\\"):
            command = command[:-1]
            continue
        try:
            words = shlex.split(command, comments=True)
        except ValueError:  # a quotation goes on
            command += "\n"
            continue
        if words:
            yield re.sub(r"\s+#\s.*$", "", command) if "\n" not in command else command
        command = ""


def why_not(command: str) -> str:
    """Why a command is not run here; empty for those that are."""
    plain = command.removeprefix(".venv/bin/")
    return next((reason for pattern, reason in NOT_HERE if re.search(pattern, plain)), "")


def shortened(command: str) -> str:
    command = command.removeprefix(".venv/bin/")
    for pattern, instead in SHORTENED:
        command = re.sub(pattern, instead, command)
    return command


def is_run(readme: str, block: Block) -> bool:
    """Say whether a block is run here, or is a file that a later one needs."""
    if block.kind == "sh":
        return any(not why_not(command) for command in commands_of(block.body))
    return block.kind == "python" and (
        FILE.match(block.body) is not None or (readme in CLIENTS and "with Client(" in block.body)
    )


STEPS = [
    pytest.param(readme, block, id=f"{readme}: {block.heading}, {number}", marks=[pytest.mark.slow] * (readme in SLOW))
    for readme in READMES
    for number, block in enumerate(blocks(readme), 1)
    if is_run(readme, block)
]
"""One test a block: what fails or hangs is named by where it stands."""

ALL = [
    (readme, command)
    for readme in READMES
    for block in blocks(readme)
    if block.kind == "sh"
    for command in commands_of(block.body)
]


@pytest.mark.parametrize("command", sorted({command for _, command in ALL if "ringpull " in command}))
def test_options_are_those_of_the_command(command: str) -> None:
    """Also of what runs elsewhere, and of what stands in quotation marks within another command."""
    plain = command.removeprefix(".venv/bin/")
    for line in [plain] if plain.startswith("ringpull ") else re.findall(r"\"(ringpull [^\"]*)\"", plain):
        _, name, *arguments = shlex.split(line, comments=True)
        COMMANDS[name].make_context(name, arguments)


def test_what_is_not_run_has_its_reason_and_the_rest_is_run() -> None:
    unused = [
        pattern
        for pattern, _ in NOT_HERE
        if not any(re.search(pattern, each.removeprefix(".venv/bin/")) for _, each in ALL)
    ]
    assert not unused, f"in no README: {unused}"
    run = [command for _, command in ALL if not why_not(command)]
    assert len(run) >= 15


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder that looks like the repository, whose environment is this one; what commands write stays in it."""
    folder = tmp_path_factory.mktemp("tour")
    for path in ROOT.iterdir():
        if path.name not in (".venv", ".git", "runs", "models", "build", "dist", "ringpull"):
            (folder / path.name).symlink_to(path)
    (folder / ".venv").mkdir()
    for path in BIN.parent.iterdir():
        (folder / ".venv" / path.name).symlink_to(path)
    for stamp in (".installed", ".installed-dev", ".installed-loadtest"):
        installed = folder / ".venv" / stamp
        installed.unlink(missing_ok=True)
        installed.touch()
    state = os.environ.get("RINGPULL_STATE_DIR")
    os.environ["RINGPULL_STATE_DIR"] = str(folder / "state")
    try:
        yield folder
    finally:
        for record in served.records():
            run(f"ringpull stop --target {record.target}", folder)
        del os.environ["RINGPULL_STATE_DIR"]
        if state is not None:
            os.environ["RINGPULL_STATE_DIR"] = state


def run(command: str, folder: Path) -> None:
    records = sorted(served.records(), key=lambda record: record.started_s)
    if records:
        command = command.replace("127.0.0.1:8500", records[-1].target).replace("127.0.0.1:8501", records[-1].http)
    environment = {**os.environ, "PATH": f"{folder / '.venv/bin'}{os.pathsep}{os.environ['PATH']}", "COLUMNS": "100"}
    ran = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=MAX_S,
        check=False,
    )
    print(f"$ {command}\n{ran.stdout}")
    assert ran.returncode == 0, f"{command}\n{ran.stdout}"


@pytest.mark.readme
@pytest.mark.ray
@pytest.mark.parametrize(("readme", "block"), STEPS)
def test_commands_work_as_they_are_written(readme: str, block: Block, checkout: Path) -> None:
    if readme in SERVED and block == next(each for each in blocks(readme) if is_run(readme, each)):
        run(shortened(SERVED[readme]), checkout)
    if block.kind == "sh":
        for command in commands_of(block.body):
            if not why_not(command):
                run(shortened(command), checkout)
    elif name := FILE.match(block.body):
        (checkout / name[1]).write_text(block.body)
    else:
        run(f"python -c {shlex.quote(block.body)}", checkout)
