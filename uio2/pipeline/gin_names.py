"""The names in gin text, checked before gin sees it: classes, parameters, macros and the types of values.

gin's own parser reads the statements, so what is checked here is exactly what gin will read.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import inspect
import types
import typing
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from gin import config_parser

from uio2.pipeline.stage import UsageError


def suggestion(word: str, known: Sequence[str]) -> str:
    """`"; did you mean 'steps'?"`, or `"; known: ..."` for a short list without a near word, or nothing."""
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    if near:
        return f"; did you mean {near[0]!r}?"
    return f"; known: {', '.join(sorted(known))}" if 0 < len(known) <= 40 else ""


@dataclasses.dataclass
class _Binding:
    scope: str
    cls: type
    field: str
    place: str


@dataclasses.dataclass
class Names:
    """What the text declares and uses."""

    symbols: dict[str, Any] = dataclasses.field(default_factory=dict)
    import_lines: list[str] = dataclasses.field(default_factory=list)
    macros: dict[str, str] = dataclasses.field(default_factory=dict)  # defined: name -> place
    macros_used: dict[str, str] = dataclasses.field(default_factory=dict)
    references: set[tuple[str, str]] = dataclasses.field(default_factory=set)  # scope and class of `@scope/Class()`
    _bindings: list[_Binding] = dataclasses.field(default_factory=list)

    def resolve(self, selector: str, *, place: str) -> Any:
        """The class behind `alias.Class`; UsageError with a suggestion otherwise."""
        first, *rest = selector.split(".")
        if first not in self.symbols:
            known = list(self.symbols)
            raise UsageError(f"{place}: {selector!r}: no gin file imports {first!r}{suggestion(first, known)}")
        value = self.symbols[first]
        for part in rest:
            if not hasattr(value, part):
                raise UsageError(f"{place}: {selector!r} does not exist{suggestion(selector, self._selectors())}")
            value = getattr(value, part)
        if not (inspect.isclass(value) or inspect.isfunction(value)):
            raise UsageError(f"{place}: {selector!r} is not a class{suggestion(selector, self._selectors())}")
        return value

    def _selectors(self) -> list[str]:
        found = []
        for alias, module in self.symbols.items():
            classes = [name for name, value in vars(module).items() if inspect.isclass(value)]
            found += [f"{alias}.{name}" for name in classes if dataclasses.is_dataclass(getattr(module, name))]
        return found

    def bind(self, scope: str, selector: str, field: str, *, place: str) -> None:
        """Notes `scope/selector.field = ...`; UsageError if the class has no such parameter."""
        cls = self.resolve(selector, place=place)
        parameters = list(inspect.signature(cls).parameters)
        if field not in parameters:
            raise UsageError(f"{place}: {selector} has no parameter {field!r}{suggestion(field, parameters)}")
        self._bindings.append(_Binding(scope, cls, field, place))

    def check_macros(self) -> None:
        """Every macro used is defined and every macro defined is used; UsageError otherwise."""
        for name, place in self.macros_used.items():
            if name not in self.macros:
                raise UsageError(f"{place}: macro %{name} is not defined{suggestion(name, list(self.macros))}")
        for name, place in self.macros.items():
            if name not in self.macros_used:
                raise UsageError(f"{place}: no binding uses {name}{suggestion(name, list(self.macros_used))}")

    def scopes(self, scope: str) -> list[str]:
        """The scopes whose bindings apply inside `scope`: "" and every prefix of it."""
        parts = scope.split("/") if scope else []
        return ["/".join(parts[:n]) for n in range(len(parts) + 1)]

    def bound(self, cls: type, *, scope: str = "") -> set[str]:
        """The fields of `cls` that have a binding in `scope`."""
        return {b.field for b in self._bindings if b.cls is cls and b.scope in self.scopes(scope)}

    def mentioned(self, cls: type) -> bool:
        """Whether any binding names the class."""
        return any(b.cls is cls for b in self._bindings)

    def bindings(self) -> Iterator[tuple[str, str, str]]:
        """Yields (scope, class name, place) of every binding."""
        for binding in self._bindings:
            yield binding.scope, binding.cls.__qualname__, binding.place

    def alias(self, cls: type) -> str:
        """The class as a gin file names it, `train.TrainSpec`."""
        for alias, module in self.symbols.items():
            if getattr(module, cls.__name__, None) is cls:
                return f"{alias}.{cls.__name__}"
        return cls.__name__


class _Delegate(config_parser.ParserDelegate):
    """Collects references and macros while gin's parser reads the values."""

    def __init__(self) -> None:
        self.references: list[str] = []
        self.macros: list[str] = []

    def configurable_reference(self, scoped_configurable_name: str, evaluate: bool) -> str:
        self.references.append(scoped_configurable_name)
        return f"@{scoped_configurable_name}"

    def macro(self, macro_name: str) -> str:
        self.macros.append(macro_name)
        return f"%{macro_name}"


def scan(names: Names, text: str, *, place: str, find: Callable[[str], Path]) -> None:
    """Reads gin text into `names`; follows `include` statements through `find`. UsageError at the first fault."""
    delegate = _Delegate()
    parser = config_parser.ConfigParser(text, delegate)
    while True:
        try:
            statement = next(parser, None)
        except (SyntaxError, ValueError) as error:
            raise UsageError(_syntax_message(error, text=text, place=place)) from error
        if statement is None:
            return
        where = place if place == "--gin" else f"{place}:{statement.location.line_num}"
        _take(names, statement, where=where, find=find)
        for name in delegate.macros:
            names.macros_used.setdefault(name, where)
        for name in delegate.references:
            scope, _, selector = name.rpartition("/")
            names.references.add((scope, names.resolve(selector, place=where).__qualname__))
        delegate.macros.clear()
        delegate.references.clear()


def _take(names: Names, statement: Any, *, where: str, find: Callable[[str], Path]) -> None:
    if isinstance(statement, config_parser.ImportStatement):
        if statement.module.startswith("__gin__"):
            return
        try:
            module = importlib.import_module(statement.module)
        except ImportError as error:
            raise UsageError(f"{where}: cannot import {statement.module} ({error})") from error
        plain = not (statement.is_from or statement.alias)
        bound = importlib.import_module(statement.module.split(".")[0]) if plain else module
        names.symbols[statement.bound_name()] = bound
        if statement.format() not in names.import_lines:
            names.import_lines.append(statement.format())
    elif isinstance(statement, config_parser.IncludeStatement):
        path = find(statement.filename)
        scan(names, path.read_text(), place=str(path), find=find)
    elif isinstance(statement, config_parser.BlockDeclaration):
        names.resolve(statement.selector, place=where)
    elif statement.arg_name:
        names.bind(statement.scope or "", statement.selector, statement.arg_name, place=where)
    else:
        macro = f"{statement.scope}/{statement.selector}" if statement.scope else statement.selector
        names.macros.setdefault(macro, where)


def _syntax_message(error: Exception, *, text: str, place: str) -> str:
    line = getattr(error, "lineno", None)
    shown = text.splitlines()[line - 1].strip() if line and line <= len(text.splitlines()) else ""
    key, equals, value = shown.partition(" = ")
    if place == "--gin" and equals:
        return f"--gin.{key}={value}: the value is not a Python literal; a text needs quotes: --gin.{key}=\"'{value}'\""
    return f"{place}:{line or '?'}: {shown or str(error).splitlines()[0]!r} is not gin syntax"


def check_values(value: Any, *, path: str) -> Any:
    """The spec with ints widened to float where the field is a float; UsageError if a value has the wrong type."""
    hints = typing.get_type_hints(type(value))
    changed = {}
    for field in dataclasses.fields(value):
        item = getattr(value, field.name)
        where = f"{path}.{field.name}"
        if dataclasses.is_dataclass(item) and not isinstance(item, type):
            fixed = check_values(item, path=where)
        else:
            fixed = _fitted(item, hints.get(field.name, Any), path=where)
        if fixed is not item:
            changed[field.name] = fixed
    return dataclasses.replace(value, **changed) if changed else value


def _fitted(item: Any, hint: Any, *, path: str) -> Any:
    origin = typing.get_origin(hint)
    options = typing.get_args(hint) if origin in (typing.Union, types.UnionType) else (hint,)
    plain = [typing.get_origin(option) or option for option in options]
    if any(option not in (int, float, bool, str, tuple, list, dict, type(None)) for option in plain):
        return item  # Any, Literal, nested specs: their own constructors check them
    if isinstance(item, list) and tuple in plain and list not in plain:
        return tuple(item)
    if isinstance(item, int) and not isinstance(item, bool) and float in plain and int not in plain:
        return float(item)
    if any(type(item) is option for option in plain):
        return item
    wanted = " or ".join("None" if option is type(None) else option.__name__ for option in plain)
    raise UsageError(f"{path} = {item!r} is {type(item).__name__}, expected {wanted}")
