"""Names of the classes of outputs, as an exporter or importer gives them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from ringpull.inference.model.manifest import ProgramOutput
from ringpull.ps.errors import InvalidInput


def with_classes(outputs: tuple[ProgramOutput, ...], classes: Mapping[str, Sequence[str]]) -> tuple[ProgramOutput, ...]:
    """Return outputs whose classes have names.

    Args:
        classes: Names by output, one for each of the C scores of a row.

    Raises:
        InvalidInput: There is no such output, it has not as many scores a row, or a name is no text, or empty.
    """
    shapes = {output.name: output.shape for output in outputs}
    for name, given in classes.items():
        if name not in shapes:
            raise InvalidInput(f"classes names the output {name!r}; there is {', '.join(shapes)}")
        if isinstance(given, str) or not all(isinstance(each, str) and each for each in given):
            raise InvalidInput(f"classes of {name} are {given!r}; they must be a list of names, none empty")
        if shapes[name] != (len(given),) or not given:
            raise InvalidInput(f"classes of {name} are {len(given)}; a row of it has the shape {shapes[name]}")
    return tuple(replace(output, classes=tuple(classes.get(output.name, ()))) for output in outputs)
