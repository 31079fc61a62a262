"""Ready-made parts by name, and how a configuration spells others: one mechanism for views and scorers."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
from collections.abc import Iterable, Mapping
from typing import Any, Generic, TypeVar

from bsap.errors import ConfigError, check_names

T = TypeVar("T")
_KEYS = ("class_path", "init_args")


class Registry(Generic[T]):
    """The parts of one kind that a configuration can name.

    The classes are dataclasses: their fields are the arguments that a configuration may give.

    Args:
        what: one word for a part, for error messages.
        base: the class that all parts inherit from.
        named: ready-made parts by name.
        classes: classes that a configuration may name without their import path.
        needs: an attribute that ``base`` leaves to its subclasses.
    """

    def __init__(
        self, what: str, base: type[T], named: Mapping[str, T], *, classes: Iterable[type[T]], needs: str
    ) -> None:
        self.what, self.base, self.named, self.needs = what, base, named, needs
        self.classes = {cls.__name__: cls for cls in classes}

    def make(self, spec: object) -> T:
        """The part that a configuration means.

        Args:
            spec: a ready-made name; the import path of a class; a mapping with ``class_path`` (a name in
                ``classes`` or an import path) and, optionally, ``init_args``; or a part, which is returned as it is.

        Raises:
            ConfigError: unknown name, class, key or argument, or an argument's value out of range.
        """
        if isinstance(spec, self.base):
            self._check_fields(type(spec))
            return spec
        if isinstance(spec, str) and "." not in spec:
            check_names(self.what, [spec], self.named)
            return self.named[spec]
        settings: object = {"class_path": spec} if isinstance(spec, str) else spec
        if not isinstance(settings, Mapping) or not isinstance(settings.get("class_path"), str):
            raise ConfigError(f"A {self.what} is a name or `class_path` with `init_args`, but got {spec!r}.")
        check_names(f"key of a {self.what}", settings, _KEYS)
        return self._build(self._class(settings["class_path"]), settings.get("init_args") or {})

    def _build(self, cls: type[T], arguments: object) -> T:
        self._check_fields(cls)
        if not isinstance(arguments, Mapping):
            raise ConfigError(f"`init_args` of {self.what} {cls.__name__} must be a mapping, but got {arguments!r}.")
        check_names(f"argument of {self.what} {cls.__name__}", arguments, _arguments(cls))
        try:
            return cls(**arguments)
        except (ArithmeticError, TypeError, ValueError) as error:  # a whole number may be too large for a float
            raise ConfigError(f"{self.what.capitalize()} {cls.__name__}: {error}") from error

    def _class(self, path: str) -> type[T]:
        module, _, name = path.rpartition(".")
        if "." not in path:
            check_names(f"{self.what} class", [name], self.classes)
            return self.classes[name]
        try:
            cls = getattr(importlib.import_module(module), name)
        except (AttributeError, ImportError, TypeError, ValueError) as error:
            raise ConfigError(
                f"{self.what.capitalize()} class {path!r} cannot be imported ({error}). Give the full import path of "
                f"a class."
            ) from error
        complete = getattr(cls, self.needs, None) is not getattr(self.base, self.needs, None)
        if not (isinstance(cls, type) and issubclass(cls, self.base) and complete):
            base = f"{self.base.__module__.rpartition('.')[0]}.{self.base.__name__}"
            raise ConfigError(f"{path!r} is not a subclass of {base} with a `{self.needs}` of its own.")
        return cls

    def _check_fields(self, cls: type[Any]) -> None:
        """Refuse parameters that are no fields: names and keys of stored results would not hold them."""
        unseen = sorted(inspect.signature(cls).parameters.keys() - set(_arguments(cls)))
        if unseen:
            raise ConfigError(
                f"Parameters of the {self.what} {cls.__name__} are not part of its name: {', '.join(unseen)}. Make "
                f"them fields, such as `{unseen[0]}: int = 0`, of a class decorated with @dataclass(frozen=True), "
                "without an __init__ of its own."
            )


def first_line(part: object) -> str:
    """The first line of the documentation of a part's class, or the class's name."""
    return (inspect.getdoc(type(part)) or type(part).__name__).partition("\n")[0]


def _arguments(cls: type[Any]) -> list[str]:
    return [field.name for field in dataclasses.fields(cls) if field.init]
