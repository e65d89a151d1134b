"""From typed options to a dataclass: its docstrings are the help, its types the checks.

tyro does the work; what is ours is how numbers are read and how mistakes are worded.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, get_args, get_origin

import tyro
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from dreamlab.core.errors import UserError, suggest

F = TypeVar("F")
Argument = tyro.conf.arg
Positional = tyro.conf.Positional


def ask(cls: type[F], argv: Sequence[str], command: str, about: str = "", default: F | None = None) -> F:
    """An instance of the dataclass ``cls`` from a command's arguments.

    ``--help`` prints the help and leaves with 0; a mistake is told on stderr with what was meant, and leaves with 2.
    A field may be ``Annotated[str, Positional]``, or ``Annotated[T, Argument(name=..., metavar=...)]``.

    Args:
        cls: fields are options, the docstring literals below them their help.
        argv: what was typed after ``command``.
        command: what was typed before, as ``dreamlab evaluate``.
        about: what the command does; the dataclass's own docstring where empty.
        default: where the defaults come from, instead of the fields.

    Raises:
        UserError: the dataclass refuses a value that has the right type.
        SystemExit: as above.
    """
    given: dict[str, Any] = {"prog": command, "description": about or None}
    if default is not None:
        given["default"] = default
    problems = [] if {"-h", "--help"} & set(argv) else _mistakes(cls, argv, given)
    if len(problems) > 1:
        listed = "\n".join(f"  {problem}" for problem in problems)
        raise UserError(f"{len(problems)} options are wrong:\n{listed}\n{command} --help says what there is")
    try:
        return tyro.cli(cls, args=list(argv), registry=_numbers(), **given)
    except ValueError as error:  # the range check of a dataclass whose options have no prefix
        raise UserError(f"{error}; {command} --help says what there is") from error


def _mistakes(cls: type, argv: Sequence[str], given: dict[str, Any]) -> list[str]:
    """Unknown options and unreadable numbers, all of them: tyro itself stops at the first of each kind."""
    unreadable: list[tuple[str, str]] = []
    try:
        _, unknown = tyro.cli(
            cls,
            args=list(argv),
            registry=_numbers(unreadable),
            return_unknown_args=True,
            console_outputs=False,
            **given,
        )
    except (SystemExit, ValueError):  # another kind of mistake, which is told by itself
        unknown = []
    options = [word.partition("=")[0] for word in unknown if word.startswith("--")]
    problems = [f"{_option_of(text, argv)}: {words}" for text, words in unreadable]
    if options:
        actions = tyro.extras.get_parser(cls, **given)._actions
        known = [option for action in actions for option in action.option_strings if option.startswith("--")]
        problems += [f"{option}: unknown option.{suggest(option, known)}" for option in options]
    return problems


def _option_of(value: str, argv: Sequence[str]) -> str:
    """The option that a value was typed for."""
    before = ""
    for word in argv:
        name, equals, text = word.partition("=")
        if word.startswith("--"):
            before = name
        if value == (text if equals and word.startswith("--") else word):
            return before
    return before


def _numbers(unreadable: list[tuple[str, str]] | None = None) -> ConstructorRegistry:
    """How numbers are read: 1e6 is a whole number too, and none stands for nothing.

    With a list, what cannot be read is put there as (typed, what is wrong) and passes for 1.
    """
    registry = ConstructorRegistry()
    registry.primitive_rule(functools.partial(_number, unreadable=unreadable))
    return registry


def _number(info: PrimitiveTypeInfo, unreadable: list[tuple[str, str]] | None) -> PrimitiveConstructorSpec[Any] | None:
    kinds = get_args(info.type) if get_origin(info.type) is types.UnionType else (info.type,)
    bare = [kind for kind in kinds if kind is not type(None)]
    if len(bare) != 1 or bare[0] not in _READ:
        return None
    read, metavar, words = _READ[bare[0]]
    optional = len(kinds) == 2

    def from_text(typed: list[str]) -> Any:
        if optional and typed[0].lower() in ("none", "null"):
            return None
        try:
            return read(typed[0])
        except ValueError:
            problem = f"expected {words}{' or none' * optional}, got {typed[0]!r}"
            if unreadable is None:
                raise ValueError(problem) from None
            unreadable.append((typed[0], problem))
            return bare[0](1)

    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=metavar + "|none" * optional,
        instance_from_str=from_text,
        is_instance=lambda value: isinstance(value, bare[0]) or (optional and value is None),
        str_from_instance=lambda value: ["none" if value is None else str(value)],
    )


def whole(text: str) -> int:
    """A whole number, also as 1e6 or 100_000. Raises ValueError."""
    try:
        return int(text)
    except ValueError:
        value = float(text)
        if not value.is_integer():  # nor is infinity
            raise ValueError(f"{text} is not whole") from None
        return int(value)


_READ: dict[Any, tuple[Callable[[str], Any], str, str]] = {
    int: (whole, "INT", "a whole number"),
    float: (float, "FLOAT", "a number"),
}
