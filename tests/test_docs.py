"""The READMEs tell the truth: commands and targets that they name exist, links lead somewhere, and examples run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from examples.movielens import generated
from examples.movielens.model import make_schema
from ringpull.inference.wire.request_json import call_from_json
from ringpull.router.control.verbs import Role
from tests.commands import COMMANDS

ROOT = Path(__file__).parent.parent
SKIPPED = {".venv", "build", "runs", "node_modules"}
PAGES = sorted(
    path.relative_to(ROOT)
    for path in ROOT.rglob("*.md")
    if not any(part in SKIPPED or part.startswith(".") for part in path.relative_to(ROOT).parts)
)
READMES = [page for page in PAGES if page.name == "README.md"]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\]\(([^)#\s]*)(?:#([^)]*))?\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
ROOMS = ("ps", "router", "inference", "deploy", "loadtest", "examples")
OLD_NAMES = "## What changed its name"
COMMIT = re.compile(r"(?<![\w-])(?=[a-f]*[0-9])(?=[0-9]*[a-f])[0-9a-f]{7,8}(?![\w-])")
GONE_COMMITS = re.compile(r"^.* are not in the history: (.*) were on a branch", re.MULTILINE)


def text_of(readme: Path) -> str:
    return (ROOT / readme).read_text(encoding="utf-8")


def fenced(readme: Path, language: str) -> list[str]:
    return [body for found, body in FENCE.findall(text_of(readme)) if found == language]


def code_of(readme: Path) -> Iterator[str]:
    """Every code span and every line of a shell block."""
    text = text_of(readme)
    for body in fenced(readme, "sh"):
        yield from (line.split("#")[0] for line in body.splitlines())
    yield from SPAN.findall(FENCE.sub("", text))


def everything_written() -> str:
    return "\n".join(text_of(readme) for readme in READMES)


def test_commands_named_exist() -> None:
    named = {
        (readme, verb)
        for readme in READMES
        for code in code_of(readme)
        for verb in re.findall(r"(?:^|[\s/])ringpull ([a-z][a-z-]*)", code)
    }
    known = {name.split()[0] for name in COMMANDS} | {"ready"}
    unknown = [f"{readme}: ringpull {verb}" for readme, verb in sorted(named) if verb not in known]
    assert not unknown, unknown


def test_make_targets_named_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {
        (readme, target)
        for readme in READMES
        for code in code_of(readme)
        for target in re.findall(r"(?:^|\s)make ([a-z][a-z-]*)", code)
    }
    assert {"demo", "test"} <= {target for _, target in named}
    unknown = [f"{readme}: make {target}" for readme, target in sorted(named) if target not in targets]
    assert not unknown, unknown


@pytest.mark.parametrize("verb", sorted(COMMANDS))
def test_every_command_and_option_is_documented(verb: str) -> None:
    written = everything_written()
    options = [name for parameter in COMMANDS[verb].params for name in parameter.opts if name.startswith("--")]
    unnamed = [
        name for name in (f"ringpull {verb}", *options) if not re.search(rf"{re.escape(name)}(?![\w-])", written)
    ]
    assert not unnamed, f"in no README: {unnamed}"


def test_every_environment_variable_is_documented() -> None:
    written = everything_written()
    sources = [path for folder in ROOMS for path in (ROOT / folder).rglob("*.py")]
    read = {name for path in sources for name in re.findall(r"\bRINGPULL_[A-Z_]+\b", path.read_text(encoding="utf-8"))}
    unnamed = sorted(name for name in read if name not in written)
    assert not unnamed, f"in no README: {unnamed}"


def test_what_security_says_is_there() -> None:
    """Its options are ringpull's, its roles are all there are, and it has no commands that nobody runs."""
    written = text_of(Path("SECURITY.md"))
    assert written.count("\n") <= 150
    assert "](SECURITY.md)" in text_of(Path("README.md"))
    assert not FENCE.search(written)
    known = {name for command in COMMANDS.values() for parameter in command.params for name in parameter.opts}
    named = {name for code in SPAN.findall(written) for name in re.findall(r"--[a-z][a-z-]+", code)}
    assert len(named) > 10
    assert named - known <= {"--version"}
    told = re.findall(r"^\| `(\w+)` \|", written, re.MULTILINE)
    assert told == [role.value for role in Role]


def anchors_of(page: Path) -> set[str]:
    """What GitHub makes of a page's headings."""
    words = (re.sub(r"[^\w\s-]", "", heading.lower()) for heading in HEADING.findall(FENCE.sub("", text_of(page))))
    return {word.strip().replace(" ", "-") for word in words}


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for target, anchor in LINK.findall(text_of(page)):
        if "://" in target:
            continue
        there = (ROOT / page.parent / target).resolve() if target else ROOT / page
        if not there.exists() or (anchor and anchor not in anchors_of(there.relative_to(ROOT))):
            broken.append(f"{target}#{anchor}")
    assert not broken, broken


def files_in_tables(readme: Path) -> Iterator[Path]:
    """Every `x.py` that the first column of a table names; `Inside FOLDER/` before a table says where its files are."""
    folder = readme.parent
    for line in text_of(readme).splitlines():
        if line.startswith("#"):
            folder = readme.parent
        elif inside := re.match(r"(?:And i|I)nside `([\w/]+)/`", line):
            folder = readme.parent / inside[1]
        elif line.startswith("| `"):
            yield from (folder / span for span in SPAN.findall(line.split("|")[1]) if span.endswith(".py"))


def test_files_that_tables_of_a_readme_name_exist() -> None:
    named = [(readme, path) for readme in READMES for path in files_in_tables(readme)]
    assert len(named) > 100
    missing = [f"{readme}: {path}" for readme, path in named if not (ROOT / path).is_file()]
    assert not missing, missing


def test_the_readme_is_short() -> None:
    assert text_of(Path("README.md")).count("\n") <= 150


@pytest.mark.medium
def test_the_model_of_the_readme_is_exported(tmp_path: Path) -> None:
    (program,) = [body for body in fenced(Path("README.md"), "python") if "export_model(" in body]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(
        [sys.executable, "-c", program, "1"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "models/ranker/1/manifest.json").is_file()


def test_the_request_by_hand_fits_the_demos_model() -> None:
    (line,) = [body for body in fenced(Path("inference/proto/README.md"), "sh") if "grpcurl" in body]
    call = call_from_json(line[line.index("'") + 1 : line.rindex("'")])
    schema = make_schema(generated.generate(users=1_000, active=50, items=100))
    request = schema.prepare_requests(call.features, call.context, [call.rows])
    assert call.rows == 2
    assert {filled.feature for filled in request.context.filled} == set(schema.stacks["numbers"])


def test_files_that_architecture_names_exist() -> None:
    """Files named above the tables of old names, whose left columns are gone."""
    current = text_of(Path("ARCHITECTURE.md")).split(OLD_NAMES)[0]
    named = re.findall(r"`((?:ps|router|inference|deploy|loadtest|ringpull|tests)/[\w/.-]*)`", current)
    assert len(named) > 50
    missing = [path for path in named if not (ROOT / path).exists()]
    assert not missing, missing


def test_old_files_that_architecture_names_are_gone() -> None:
    """Else the name means another file by now, and whoever follows it from an older note is led astray."""
    old = list(old_files(text_of(Path("ARCHITECTURE.md")).split(OLD_NAMES)[1]))
    assert len(old) > 30
    there = [pattern for pattern in old if any(ROOT.glob(pattern))]
    assert not there, there


def old_files(text: str) -> Iterator[str]:
    """Every file in the first column of the table of files, and those of a folder, as patterns; a bare name lies beside
    the one before it."""
    for row in text[text.index("| old file |") :].splitlines()[2:]:
        folder = ""
        for span in SPAN.findall(row.split("|")[1]):
            if " " not in span:
                parent, _, name = span.rstrip("/").rpartition("/")
                folder = parent or folder
                yield f"{folder}/{name}" if name.endswith(".py") else f"{folder}/{name}/*.py"


def test_commits_that_pages_cite_are_in_the_history() -> None:
    """Figures are of a commit; a branch that comes in as one commit takes its own with it, which FIGURES then names."""
    (gone,) = GONE_COMMITS.findall(text_of(Path("loadtest/FIGURES.md")))
    cited = {(page, commit) for page in PAGES for commit in COMMIT.findall(prose_of(page))}
    assert len(cited) > 30
    history = commits_of_history()
    lost = {(page, commit) for page, commit in cited if not any(each.startswith(commit) for each in history)}
    unknown = [f"{page}: {commit}" for page, commit in sorted(lost) if commit not in COMMIT.findall(gone)]
    assert not unknown, unknown
    assert {commit for _, commit in lost} == set(COMMIT.findall(gone))


def prose_of(page: Path) -> str:
    """Return a page without its blocks of code, whose drawings of bytes have words of hexadecimal digits, too."""
    return "\n".join(line for line in FENCE.sub("", text_of(page)).splitlines() if not line.startswith("    "))


def commits_of_history() -> list[str]:
    """Return the commits up to this one, by what is checked out; a clone that has not all of them skips the test."""
    if not (ROOT / ".git").exists():
        pytest.skip("no clone: there is no history")
    shallow = subprocess.run(
        ["git", "rev-parse", "--is-shallow-repository"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if shallow.stdout.strip() != "false":
        pytest.skip("a clone without its whole history")
    history = subprocess.run(["git", "rev-list", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True)
    return history.stdout.split()


def test_every_room_is_named_in_architecture() -> None:
    """In the table of rooms, where a folder that is named beside the one that it lies in is short; `tests/` mirrors."""
    text = text_of(Path("ARCHITECTURE.md"))
    rows = text.split("## What lies in which room")[1].split("\n## ")[0].splitlines()
    named = {room for row in rows if row.startswith("| `") for room in rooms_of(row)}
    there = {path.relative_to(ROOT).parent.as_posix() for top in ROOMS for path in (ROOT / top).rglob("*.py")}
    assert len(there) > 50
    assert not there - named, f"rooms that no row names: {sorted(there - named)}"


def rooms_of(row: str) -> Iterator[str]:
    _, rooms, within, _ = row.split("|")
    for span in SPAN.findall(rooms):
        yield (room := span.rstrip("/"))
        yield from (f"{room}/{inner.rstrip('/')}" for inner in SPAN.findall(within))
