"""The walls between the packages, held by reading every import: who may import whom, and who may touch Ray or torch.

And the size of files and functions, and that what a file defines is used.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

MAY_IMPORT = {
    "ps": set(),
    "router": {"ps"},
    "inference": {"ps", "router"},
    "deploy": {"ps", "router", "inference", "loadtest"},
    "loadtest": {"inference"},
    "loadtest/bench": {"ps", "router", "inference", "deploy"},
    "loadtest/chaos": {"ps", "router", "inference", "deploy"},
    "ringpull": {"ps", "inference", "deploy"},
    "examples": {"inference"},
    "tests": {"ps", "router", "inference", "deploy", "loadtest", "examples"},
}
"""Folder -> sub-packages of `ringpull` that its files may import, besides their own and the public names of `ringpull`.

A file's longest such folder decides.
"""

LEAVES = {
    "ps/store": {"ps/live", "ps/local", "ps/transfer", "ps/wire"},
    "ps/wire": {"ps/live", "ps/local", "ps/transfer"},
    "ps/text": {"ps", "router", "inference", "deploy"},
    "inference/degrade": {"inference/head", "inference/model", "inference/export", "inference/importers"},
}
"""Folder -> folders that no file in it imports, as these import it."""

ONLY_IN = {
    "ray": ("deploy/", "loadtest/bench/baselines/", "tests/cluster/"),
    "torch": (
        "inference/model/torch_packing.py",
        "inference/model/torch_program.py",
        "inference/model/cheaper_operators.py",
        "inference/model/torch_script.py",
        "inference/model/bfloat16.py",
        "inference/model/pickles.py",
        "inference/export/",
        "inference/importers/",
        "examples/",
        "loadtest/dlrm.py",
        "loadtest/bench/",
        "loadtest/chaos/",
        "tests/",
    ),
    "onnxruntime": ("inference/model/", "inference/importers/", "examples/", "loadtest/bench/", "tests/"),
    "numba": (
        "ps/compiled.py",
        "ps/hash_kernels.py",
        "ps/store/kernels.py",
        "ps/store/steps.py",
        "ps/store/intrinsics.py",
        "ps/store/reducers.py",
        "ps/store/dots.py",
        "ps/store/top_k_kernels.py",
        "ps/store/newer/probe.py",
        "ps/store/newer/kernels.py",
        "ps/store/changed_kernels.py",
        "router/partition.py",
        "inference/schema/fingerprint_kernels.py",
        "router/merge.py",
        "router/top_k_merge.py",
        "inference/head/request/kernels.py",
        "inference/model/input_kernels.py",
        "inference/importers/tables/text_kernels.py",
        "tests/ps/test_compiled.py",
    ),
    "llvmlite": ("ps/store/intrinsics.py", "ps/store/readers.py", "ps/store/dots.py"),
    "mmh3": ("ps/hashing.py", "tests/ps/"),
    "onnx": ("inference/importers/", "examples/", "loadtest/bench/", "tests/"),
    "rich": ("deploy/", "inference/export/", "inference/importers/", "loadtest/", "examples/", "tests/"),
    "typer": ("deploy/", "loadtest/", "tests/"),
}
"""Package of others -> the files and folders that may import it."""

MAX_LINES = 500
MAX_FUNCTION_LINES = 70
"""From `def` to its last line, docstring included; what is defined within counts."""
EMPTY_WORDS = {"utils", "util", "common", "helpers", "misc", "stuff"}

FOUND_BY_NAME = {"MODELS", "Predict", "Traffic", "TritonPythonModel", "add_to_server", "open_table"}
"""Names that no file uses: locust, Triton and Ray Serve look for theirs, and readers and libraries of the zoo are
modules that are chosen at run time."""
NAMED_IN_TEXT = re.compile(r"([\w.]+)(?: import |:)(\w+)")
"""Module and name in a string: `module:function` of a command, or a program that another process runs."""

FUNCTION = ast.FunctionDef | ast.AsyncFunctionDef
SUB_PACKAGES = {"ps", "router", "inference", "deploy", "loadtest"}
TOP_LEVEL = sorted({folder.split("/")[0] for folder in MAY_IMPORT})
SOURCES = sorted(
    path.relative_to(ROOT)
    for folder in TOP_LEVEL
    for path in (ROOT / folder).rglob("*.py")
    if not path.stem.endswith("_pb2")  # generated
)


@cache
def parse(path: Path) -> ast.Module:
    return ast.parse((ROOT / path).read_text(encoding="utf-8"))


@cache
def imports() -> tuple[tuple[Path, int, str], ...]:
    """Every (file, line, module) imported anywhere in our code; a relative import starts with a dot."""
    return tuple((path, *found) for path in SOURCES for found in imports_of(parse(path)))


def imports_of(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield the line and the module of every import; of `from ringpull import ps` that is `ringpull.ps`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            packages = (
                [alias.name for alias in node.names if alias.name in SUB_PACKAGES] if module == "ringpull" else []
            )
            yield from ((node.lineno, f"{module}.{package}") for package in packages)
            if len(packages) < len(node.names):
                yield node.lineno, module


def test_every_way_to_import_is_seen() -> None:
    def modules(line: str) -> list[str]:
        return [module for _, module in imports_of(ast.parse(line))]

    assert modules("import ray, ringpull.ps.ring as ring") == ["ray", "ringpull.ps.ring"]
    assert modules("from ringpull.ps import ring") == ["ringpull.ps"]
    assert modules("from ringpull import Client") == ["ringpull"]
    assert modules("from ringpull import Client, deploy, ps") == ["ringpull.deploy", "ringpull.ps", "ringpull"]
    assert modules("from . import ring") == ["."]
    assert modules("def f():\n    from .store import base") == [".store"]


def test_packages_import_only_downwards() -> None:
    wrong = []
    for path, line, module in imports():
        folder = max((known for known in MAY_IMPORT if path.is_relative_to(known)), key=len)
        top, _, rest = module.partition(".")
        package = rest.split(".")[0] if top == "ringpull" else top
        if package in TOP_LEVEL and package not in MAY_IMPORT[folder] | {path.parts[0]}:
            wrong.append(f"{path}:{line}: {folder} may not import {module}")
    assert not wrong, "\n".join(wrong)


def test_folders_of_a_package_import_one_way() -> None:
    wrong = [
        f"{path}:{line}: {folder} may not import {module}"
        for path, line, module in imports()
        for folder, above in LEAVES.items()
        if path.is_relative_to(folder)
        and any(f"{module}.".startswith(f"ringpull.{each.replace('/', '.')}.") for each in above)
    ]
    assert not wrong, "\n".join(wrong)


def test_a_sub_package_is_imported_under_its_long_name() -> None:
    """`ps.errors` and `ringpull.ps.errors` would be two modules, and an error of one is not caught as the other's."""
    wrong = [
        f"{path}:{line}: write ringpull.{module}"
        for path, line, module in imports()
        if module.split(".")[0] in SUB_PACKAGES
    ]
    assert not wrong, "\n".join(wrong)


def test_a_sub_package_is_a_link_to_its_folder() -> None:
    assert {path.name: path.readlink() for path in (ROOT / "ringpull").iterdir() if path.is_symlink()} == {
        package: Path("..") / package for package in SUB_PACKAGES
    }


def test_what_is_packaged_imports_nothing_that_is_not() -> None:
    """Benches and chaos are run from a checkout; a wheel is without them."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    left_out = project["tool"]["setuptools"]["packages"]["find"]["exclude"]

    def packaged(module: str) -> bool:
        return not any(fnmatchcase(module, pattern) for pattern in left_out)

    ours = {
        path: ".".join(("ringpull", *path.with_suffix("").parts)) for path in SOURCES if path.parts[0] in SUB_PACKAGES
    }
    assert not all(map(packaged, ours.values()))
    wrong = [
        f"{path}:{line}: {module} is in no wheel"
        for path, line, module in imports()
        if path in ours and packaged(ours[path]) and not packaged(module)
    ]
    assert not wrong, "\n".join(wrong)


def test_imports_are_written_in_full() -> None:
    wrong = [f"{path}:{line}: {module}" for path, line, module in imports() if module.startswith(".")]
    assert not wrong, "\n".join(wrong)


def test_foreign_packages_stay_where_they_belong() -> None:
    wrong = []
    for path, line, module in imports():
        places = ONLY_IN.get(module.split(".")[0])
        if places is not None and not path.as_posix().startswith(places):
            wrong.append(f"{path}:{line}: {module} belongs in {', '.join(places)}")
    assert not wrong, "\n".join(wrong)


def test_files_are_short_and_named_after_something() -> None:
    wrong = [f"{path} says nothing about its content" for path in SOURCES if path.stem in EMPTY_WORDS]
    for path in SOURCES:
        lines = (ROOT / path).read_text(encoding="utf-8").count("\n")
        if lines > MAX_LINES:
            wrong.append(f"{path} has {lines} lines, over {MAX_LINES}: more than one concept")
    assert not wrong, "\n".join(wrong)


def test_functions_are_short() -> None:
    functions = ((path, node) for path in SOURCES for node in ast.walk(parse(path)) if isinstance(node, FUNCTION))
    wrong = [
        f"{path}:{node.lineno}: {node.name} has {lines} lines, over {MAX_FUNCTION_LINES}"
        for path, node in functions
        if (lines := (node.end_lineno or 0) - node.lineno + 1) > MAX_FUNCTION_LINES
    ]
    assert not wrong, "\n".join(wrong)


def test_modules_say_what_they_are() -> None:
    trees = {path: parse(path) for path in SOURCES}
    wrong = [str(path) for path, tree in trees.items() if tree.body and not ast.get_docstring(tree)]
    assert not wrong, f"without a module docstring: {wrong}"


@pytest.mark.medium
def test_whatever_a_file_defines_is_used() -> None:
    """What is at the top of a file: functions, classes, constants, aliases. By it, or by one that imports it."""
    modules = {module_of(path) for path in SOURCES}
    used = {use for path in SOURCES for use in uses_of(path, modules)}
    unused = [
        f"{path}:{line}: {name}"
        for path in SOURCES
        for line, name in defined_in(parse(path))
        if (module_of(path), name) not in used
        and name not in FOUND_BY_NAME
        # A command has the name of its file, by which the command line finds it.
        and not (path.is_relative_to("deploy/commands") and name == path.stem)
    ]
    assert not unused, "\n".join(unused)


def module_of(path: Path) -> str:
    parts = path.with_suffix("").parts[: -1 if path.stem == "__init__" else None]
    return ".".join(("ringpull", *parts) if parts[0] in SUB_PACKAGES else parts)


def defined_in(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield line and name of what a file defines, but what pytest finds and functions that a decorator hands on."""
    for node in tree.body:
        names: list[str] = []
        if isinstance(node, ast.ClassDef) or (isinstance(node, FUNCTION) and not node.decorator_list):
            names = [node.name]
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = [target.id for target in targets if isinstance(target, ast.Name)]
        yield from ((node.lineno, name) for name in names if not name.startswith(("test_", "Test", "pytest", "__")))


def uses_of(path: Path, modules: set[str]) -> Iterator[tuple[str, str]]:
    """Yield module and name of what a file uses of itself, and of what it imports or its strings name."""
    attributes: set[str] = set()
    imported: set[str] = set()
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            yield module_of(path), node.id
        elif isinstance(node, ast.Attribute):
            attributes.add(node.attr)
        elif isinstance(node, ast.Import):
            imported.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.module or "", alias.name) for alias in node.names)
            imported.update(f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from NAMED_IN_TEXT.findall(node.value)
    yield from ((module, attribute) for module in imported & modules for attribute in attributes)


def test_nothing_at_the_top_of_a_package_has_a_name_of_the_standard_library() -> None:
    """Ray puts the folder of the program that started it, `deploy/` here, on the path of its workers."""
    hiding = [str(path) for path in SOURCES if len(path.parts) == 2 and path.stem in sys.stdlib_module_names]
    assert not hiding, f"would be imported instead of the standard library's: {hiding}"


def test_every_folder_of_tests_is_a_package() -> None:
    folders = {path.parent for path in SOURCES if path.parts[0] == "tests"}
    bare = [str(folder) for folder in folders if not (ROOT / folder / "__init__.py").is_file()]
    assert not bare, "without __init__.py, tests of the same name shadow each other"


@pytest.mark.parametrize("heavy", ["torch", "ray", "numba"])
def test_a_client_does_not_pay_for_the_server(heavy: str) -> None:
    program = f"import sys; from ringpull import Client, Ragged; assert {heavy!r} not in sys.modules"
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
