"""Finds every error code in the source, with message, remedy and module, without running anything.

A code is a string literal such as ``"E0312"`` that a call takes as its argument ``code``. Message and remedy are what
the same call takes as ``message`` and ``help``; names, conditions and parameters are followed back to the texts they
stand for. Where a call only hands a code on, its texts are those of the function called. What is known at run time
only shows as ``…``. Start at `scan_package`.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_CODE = re.compile(r"[EWI]\d{4}")
_UNKNOWN = "…"
_MAX_DEPTH = 5

_TEXT_NODES = (ast.Constant, ast.JoinedStr, ast.IfExp)

Texts = tuple[str, str]
"""Message and remedy."""


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class CodeUse:
    """One message of one code; ordered by code, module and message.

    Args:
        code: such as ``E0312``.
        module: below ``ai8x``, dotted.
        message: with ``…`` for what is known at run time only; empty where the scan cannot see it.
        help: remedy, likewise.
        level: ``error``, ``warning`` or ``notice``.
    """

    code: str
    module: str
    message: str
    help: str
    level: str = "error"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Callee:
    """What calls of a function or class look like.

    Args:
        parameters: names in order, without ``self``.
        default_code: code of calls that give none, or empty.
    """

    parameters: tuple[str, ...]
    default_code: str


def scan_package(folder: Path) -> tuple[CodeUse, ...]:
    """Every use of every code below a folder, sorted, each once.

    Args:
        folder: of the package.
    """
    trees = {".".join(path.relative_to(folder).with_suffix("").parts): ast.parse(path.read_text(encoding="utf-8"))
             for path in sorted(folder.rglob("*.py"))}
    callees = {name: callee for tree in trees.values() for name, callee in _callees(tree)
               if "code" in callee.parameters}
    scans = [_Module(module, tree, callees) for module, tree in trees.items()]
    forwarded = {name: texts for scan in scans for name, texts in scan.forwarded_texts().items()}
    return tuple(sorted({use for scan in scans for use in scan.uses(forwarded)}))


def shared_codes(uses: Iterable[CodeUse]) -> dict[str, tuple[str, ...]]:
    """Codes that several modules use with different messages -> those modules."""
    messages: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for use in uses:
        messages[use.code][use.module].add(use.message)
    return {code: tuple(sorted(modules)) for code, modules in sorted(messages.items())
            if len({frozenset(texts) for texts in modules.values()}) > 1}


def codes_in(function: Callable[..., Any]) -> str:
    """Codes in a function's source and in the functions of its package that it calls, separated by commas."""
    package = function.__module__.rpartition(".")[0]
    found: set[str] = set()
    pending, seen = [function], {function}
    while pending:
        current = pending.pop()
        tree = ast.parse(textwrap.dedent(inspect.getsource(current)))
        found.update(str(node.value) for node in ast.walk(tree)
                     if isinstance(node, ast.Constant) and _is_code(node.value))
        for name in {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}:
            other = getattr(inspect.getmodule(current), name, None)
            if inspect.isfunction(other) and other.__module__.startswith(package) and other not in seen:
                seen.add(other)
                pending.append(other)
    return ", ".join(sorted(found))


def _is_code(value: object) -> bool:
    return isinstance(value, str) and _CODE.fullmatch(value) is not None


def _callees(tree: ast.Module) -> Iterator[tuple[str, _Callee]]:
    """Functions, methods and classes with an ``__init__``, by the name that a call uses."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name != "__init__":
            yield node.name, _callee_of(node)
        elif isinstance(node, ast.ClassDef):
            for item in node.body:
                if isinstance(item, ast.FunctionDef) and item.name == "__init__":
                    yield node.name, _callee_of(item)


def _callee_of(node: ast.FunctionDef) -> _Callee:
    positional = [*node.args.posonlyargs, *node.args.args]
    defaults = dict(zip([argument.arg for argument in positional[::-1]], node.args.defaults[::-1], strict=False))
    keyword_only = zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
    defaults |= {argument.arg: value for argument, value in keyword_only if value is not None}
    code = defaults.get("code")
    names = tuple(argument.arg for argument in (*positional, *node.args.kwonlyargs) if argument.arg != "self")
    return _Callee(parameters=names, default_code="".join(_codes_of(code)) if code is not None else "")


@dataclass(frozen=True, slots=True)
class _Call:
    """A call with the function that it stands in (the module itself at top level)."""

    node: ast.Call
    scope: ast.AST


class _Module:
    """The scan of one module.

    Args:
        name: dotted, below the package.
        tree: its source.
        callees: functions of all modules that take a code.
    """

    def __init__(self, name: str, tree: ast.Module, callees: Mapping[str, _Callee]) -> None:
        self._name = name
        self._tree = tree
        self._callees = {**callees, **dict(_callees(tree))}
        self._functions = {node.name: node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        scopes = (*(node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)), tree)
        self._calls = [_Call(node, scope) for scope in scopes for node in _own_nodes(scope)
                       if isinstance(node, ast.Call)]

    def forwarded_texts(self) -> dict[str, tuple[Texts, ...]]:
        """Function -> texts of the calls in it whose code is a variable."""
        found: dict[str, list[Texts]] = defaultdict(list)
        for call in self._calls:
            code = self._arguments(call.node).get("code")
            if isinstance(call.scope, ast.FunctionDef) and code is not None and not _codes_of(code):
                found[call.scope.name] += [texts for texts in self._texts(call, 0, 1) if texts[0]]
        return {name: tuple(texts) for name, texts in found.items() if texts}

    def uses(self, forwarded: Mapping[str, tuple[Texts, ...]]) -> Iterator[CodeUse]:
        """Every code of the module.

        Args:
            forwarded: function -> texts of the codes that it is given.
        """
        placed: set[int] = set()
        for call in self._calls:
            code = self._code_argument(call.node)
            codes = _codes_of(code) if code is not None else []
            if code is not None:
                placed.update(id(part) for part in ast.walk(code))
            callee = self._callees.get(_called_name(call.node))
            if code is None and callee is not None and callee.default_code:
                codes = [callee.default_code]
            for index, word in enumerate(codes):
                texts = self._texts(call, index, len(codes)) or forwarded.get(_called_name(call.node), ())
                yield from self._uses(word, texts, self._level(call.node))
        yield from self._loose_uses(placed, forwarded)

    def _loose_uses(self, placed: set[int], forwarded: Mapping[str, tuple[Texts, ...]]) -> Iterator[CodeUse]:
        """Codes in tables, which a loop of the same function hands to a call."""
        for function in self._functions.values():
            ignored = {id(part) for node in ast.walk(function) if isinstance(node, ast.Compare | ast.arguments)
                       for part in ast.walk(node)}
            for node in _own_nodes(function):
                if isinstance(node, ast.Constant) and _is_code(node.value) and id(node) not in placed | ignored:
                    yield from self._uses(str(node.value), forwarded.get(function.name, ()), "error")

    def _uses(self, code: str, texts: Iterable[Texts], level: str) -> Iterator[CodeUse]:
        for message, help_text in texts or (("", ""),):
            yield CodeUse(code=code, module=self._name, message=message, help=help_text, level=level)

    def _level(self, node: ast.Call) -> str:
        given = self._arguments(node).get("level")
        return str(given.value) if isinstance(given, ast.Constant) else "error"

    def _arguments(self, node: ast.Call) -> dict[str, ast.expr]:
        """Parameter name -> argument, as far as the callee's parameters are known."""
        callee = self._callees.get(_called_name(node))
        bound = dict(zip(callee.parameters, node.args, strict=False)) if callee else {}
        return bound | {keyword.arg: keyword.value for keyword in node.keywords if keyword.arg}

    def _code_argument(self, node: ast.Call) -> ast.expr | None:
        code = self._arguments(node).get("code")
        return code if code is not None else next((part for part in node.args if _codes_of(part)), None)

    def _texts(self, call: _Call, index: int, count: int) -> list[Texts]:
        """Messages with their remedy, for the code number `index` of `count` that a condition chooses from."""
        arguments = self._arguments(call.node)
        message = arguments.get("message")
        if message is None:
            code = self._code_argument(call.node)
            behind = call.node.args[call.node.args.index(code) + 1:] if code in call.node.args else []
            message = next((part for part in behind if isinstance(part, _TEXT_NODES)), None)
        messages = self._templates(message, call.scope, nearest_to=call.node.lineno if count > 1 else None)
        if count > 1 and len(messages) == count:
            messages = [messages[index]]
        remedy = " / ".join(self._templates(arguments.get("help"), call.scope))
        return [(text, remedy) for text in messages]

    def _templates(self, node: ast.expr | None, scope: ast.AST, depth: int = 0, *,
                   nearest_to: int | None = None) -> list[str]:
        """The texts that an expression can give; none where it is no text that the source shows."""
        if depth > _MAX_DEPTH:
            return []
        match node:
            case ast.Constant(value=str(text)) if text:
                return [text]
            case ast.JoinedStr(values=values):
                return self._concatenate([_condition_in(part) or part for part in values], scope, depth)
            case ast.BinOp(left=left, op=ast.Add(), right=right):
                return self._concatenate([left, right], scope, depth)
            case ast.Name(id=name):
                return self._variable(name, scope, depth, nearest_to)
        return [text for part, place in self._alternatives(node, scope)
                for text in self._templates(part, place, depth + 1)]

    def _alternatives(self, node: ast.expr | None, scope: ast.AST) -> list[tuple[ast.expr | None, ast.AST]]:
        """Expressions of which one gives the value, with their scopes: arms of a condition, results of a function."""
        if isinstance(node, ast.IfExp):
            return [(node.body, scope), (node.orelse, scope)]
        if isinstance(node, ast.Call) and (function := self._functions.get(_called_name(node))):
            return [(part.value, function) for part in _own_nodes(function) if isinstance(part, ast.Return)]
        return []

    def _concatenate(self, parts: Iterable[ast.expr], scope: ast.AST, depth: int) -> list[str]:
        texts = [""]
        for part in parts:
            endings = self._templates(part, scope, depth + 1) or [_UNKNOWN]
            texts = [text + ending for text in texts for ending in endings]
        return texts

    def _variable(self, name: str, scope: ast.AST, depth: int, nearest_to: int | None) -> list[str]:
        """What a name stands for: assignments in the function, arguments of its calls, or a constant of the module."""
        if isinstance(scope, ast.FunctionDef) and name in _callee_of(scope).parameters:
            return [text for call in self._calls if _called_name(call.node) == scope.name
                    for text in self._templates(self._arguments(call.node).get(name), call.scope, depth + 1)]
        assigned = _assignments(scope, name)
        if not assigned:
            scope = self._tree
            assigned = _assignments(scope, name)
        if nearest_to is not None:
            assigned = [part for part in assigned if part.lineno <= nearest_to][-1:]
        return [text for part in assigned for text in self._templates(part, scope, depth + 1)]


def _assignments(scope: ast.AST, name: str) -> list[ast.expr]:
    """Values that a function or module assigns to a name."""
    values = []
    for node in _own_nodes(scope):
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if any(isinstance(target, ast.Name) and target.id == name for target in targets):
                values.append(node.value)
    return values


def _condition_in(part: ast.expr) -> ast.IfExp | None:
    """The condition that a part of an f-string shows the result of."""
    return part.value if isinstance(part, ast.FormattedValue) and isinstance(part.value, ast.IfExp) else None


def _codes_of(node: ast.expr) -> list[str]:
    """Codes that an argument names: one, or one of two by a condition."""
    if isinstance(node, ast.IfExp):
        return [*_codes_of(node.body), *_codes_of(node.orelse)]
    return [str(node.value)] if isinstance(node, ast.Constant) and _is_code(node.value) else []


def _called_name(call: ast.Call) -> str:
    match call.func:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
    return ""


def _own_nodes(scope: ast.AST) -> Iterator[ast.AST]:
    """Nodes of a function or module without those of the functions inside it."""
    for child in ast.iter_child_nodes(scope):
        if not isinstance(child, ast.FunctionDef):
            yield child
            yield from _own_nodes(child)
