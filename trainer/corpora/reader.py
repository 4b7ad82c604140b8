# SPDX-License-Identifier: Apache-2.0
"""The reader of local files: each text once, everything refused counted by reason.

Python files are read twice: as code, and as the docstrings found in it.
"""

import ast
import inspect
import warnings
from collections import Counter
from collections.abc import Iterator

from .documents import Document, SkippedError, cut_text, read_text, text_id
from .roots import DOCSTRING, DOMAINS, SourceFile

_MODULE_BYTES = 1 << 20
_SPARSE = 0.1
_BLOCKS = ("body", "handlers", "orelse", "finalbody", "cases")


class Reader:
    """Files to documents: each text once, everything refused counted."""

    def __init__(self, min_chars: int) -> None:
        self.min_chars = min_chars
        self.seen: set[str] = set()
        self.skipped: Counter[str] = Counter()

    def read(self, file: SourceFile) -> Document | None:
        """Return the file's document, or None where it is unusable or a duplicate."""
        try:
            if file.size_bytes < self.min_chars and not file.path.endswith(".gz"):
                raise SkippedError("short")
            text = self._text(file)
            if (new_id := text_id(text)) in self.seen:
                raise SkippedError("duplicate")
        except SkippedError as error:
            self.skipped[error.reason] += 1
            return None
        self.seen.add(new_id)
        return Document(text, DOMAINS.index(file.domain), file.package, new_id)

    def _text(self, file: SourceFile) -> str:
        """Text of a file in its domain."""
        if file.domain != DOCSTRING:
            return read_text(file.path, self.min_chars)
        code = read_text(file.path, self.min_chars, _MODULE_BYTES)
        # Parsing is dear: modules that are nearly all code are left to the python domain.
        if _quoted_chars(code) < max(self.min_chars, _SPARSE * len(code)):
            raise SkippedError("few_docstrings")
        text = cut_text(docstrings(code))
        if len(text.strip()) < self.min_chars:
            raise SkippedError("short")
        return text


def docstrings(code: str) -> str:
    """Return the docstrings of a module, its classes and functions, with an empty line between.

    Raises:
        SkippedError: 'unparsable'.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise SkippedError("unparsable") from None
    return "\n\n".join(_docstrings(tree))


def _docstrings(tree: ast.Module) -> Iterator[str]:
    """Docstrings in the order of the code; a stack, for code may nest deeper than calls."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    pending: list[ast.AST] = [tree]
    while pending:
        node = pending.pop()
        if isinstance(node, documented) and (text := ast.get_docstring(node, clean=False)):
            yield inspect.cleandoc(text)
        for block in reversed(_BLOCKS):
            pending.extend(reversed(getattr(node, block, ())))


def _quoted_chars(code: str) -> int:
    """Characters between triple quotes: no fewer than docstrings have, but for rare spellings."""
    return max(sum(map(len, code.split(quote)[1::2])) for quote in ('"""', "'''"))
