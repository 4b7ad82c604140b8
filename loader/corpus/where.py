# SPDX-License-Identifier: Apache-2.0
"""A predicate over label columns: `quality >= 3 and domain in ["docs", "python"]`.

The text is parsed, never run: comparisons of a column with numbers or names of states, `in`, `and`,
`or`, `not`, and nothing else. Evaluated on whole columns. Names of states are turned into numbers
by `bind`, since only what is stored beside the shards knows them.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import ConfigError

Value = int | float | str
MAX_CHARS = 10_000

_OPERATORS = {
    ast.Eq: ("==", np.equal),
    ast.NotEq: ("!=", np.not_equal),
    ast.Lt: ("<", np.less),
    ast.LtE: ("<=", np.less_equal),
    ast.Gt: (">", np.greater),
    ast.GtE: (">=", np.greater_equal),
}
_APPLY = dict(_OPERATORS.values())
_MIRRORED = {"==": "==", "!=": "!=", "<": ">", "<=": ">=", ">": "<", ">=": "<="}
_LIMIT = 2**63
_MAX_DEPTH = 50


@dataclass(frozen=True)
class _Test:
    """A column against a value, or `in` against several."""

    column: str
    operator: str
    values: tuple[Value, ...]

    def text(self) -> str:
        shown = f"[{', '.join(map(repr, self.values))}]"
        return f"{self.column} {self.operator} " + (
            shown if "in" in self.operator else repr(self.values[0])
        )

    def mask(self, labels: Mapping[str, np.ndarray]) -> np.ndarray:
        column = labels[self.column]
        if self.operator in _APPLY:
            return _APPLY[self.operator](column, self.values[0])
        found = np.zeros(len(column), bool)
        for value in self.values:
            found |= column == value
        return found if self.operator == "in" else ~found


@dataclass(frozen=True)
class _Join:
    """`and`, `or` of several, `not` of one."""

    word: str
    parts: tuple[_Test | _Join, ...]

    def text(self) -> str:
        inner = [
            part.text() if isinstance(part, _Test) else f"({part.text()})" for part in self.parts
        ]
        return f"not {inner[0]}" if self.word == "not" else f" {self.word} ".join(inner)

    def mask(self, labels: Mapping[str, np.ndarray]) -> np.ndarray:
        masks = [part.mask(labels) for part in self.parts]
        if self.word == "not":
            return ~masks[0]
        return (np.logical_and if self.word == "and" else np.logical_or).reduce(masks)


class Where:
    """A predicate. Made by `parse`; equal where the text is.

    Attributes:
        text: It, written in one way whatever way it was given.
        columns: The label columns it reads, sorted.
        states: The names of states it uses, by column.
    """

    def __init__(self, root: _Test | _Join) -> None:
        self._root = root
        self.text = root.text()
        tests = list(_tests(root))
        self.columns = tuple(sorted({test.column for test in tests}))
        named: dict[str, set[str]] = {}
        for test in tests:
            for value in test.values:
                if isinstance(value, str):
                    named.setdefault(test.column, set()).add(value)
        self.states = {column: tuple(sorted(names)) for column, names in sorted(named.items())}

    @classmethod
    def parse(cls, text: str) -> Where:
        """Read a predicate.

        Raises:
            ConfigError: It is empty, not an expression, or more than comparisons of columns.
        """
        if not isinstance(text, str) or len(text) > MAX_CHARS:
            raise ConfigError(f"where: a text of at most {MAX_CHARS} characters is needed")
        try:
            tree = ast.parse(text.strip(), mode="eval")
            return cls(_read(tree.body))
        except ConfigError as error:
            raise ConfigError(f"where {text!r}: {error}") from None
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            why = getattr(error, "msg", None) or error
            raise ConfigError(
                f"where {text!r} cannot be read ({why}); write it like "
                "'quality >= 3 and domain in [0, 2]'"
            ) from None

    def bind(self, names: Mapping[str, Sequence[str]]) -> Where:
        """Return it with the names of states replaced by their numbers.

        Args:
            names: The states of columns, in the order of their numbers.

        Raises:
            ConfigError: A column has no names, or not that one.
        """
        return Where(_bind(self._root, names)) if self.states else self

    def mask(self, labels: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return which samples are wanted.

        Args:
            labels: The columns it reads, each [n].

        Returns:
            [n] bool.

        Raises:
            ConfigError: A column is missing, or names of states were not bound.
        """
        missing = [name for name in self.columns if name not in labels]
        if missing:
            held = ", ".join(labels) or "none"
            raise ConfigError(f"where {self.text!r}: no label column {missing[0]!r}; held: {held}")
        if self.states:
            column = next(iter(self.states))
            raise ConfigError(f"where {self.text!r}: the states of {column!r} have no names here")
        return np.asarray(self._root.mask(labels), bool)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Where) and other.text == self.text

    def __hash__(self) -> int:
        return hash(self.text)

    def __repr__(self) -> str:
        return f"Where.parse({self.text!r})"


def _read(node: ast.expr, depth: int = 0) -> _Test | _Join:
    if depth > _MAX_DEPTH:
        raise ConfigError(f"more than {_MAX_DEPTH} parentheses, one in another")
    if isinstance(node, ast.BoolOp):
        word = "and" if isinstance(node.op, ast.And) else "or"
        parts: list[_Test | _Join] = []
        for part in (_read(value, depth + 1) for value in node.values):
            flat = isinstance(part, _Join) and part.word == word
            parts += part.parts if flat and isinstance(part, _Join) else [part]
        return _Join(word, tuple(parts))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        return _Join("not", (_read(node.operand, depth + 1),))
    if isinstance(node, ast.Compare):
        sides = [node.left, *node.comparators]
        tests = [
            _compare(left, operator, right)
            for left, operator, right in zip(sides, node.ops, sides[1:], strict=False)
        ]
        return tests[0] if len(tests) == 1 else _Join("and", tuple(tests))
    raise ConfigError(f"{_shown(node)} is not a comparison of a label column")


def _compare(left: ast.expr, operator: ast.cmpop, right: ast.expr) -> _Test:
    if isinstance(operator, (ast.In, ast.NotIn)):
        if not isinstance(left, ast.Name) or not isinstance(right, (ast.List, ast.Tuple, ast.Set)):
            raise ConfigError(
                f"'in' stands between a column and a list, not before {_shown(right)}"
            )
        values = {_value(item) for item in right.elts}
        ordered = sorted(values, key=lambda value: (isinstance(value, str), value))
        return _Test(left.id, "in" if isinstance(operator, ast.In) else "not in", tuple(ordered))
    if type(operator) not in _OPERATORS:
        raise ConfigError("columns are compared with == != < <= > >= in, not in, and nothing else")
    sign = _OPERATORS[type(operator)][0]
    if isinstance(left, ast.Name) and not isinstance(right, ast.Name):
        return _Test(left.id, sign, (_value(right),))
    if isinstance(right, ast.Name) and not isinstance(left, ast.Name):
        return _Test(right.id, _MIRRORED[sign], (_value(left),))
    raise ConfigError(f"{_shown(left)} and {_shown(right)}: one must be a column, one a value")


def _value(node: ast.expr) -> Value:
    sign = 1
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.UAdd)):
        sign, node = (-1 if isinstance(node.op, ast.USub) else 1), node.operand
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            raise ConfigError(f"{_shown(node)} is a name, it has no sign")
    value = node.value if isinstance(node, ast.Constant) else None
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ConfigError(f"{_shown(node)} is neither a number nor the name of a state")
    if not math.isfinite(value) or abs(value) >= _LIMIT:
        raise ConfigError(f"{value} is no number that a label can have")
    number = sign * value
    return int(number) if number == int(number) else number


def _bind(node: _Test | _Join, names: Mapping[str, Sequence[str]]) -> _Test | _Join:
    if isinstance(node, _Join):
        return _Join(node.word, tuple(_bind(part, names) for part in node.parts))
    values = [_number(node.column, value, names) for value in node.values]
    return _Test(node.column, node.operator, tuple(values))


def _number(column: str, value: Value, names: Mapping[str, Sequence[str]]) -> Value:
    if not isinstance(value, str):
        return value
    known = list(names.get(column, ()))
    if not known:
        raise ConfigError(
            f"the states of {column!r} have no names here; use the number of {value!r}"
        )
    if value not in known:
        raise ConfigError(f"{column!r} has no state {value!r}; it has {', '.join(known[:20])}")
    return known.index(value)


def _tests(node: _Test | _Join) -> list[_Test]:
    if isinstance(node, _Test):
        return [node]
    return [test for part in node.parts for test in _tests(part)]


def _shown(node: Any) -> str:
    return repr(ast.unparse(node)[:60])
