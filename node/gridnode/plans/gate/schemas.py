"""Operator schemas of a runtime, and whether a call fits one of them, by TorchScript's rules."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Final

#: A type that is not known; it fits everywhere.
ANY: Final = "?"
_NUMBERS: Final = frozenset(("int", "float"))
#: Type variables, which take what they get.
_GENERIC: Final = frozenset(("t", "t1", "t2", "Any", "AnyClassType", "AnyEnumType"))
_ALIAS: Final = re.compile(r"\((?:[a-z](?:\|[a-z])*!?|\*)(?:\s*->\s*[*a-z|]+)?\)")
_SIZED: Final = re.compile(r"\[\d+\]")


@dataclass(frozen=True, slots=True)
class Parameter:
    """One argument of a schema. ``spread``: a single number stands for a list of it."""

    name: str
    type: str
    has_default: bool
    by_name_only: bool
    spread: bool


@dataclass(frozen=True, slots=True)
class Schema:
    """One overload of an operator. ``variadic`` takes any arguments."""

    text: str
    parameters: tuple[Parameter, ...]
    returns: tuple[str, ...]
    variadic: bool

    def mismatch(self, args: Sequence[str], keywords: Mapping[str, str]) -> str | None:
        """Why a call with arguments of these types does not fit; None if it does.

        TorchScript would also take a tensor for a number and find out when it runs whether it has one element. Archives
        hold such a call only where the form that takes a tensor is missing, so it does not count as fitting here.
        """
        if self.variadic:
            return None
        positional = [parameter for parameter in self.parameters if not parameter.by_name_only]
        if len(args) > len(positional):
            return f"it takes {len(positional)} arguments by position, {len(args)} are given"
        given = dict(zip((parameter.name for parameter in positional), args, strict=False))
        for name, type_name in keywords.items():
            if name in given or all(parameter.name != name for parameter in self.parameters):
                return f"it has no argument {name}"
            given[name] = type_name
        for parameter in self.parameters:
            if parameter.name not in given:
                if not parameter.has_default:
                    return f"argument {parameter.name} is missing"
            elif not _fits(given[parameter.name], parameter.type, parameter.spread):
                return f"argument {parameter.name} is {given[parameter.name]}, not {parameter.type}"
        return None


def _fits(given: str, wanted: str, spread: bool) -> bool:
    """Whether a value of one type can be passed for another."""
    if ANY in (given, wanted) or given == wanted or wanted in _GENERIC:
        return True
    if wanted.endswith("?"):
        return given == "None" or _fits(given.removesuffix("?"), wanted[:-1], spread)
    if wanted == "Scalar" and given in _NUMBERS:
        return True
    if wanted.endswith("[]"):
        element = wanted[:-2]
        if given.endswith("[]"):
            return given == "[]" or _fits(given[:-2], element, spread=False)
        return spread and _fits(given, element, spread=False)
    return False


@functools.cache
def operators(digit: str) -> Mapping[str, tuple[Schema, ...]]:
    """All overloads by the operator's name, such as ``aten::add``, of the LibTorch recorded under a digit."""
    found: dict[str, list[Schema]] = {}
    for line in _recorded("libtorch.txt"):
        digits, _, text = line.partition(" ")
        if digit in digits:
            schema = parse_schema(text)
            found.setdefault(text.partition("(")[0].partition(".")[0], []).append(schema)
    return {name: tuple(schemas) for name, schemas in found.items()}


@functools.cache
def names(file: str) -> frozenset[str]:
    """The names in a recording that is a list of names."""
    return frozenset(_recorded(file))


def _recorded(file: str) -> list[str]:
    return (resources.files("gridnode.plans.gate") / "recorded" / file).read_text("utf-8").splitlines()


@functools.cache
def parse_schema(text: str) -> Schema:
    """Read a schema as PyTorch prints it: ``aten::add.Tensor(Tensor self, Tensor other, *, Scalar alpha=1) -> …``."""
    arguments, _, returns = text[text.index("(") :].rpartition(" -> ")
    parts = _split(arguments[1:-1])
    parameters = []
    by_name_only = variadic = False
    for part in parts:
        if part == "*":
            by_name_only = True
        elif part == "...":
            variadic = True
        else:
            parameters.append(_parameter(part, by_name_only))
    inner = returns.strip()
    if inner.startswith("(") and inner.endswith(")"):
        inner = inner[1:-1]
    types = tuple(_plain(part.rsplit(" ", 1)[0] if _is_named(part) else part)[0] for part in _split(inner))
    return Schema(text, tuple(parameters), types, variadic)


def _is_named(part: str) -> bool:
    return re.search(r"[\])?a-zA-Z] [a-z_0-9]+$", part) is not None


def _parameter(part: str, by_name_only: bool) -> Parameter:
    declared, equals, _ = part.partition("=")
    type_name, _, name = declared.strip().rpartition(" ")
    plain, spread = _plain(type_name)
    return Parameter(name, plain, bool(equals), by_name_only, spread)


def _plain(type_name: str) -> tuple[str, bool]:
    """A type without what it says of aliases and sizes; whether a number stands for a list."""
    without = _ALIAS.sub("", type_name).replace(" ", "")
    spread = _SIZED.search(without) is not None
    return _SIZED.sub("[]", without), spread


def _split(text: str) -> list[str]:
    """Split at commas that are outside of brackets."""
    parts, depth, start = [], 0, 0
    for position, character in enumerate(text):
        depth += (character in "([{") - (character in ")]}")
        if character == "," and depth == 0:
            parts.append(text[start:position].strip())
            start = position + 1
    parts.append(text[start:].strip())
    return [part for part in parts if part]
