"""Options made of the fields of dataclasses of settings: each is written once, where the setting is.

`taking(config)` gives a command the options of a dataclass and of those within it; `check_given` refuses numbers out of
bounds by the option's name; `built` makes the dataclass of what was given.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, is_dataclass
from typing import Annotated, Any, TypeVar

import typer

from ringpull.ps.settings import Group, Setting, settings_of

Command = TypeVar("Command", bound=Callable[..., None])
Config = TypeVar("Config")


def taking(config: type[Any]) -> Callable[[Command], Command]:
    """Return a decorator of a command whose `**given` is to be the options of `config`, grouped in its help."""
    places = {group: place for place, group in enumerate(Group)}
    options = sorted(_settings(config), key=lambda setting: places[_option(setting).group])

    def decorate(command: Command) -> Command:
        own = inspect.signature(command, eval_str=True)
        first = [each for each in own.parameters.values() if each.kind is not each.VAR_KEYWORD]
        parameters = [*first, *map(_parameter, options)]
        command.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {each.name: each.annotation for each in parameters}
        return command

    return decorate


def check_given(config: type[Any], given: Mapping[str, Any]) -> None:
    """Refuse numbers out of their bounds, and texts that should be numbers with some and are none.

    Raises:
        InvalidInput: Names the option.
    """
    for each in _settings(config):
        if each.bounds is not None and (value := _value(each, given[_name(each)])) is not None:
            each.bounds.check(f"--{each.name}", value)


def built(config: type[Config], given: Mapping[str, Any], **others: Any) -> Config:
    """Return the dataclass that was asked for, with those within it that are not among `others`.

    Args:
        given: Option's parameter -> value, as the command got them.
        others: Values of fields, instead of what was given for them.

    Raises:
        InvalidInput: A value is none that its option takes.
    """
    values = dict(others)
    for each in settings_of(config):
        if each.field in values:
            continue
        if each.option is not None:
            values[each.field] = _value(each, given[_name(each)])
        elif is_dataclass(each.type) and isinstance(each.type, type):
            values[each.field] = built(each.type, given)
    return config(**values)


def _settings(config: type[Any]) -> Iterator[Setting]:
    """Yield every setting that has an option, of a dataclass and of those within it."""
    for each in settings_of(config):
        if each.option is not None:
            yield each
        elif is_dataclass(each.type) and isinstance(each.type, type):
            yield from _settings(each.type)


def _name(setting: Setting) -> str:
    return setting.name.replace("-", "_")


def _option(setting: Setting) -> Any:
    assert setting.option is not None
    return setting.option


def _parameter(setting: Setting) -> inspect.Parameter:
    option = _option(setting)
    default = setting.default if option.default is None else option.default
    if setting.name.startswith("no-") or default is MISSING:
        default = None if default is MISSING else not default
    asked = typer.Option(f"--{setting.name}", help=option.help, metavar=option.metavar, rich_help_panel=option.group)
    return inspect.Parameter(
        _name(setting),
        inspect.Parameter.KEYWORD_ONLY,
        default=default,
        annotation=Annotated[option.given_as or setting.type, asked],
    )


def _value(setting: Setting, given: Any) -> Any:
    option = _option(setting)
    if setting.name.startswith("no-"):
        return not given
    return given if given is None or option.parse is None else option.parse(f"--{setting.name}", given)
