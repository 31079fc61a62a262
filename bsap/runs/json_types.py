"""Compares JSON values with declared types, and describes what is missing or of another type."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints, is_typeddict

from typing_extensions import NotRequired


@dataclass(frozen=True)
class Problem:
    """A problem of a value."""

    path: str  # its place inside the value that was checked, for example `.counts.seen`; empty for the value itself
    text: str  # what the value is instead, for example `is null`
    missing: tuple[str, ...] = ()  # keys that the mapping at `path` lacks

    def __str__(self) -> str:
        path = self.path.removeprefix(".")
        if self.missing:
            return "it lacks " + ", ".join(f"{path}.{key}" if path else key for key in self.missing)
        return f"its {path} {self.text}" if path else f"it {self.text}"


Check = Callable[[Any], Problem | None]


def checker(kind: Any) -> Check:
    """Compile a type into a check of values that were read from JSON.

    Args:
        kind: a ``TypedDict``, ``list[...]``, ``dict[str, ...]``, ``Literal``, union or JSON scalar. In
            ``Annotated[kind, test, ...]`` each test is a function that returns whether a value is allowed. Keys that a
            ``TypedDict`` does not declare are ignored. A bool is not an int; an int is a float, too.

    Example:
        >>> from typing import TypedDict
        >>> Point = TypedDict("Point", {"x": float, "name": str | None})
        >>> check = checker(list[Point])
        >>> check([{"x": 1, "name": None}])
        >>> print(check([{"x": "1", "name": None}]))
        its [0].x is "1"
        >>> print(check([{"x": 1.5}]))
        it lacks [0].name
    """
    origin, args = get_origin(kind), get_args(kind)
    if is_typeddict(kind):
        return _mapping(get_type_hints(kind, include_extras=True))
    if origin is NotRequired:
        return checker(args[0])
    if origin is Annotated:
        return _allowed(checker(args[0]), args[1:])
    if origin is Literal:
        return _scalar(lambda value: isinstance(value, (str, int)) and value in args)
    if origin in (Union, UnionType):
        return _union([checker(option) for option in args])
    if origin is list:
        return _container(list, checker(args[0]), "[{}]")
    if origin is dict:
        return _container(dict, checker(args[1]), ".{}")
    if kind is Any:
        return lambda value: None
    types = {float: (float, int), None: (NoneType,)}.get(kind, (kind,))
    return _scalar(lambda value: type(value) in types)


def excerpt(value: Any) -> str:
    """The beginning of a value, as JSON."""
    try:
        return json.dumps(value, ensure_ascii=False)[:40]
    except (RecursionError, ValueError):
        return f"a {type(value).__name__} that is nested too deeply"


def _is(value: Any) -> Problem:
    return Problem("", f"is {excerpt(value)}")


def _under(step: str, problem: Problem) -> Problem:
    return replace(problem, path=step + problem.path)


def _scalar(allowed: Callable[[Any], bool]) -> Check:
    return lambda value: None if allowed(value) else _is(value)


def _allowed(check: Check, tests: tuple[Callable[[Any], bool], ...]) -> Check:
    return lambda value: check(value) or (None if all(test(value) for test in tests) else _is(value))


def _union(checks: list[Check]) -> Check:
    def check(value: Any) -> Problem | None:
        found = []
        for option in checks:
            problem = option(value)
            if problem is None:
                return None
            found.append(problem)
        # Of a mapping or a list, what is wrong inside it says more.
        return next((problem for problem in found if problem.path or problem.missing), found[0])

    return check


def _container(kind: type[Any], check: Check, step: str) -> Check:
    def checked(value: Any) -> Problem | None:
        if type(value) is not kind:
            return _is(value)
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            if (problem := check(item)) is not None:
                return _under(step.format(key), problem)
        return None

    return checked


def _mapping(hints: dict[str, Any]) -> Check:
    checks = {key: checker(hint) for key, hint in hints.items()}
    # Not `__required_keys__`: Python does not see `NotRequired` in annotations that are still text.
    required = {key for key, hint in hints.items() if get_origin(hint) is not NotRequired}

    def checked(value: Any) -> Problem | None:
        if type(value) is not dict:
            return _is(value)
        if not required <= value.keys():
            return Problem("", "", tuple(key for key in checks if key in required and key not in value))
        for key, check in checks.items():
            if key in value and (problem := check(value[key])) is not None:
                return _under(f".{key}", problem)
        return None

    return checked
