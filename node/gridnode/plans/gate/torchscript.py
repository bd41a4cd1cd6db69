"""Reads the code in a TorchScript archive and asks of each call whether a runtime has an operator for it.

What an old runtime does when it loads an archive is the same: it looks up a schema for each call in the code. The code
is written in a part of Python's grammar, so Python's parser reads it; nothing of it is run.
"""

from __future__ import annotations

import ast
import io
import re
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from gridnode.plans.gate.schemas import ANY, Schema
from gridnode.plans.plan import InvalidPlan

#: Real plans have some kB. A parsed one takes a hundred times its size, so a larger one is not judged.
_LARGEST_CODE: Final = 1 << 20
#: What was seen in these runtimes to fail or to give other values though the schema fits, by how the schema starts.
_DIFFERENT: Final = {
    "aten::angle(": "gives 0 for negative numbers",
    "aten::where.ScalarOther(": "takes no number beside a float32 tensor",
    "aten::where.ScalarSelf(": "takes no number beside a float32 tensor",
}
_BUILT_IN: Final = {"int": "int", "float": "float", "bool": "bool", "str": "str", "len": "int"}
_TYPES: Final = {"Tensor": "Tensor", "int": "int", "float": "float", "bool": "bool", "str": "str", "NoneType": "None"}


@dataclass(frozen=True, slots=True)
class Archive:
    """The version and the code of an archive, by path, and its other records."""

    version: int
    code: Mapping[str, ast.Module]
    records: tuple[str, ...]


def read_archive(data: bytes) -> Archive:
    """Read an archive's code.

    Raises:
        InvalidPlan: it is none, or its code can't be read.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names = archive.namelist()
            inner = {name.partition("/")[2]: name for name in names}
            # Moved with file version 6, so that older readers find none and say so.
            version = int(archive.read(inner.get("version") or inner[".data/version"]))
            paths = [path for path in inner if path.startswith("code/") and path.endswith(".py")]
            if sum(archive.getinfo(inner[path]).file_size for path in paths) > _LARGEST_CODE:
                raise InvalidPlan(f"the TorchScript has more than {_LARGEST_CODE >> 20} MB of code")
            code = {path: _parse(archive.read(inner[path]).decode()) for path in paths}
    except InvalidPlan:
        raise
    except (
        KeyError,
        ValueError,
        SyntaxError,
        RecursionError,
        MemoryError,
        zipfile.BadZipFile,
        OSError,
        EOFError,
    ) as error:
        raise InvalidPlan(f"torchscript is not a readable TorchScript archive: {error}") from None
    if not code:
        raise InvalidPlan("torchscript holds no code")
    return Archive(version, code, tuple(inner))


def _parse(source: str) -> ast.Module:
    # TorchScript writes these numbers bare.
    return ast.parse(re.sub(r"(?<![\w.])(-?)(inf|nan)(?![\w(])", r'\1float("\2")', source))


def problems(archive: Archive, operators: Mapping[str, tuple[Schema, ...]], newest_version: int) -> list[str]:
    """What a runtime with these operators would stumble over; empty if it loads the archive."""
    found = []
    if archive.version > newest_version:
        found.append(f"it is written in file version {archive.version}; this runtime reads up to {newest_version}")
    debug = [name for name in archive.records if name.endswith(".debug_pkl")]
    if debug and archive.version > 3:
        found.append("it holds debug_pkl records of a new form: an error would end the app. Strip them")
    try:
        for module in archive.code.values():
            for definition in _definitions(module):
                found += _Judge(operators, *definition).judge()
    except RecursionError:
        found.append("its code is nested too deep to be judged")
    return list(dict.fromkeys(found))


def _definitions(module: ast.Module) -> Iterator[tuple[ast.FunctionDef, dict[str, str]]]:
    for node in module.body:
        if isinstance(node, ast.FunctionDef):
            yield node, {}
        elif isinstance(node, ast.ClassDef):
            attributes = {
                item.target.id: _declared(item.annotation)
                for item in node.body
                if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
            }
            yield from ((item, attributes) for item in node.body if isinstance(item, ast.FunctionDef))


def _declared(annotation: ast.expr | None) -> str:
    """A type as schemas write it."""
    if isinstance(annotation, ast.Constant) and annotation.value is None:
        return "None"
    if isinstance(annotation, ast.Name):
        return _TYPES.get(annotation.id, ANY)
    if isinstance(annotation, ast.Subscript) and isinstance(annotation.value, ast.Name):
        kind = annotation.value.id
        if kind == "List":
            return f"{_declared(annotation.slice)}[]"
        if kind == "Optional":
            return f"{_declared(annotation.slice)}?"
        if kind == "Tuple" and isinstance(annotation.slice, ast.Tuple):
            return f"({','.join(_declared(item) for item in annotation.slice.elts)})"
    return ANY


class _Judge:
    """Follows the types through one function and collects the calls that fit no schema."""

    def __init__(
        self, operators: Mapping[str, tuple[Schema, ...]], function: ast.FunctionDef, attributes: Mapping[str, str]
    ) -> None:
        self._operators = operators
        self._function = function
        self._attributes = attributes
        self._types = {arg.arg: _declared(arg.annotation) for arg in function.args.args}
        self._problems: list[str] = []

    def judge(self) -> list[str]:
        self._statements(self._function.body)
        return self._problems

    def _statements(self, statements: list[ast.stmt]) -> None:
        for statement in statements:
            self._statement(statement)

    def _statement(self, statement: ast.stmt) -> None:
        if isinstance(statement, ast.Assign):
            given = self._type(statement.value)
            for target in statement.targets:
                self._assign(target, given)
        elif isinstance(statement, ast.AnnAssign):
            if statement.value is not None:
                self._type(statement.value)
            self._assign(statement.target, _declared(statement.annotation))
        elif isinstance(statement, ast.If | ast.While):
            self._type(statement.test)
            self._statements(statement.body)
            self._statements(statement.orelse)
        elif isinstance(statement, ast.For):
            self._type(statement.iter)
            self._assign(statement.target, ANY)
            self._statements(statement.body)
        elif isinstance(statement, ast.Return | ast.Expr):
            if statement.value is not None:
                self._type(statement.value)
        elif not isinstance(statement, ast.Pass | ast.Raise | ast.Assert | ast.Break | ast.Continue):
            self._problems.append(f"its code holds a {type(statement).__name__}, which can't be judged")

    def _assign(self, target: ast.expr, given: str) -> None:
        if isinstance(target, ast.Name):
            self._types[target.id] = given
        elif isinstance(target, ast.Tuple):
            parts = given[1:-1].split(",") if given.startswith("(") and "[" not in given else []
            element = given[:-2] if given.endswith("[]") else ANY
            for index, item in enumerate(target.elts):
                self._assign(item, parts[index] if len(parts) == len(target.elts) else element)

    def _type(self, expression: ast.expr) -> str:
        match expression:
            case ast.Name(id=name):
                return self._types.get(name, ANY)
            case ast.Constant(value=value):
                return "None" if value is None else type(value).__name__
            case ast.UnaryOp(operand=operand):
                return self._type(operand)
            case ast.List(elts=items):
                elements = {self._type(item) for item in items}
                return "[]" if not items else f"{elements.pop()}[]" if len(elements) == 1 else f"{ANY}[]"
            case ast.Tuple(elts=items):
                return f"({','.join(self._type(item) for item in items)})"
            case ast.Attribute(value=ast.Name(id="self"), attr=name):
                return self._attributes.get(name, ANY)
            case ast.Attribute(value=ast.Name(id="CONSTANTS")):
                return "Tensor"
            case ast.Subscript(value=container):
                given = self._type(container)
                return given[:-2] if given.endswith("[]") and given != "[]" else ANY
            case ast.Call():
                return self._call(expression)
        for child in ast.iter_child_nodes(expression):
            if isinstance(child, ast.expr):
                self._type(child)
        return ANY

    def _call(self, call: ast.Call) -> str:
        match call.func:
            case ast.Name(id="annotate" | "unchecked_cast" | "uninitialized"):
                for argument in call.args[1:]:
                    self._type(argument)
                return _declared(call.args[0]) if call.args else ANY
            case ast.Attribute(value=ast.Name(id="torch"), attr=name):
                return self._operator(f"aten::{name}", call)
            case ast.Attribute(value=ast.Attribute(value=ast.Name(id="ops"), attr=space), attr=name):
                return self._operator(f"{space}::{name}", call)
        arguments = [self._type(argument) for argument in call.args]
        if isinstance(call.func, ast.Name):
            if call.func.id in _BUILT_IN and arguments:
                return _BUILT_IN[call.func.id]
        else:
            self._type(call.func)
        return ANY

    def _operator(self, name: str, call: ast.Call) -> str:
        args = [self._type(argument) for argument in call.args]
        keywords = {keyword.arg or "": self._type(keyword.value) for keyword in call.keywords}
        overloads = self._operators.get(name, ())
        if not overloads:
            self._problems.append(f"it has no operator {name}")
            return ANY
        for schema in overloads:
            if schema.mismatch(args, keywords) is None:
                if difference := next(
                    (why for start, why in _DIFFERENT.items() if schema.text.startswith(start)), None
                ):
                    self._problems.append(f"its operator {name} {difference}")
                return schema.returns[0] if len(schema.returns) == 1 else f"({','.join(schema.returns)})"
        given = ", ".join([*args, *(f"{key}: {value}" for key, value in keywords.items())])
        why = (
            f": {overloads[0].mismatch(args, keywords)}"
            if len(overloads) == 1
            else f" in any of its {len(overloads)} forms"
        )
        self._problems.append(f"its operator {name} does not take ({given}){why}")
        return ANY
