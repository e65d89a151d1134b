"""From typed options to a dataclass: its docstrings are the help, its types the checks.

tyro does the work; what is ours is how numbers are read and how mistakes are worded.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, get_args, get_origin

import tyro
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from dreamlab.core.errors import UserError

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
    given: dict[str, Any] = {} if default is None else {"default": default}
    try:
        return tyro.cli(cls, args=list(argv), prog=command, description=about or None, registry=_numbers(), **given)
    except ValueError as error:  # the range check of a dataclass whose options have no prefix
        raise UserError(f"{error}; {command} --help says what there is") from error


def _numbers() -> ConstructorRegistry:
    """How numbers are read: 1e6 is a whole number too, and none stands for nothing."""
    registry = ConstructorRegistry()
    registry.primitive_rule(_number)
    return registry


def _number(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
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
            raise ValueError(f"expected {words}{' or none' * optional}, got {typed[0]!r}") from None

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
