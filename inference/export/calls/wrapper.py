"""The wrapper class that an error prints, ready to paste, where no binding of a method's parameters is known."""

from __future__ import annotations

import inspect
import keyword
from collections.abc import Collection, Mapping
from difflib import get_close_matches
from textwrap import indent


def wrapper(owner: str, method: str, parameters: Mapping[str, inspect.Parameter], made: Collection[str]) -> str:
    """Return the text of a module that takes the schema's arguments by name, and calls `method` of the user's.

    What is given to a parameter that the schema does not make is a guess, and marked as one.

    Args:
        owner: Name of the user's class.
        method: Name of its method.
        parameters: The parameters to fill, by name.
        made: The schema's arguments.
    """
    named = all(each.isidentifier() and not keyword.iskeyword(each) for each in made)
    lines, left = [], [each for each in made if each not in parameters]
    for name, parameter in parameters.items():
        guess = name if name in made else next(iter(get_close_matches(name, left or list(made), 1, cutoff=0.0)))
        left = [each for each in left if each != guess]
        value = guess if named else f"given[{guess!r}]"
        by_place = parameter.kind is parameter.POSITIONAL_ONLY
        lines.append(f"{value if by_place else f'{name}={value}'}," + ("" if name == guess else f"  # {name}: a guess"))
    called = "self.module" if method == "forward" else f"self.module.{method}"
    taken = ", ".join(made) if named else "**given"
    return (
        "from torch import nn\n\n\n"
        f"class Wrapped{owner}(nn.Module):\n"
        "    def __init__(self, module):\n"
        "        super().__init__()\n"
        "        self.module = module\n\n"
        f"    def forward(self, {taken}):\n"
        f"        return {called}(\n" + indent("\n".join(lines), " " * 12) + "\n        )\n"
    )
