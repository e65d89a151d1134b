"""Frozen dataclasses, dictionaries and YAML: the same settings in three forms, with strict ways between them.

A dataclass is the schema: its fields are the keys, its annotations the types, its ``__post_init__`` the
ranges. Whatever is wrong with a dictionary is told in one error, each mistake with its dotted path.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import re
import sys
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml

from dreamlab.core.errors import UserError, suggest

if typing.TYPE_CHECKING:
    from pydantic import TypeAdapter

C = TypeVar("C")
_WORDS = {
    int: ("a whole number", "whole numbers"),
    float: ("a number", "numbers"),
    bool: ("true or false", "trues and falses"),
    str: ("text", "texts"),
    Path: ("a path", "paths"),
    dict: ("a mapping", "mappings"),
    type(None): ("null", "nulls"),
}


# -- dataclass <-> dictionary --------------------------------------------------------------------------------


def to_dict(config: Any) -> dict[str, Any]:
    """A configuration as dictionaries, lists, numbers and strings: what JSON and YAML can hold."""
    return {field.name: _plain(getattr(config, field.name)) for field in dataclasses.fields(config) if field.init}


def from_dict(cls: type[C], data: Mapping[str, Any], where: str = "") -> C:
    """A configuration of class ``cls``; what ``data`` leaves out takes its default.

    Types are strict, but a whole number is taken for a number, a list for a tuple, and 1e6 for a whole number.

    Raises:
        UserError: everything that is wrong, one line a mistake, each with its dotted path below ``where``.
    """
    problems: list[str] = []
    config = read(cls, data, where, problems)
    fail(problems)
    return typing.cast(C, config)


def merge(config: C, overrides: Mapping[str, Any], where: str = "") -> C:
    """``config`` with some of its settings replaced; ``overrides`` nests as deep as it needs.

    Raises:
        UserError: as ``from_dict``.
    """
    problems: list[str] = []
    merged = read(type(config), overrides, where, problems, base=config)
    fail(problems)
    return typing.cast(C, merged)


def fail(problems: list[str]) -> None:
    """Raise one UserError for all problems, or return if there are none."""
    if len(problems) == 1:
        raise UserError(problems[0])
    if problems:
        raise UserError(f"{len(problems)} settings are wrong:\n" + "\n".join(f"  {p}" for p in problems))


def read(cls: type[C], data: Any, where: str, problems: list[str], base: C | None = None) -> C | None:
    """``from_dict`` that adds what is wrong to ``problems``, and then returns None.

    With ``base``, what ``data`` leaves out is taken from there.
    """
    if not isinstance(data, Mapping):
        problems.append(f"{where or cls.__name__}: expected a mapping of settings, got {_show(data)}")
        return None
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}  # type: ignore[arg-type]
    before = len(problems)
    for key in data:
        if key not in fields:
            problems.append(f"{_join(where, key)}: unknown key.{suggest(str(key), fields)}")
    hints, values = _hints(cls), {}  # type: ignore[arg-type]
    for name, field in fields.items():
        if name in data:
            old = _default(field) if base is None else getattr(base, name)
            values[name] = _value(hints[name], data[name], _join(where, name), problems, old)
        elif base is not None:
            values[name] = getattr(base, name)
        elif _default(field) is dataclasses.MISSING:
            problems.append(f"{_join(where, name)}: is missing")
    if len(problems) > before:
        return None
    try:
        return cls(**values)
    except ValueError as error:
        problems.append(f"{where}: {error}" if where else str(error))
        return None


def at_least(name: str, value: float, least: float) -> None:
    """Raise ValueError unless a setting is as large as that."""
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")


def positive(name: str, value: float) -> None:
    """Raise ValueError unless a setting is above 0."""
    if value <= 0:
        raise ValueError(f"{name} must be positive, got {value}")


def differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Where two dictionaries differ: (dotted path, value in ``a``, value in ``b``), None where there is none."""
    old, new = dict(_leaves(a)), dict(_leaves(b))
    paths = [*old, *(path for path in new if path not in old)]
    return [(path, old.get(path), new.get(path)) for path in paths if not _same(old.get(path), new.get(path))]


def _default(field: dataclasses.Field[Any]) -> Any:
    """A field's default, made if need be, or MISSING."""
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return to_dict(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def _value(hint: Any, value: Any, where: str, problems: list[str], old: Any) -> Any:
    """One field's value, checked; ``old`` is what a nested configuration is merged into."""
    nested: list[Any] = [kind for kind in _alternatives(hint) if dataclasses.is_dataclass(kind)]
    if nested and not (value is None and type(None) in _alternatives(hint)):
        if dataclasses.is_dataclass(value):
            value = to_dict(value)
        return read(nested[0], value, where, problems, base=old if dataclasses.is_dataclass(old) else None)
    from pydantic import ValidationError

    plain = _plain(value)
    kinds = _alternatives(hint)
    if isinstance(plain, float) and plain.is_integer() and int in kinds and float not in kinds:
        plain = int(plain)
    try:  # strict JSON: lists are tuples and whole numbers are numbers there, but nothing else is converted
        return _adapter(hint).validate_json(json.dumps(plain, default=repr), strict=True)
    except ValidationError:
        problems.append(f"{where}: expected {expected(hint)}, got {_show(value)}")
        return None


@functools.cache
def _adapter(hint: Any) -> TypeAdapter[Any]:
    from pydantic import TypeAdapter

    return TypeAdapter(hint)


@functools.cache
def _hints(cls: Any) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def _alternatives(hint: Any) -> tuple[Any, ...]:
    """The members of a union, or the type alone."""
    return typing.get_args(hint) if typing.get_origin(hint) in (types.UnionType, typing.Union) else (hint,)


def expected(hint: Any, many: bool = False) -> str:
    """A type in words: ``a whole number``, ``one of 'a', 'b'``, ``a list of numbers``."""
    if len(_alternatives(hint)) > 1:
        return " or ".join(expected(kind) for kind in _alternatives(hint))
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return f"one of {', '.join(repr(arg) for arg in args)}"
    if origin in (tuple, list):
        if origin is tuple and args[-1] is not Ellipsis:
            return f"a list of {len(args)}: {', '.join(expected(arg) for arg in args)}"
        return f"{'lists' if many else 'a list'} of {expected(args[0], many=True)}"
    words = _WORDS.get(origin or hint)
    return words[many] if words else str(getattr(hint, "__name__", hint))


def _show(value: Any) -> str:
    text = repr(value) if not isinstance(value, bool) and value is not None else json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _join(where: str, key: object) -> str:
    return f"{where}.{key}" if where else str(key)


def _leaves(data: Mapping[str, Any], where: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in data.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, _join(where, key))
        else:
            yield _join(where, key), value


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, bool) != isinstance(b, bool):
        return False
    return bool(a == b or (a != a and b != b))  # nan is itself here


# -- YAML ----------------------------------------------------------------------------------------------------


class _Loader(yaml.SafeLoader):
    """YAML with the numbers and truths of version 1.2 (1e-4 is a number, ``no`` is text), and no key twice."""


class _Dumper(yaml.SafeDumper):
    """Writes what ``_Loader`` reads back exactly."""


_FLOAT = re.compile(r"^[-+]?(?:\d+\.?\d*|\.\d+)[eE][-+]?\d+$")
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in pairs if tag != "tag:yaml.org,2002:bool"]
    for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), "tTfF")
for _kind in (_Loader, _Dumper):
    _kind.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, str | int | float | bool | None):
            raise yaml.constructor.ConstructorError(None, None, "a key must be a word", key_node.start_mark)
        if key in seen:
            raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} is there twice", key_node.start_mark)
        seen.add(key)
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor("tag:yaml.org,2002:map", _mapping)


def read_yaml(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The mapping that a YAML file holds.

    Raises:
        UserError: no such file, not YAML (line and column named), or not a mapping.
    """
    try:
        data = yaml.load(Path(path).read_text(encoding="utf-8"), _Loader)  # a SafeLoader: nothing is executed
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not a text file") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        what = getattr(error, "problem", None) or getattr(error, "reason", None) or error
        raise UserError(f"{path}{place}: not valid YAML: {what}") from error
    if not isinstance(data, dict):
        found = "is empty" if data is None else f"holds {_show(data)}"
        raise UserError(f"{path}: expected a mapping of settings, but the file {found}")
    return data


def write_yaml(path: str | os.PathLike[str], data: Mapping[str, Any]) -> None:
    """Write a mapping as YAML: the file is either the old one or wholly the new one, whenever it is interrupted."""
    path = Path(path)
    text = yaml.dump(_plain(data), Dumper=_Dumper, sort_keys=False, allow_unicode=False, width=100)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    if sys.platform != "win32":
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
