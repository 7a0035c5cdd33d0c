"""English prose and code out of a package's files: docstrings, descriptions, documentation; sources."""

from __future__ import annotations

import ast
import email
import gc
import inspect
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

LONG_CHARACTERS = 600  # A docstring of this length is a document of its own.
JOINED_CHARACTERS = 4_000  # Shorter ones of a module are joined up to about this length.
CODE_CHARACTERS = 50_000  # Longer sources are split between top-level statements.
LETTERS_LEAST = 0.75  # Share of letters and spaces that makes a .txt file prose and not a table.

GENERATED = re.compile(rb"auto[- ]?generated|generated (by|from|with)|do not edit", re.IGNORECASE)
GENERATED_SEEN_BYTES = 600
Blocks = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.If | ast.Try | ast.With
Documented = ast.Module | ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def prose_documents(path: str, content: bytes) -> Iterator[tuple[str, str]]:
    """(name inside the file, text) of every document in a package's file. Raises ValueError for undecodable files."""
    if path.endswith(".py"):
        yield from _docstring_documents(content)
        return
    text = content.decode()
    if path.endswith("/METADATA"):
        text = str(email.message_from_string(text).get_payload())
    if _is_prose(text):
        yield "", text.strip()


def code_documents(content: bytes) -> Iterator[tuple[str, str]]:
    """A source file as one document, or as several where it is very long. Raises ValueError for undecodable files."""
    if is_generated(content):
        return
    pieces = _pieces(content.decode().replace("\r\n", "\n"))
    for number, piece in enumerate(pieces):
        yield (f"part-{number}" if number else "", piece)


def is_generated(content: bytes) -> bool:
    """True where the head of a file says that a program wrote it."""
    return bool(GENERATED.search(content[:GENERATED_SEEN_BYTES]))


def docstrings(content: bytes) -> Iterator[tuple[str, str]]:
    """(dotted name, cleaned docstring) of the module, its classes and functions, in source order.

    Only bodies are entered, never expressions: parsing is then nearly all of the cost. Raises ValueError (SyntaxError
    is one's cousin and turned into it) where the file is not Python of this version.
    """
    with _without_collector(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            tree = ast.parse(content)
        except (SyntaxError, RecursionError, MemoryError) as error:
            raise ValueError(f"not Python: {error}") from None
        yield from _walk(tree, "")


def _walk(node: Documented | Blocks, name: str) -> Iterator[tuple[str, str]]:
    body = node.body
    if isinstance(node, Documented) and body and isinstance(body[0], ast.Expr):
        value = body[0].value
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            yield name, inspect.cleandoc(value.value)
    for child in [*body, *getattr(node, "orelse", [])]:
        if isinstance(child, ast.If | ast.Try | ast.With):
            yield from _walk(child, name)
        elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield from _walk(child, f"{name}.{child.name}" if name else child.name)


def _docstring_documents(content: bytes) -> Iterator[tuple[str, str]]:
    """Long docstrings one by one; the short ones of the module joined, each ended by a blank line."""
    if b'"""' not in content and b"'''" not in content:
        return
    short: list[str] = []
    joined = size = 0
    for name, text in docstrings(content):
        if len(text) >= LONG_CHARACTERS:
            yield name, text
            continue
        short.append(text)
        size += len(text)
        if size >= JOINED_CHARACTERS:
            yield f"short-{joined}", "\n\n".join(short)
            short, joined, size = [], joined + 1, 0
    if short:
        yield f"short-{joined}", "\n\n".join(short)


def _pieces(text: str) -> Iterator[str]:
    """Cuts a long source before top-level statements that follow a blank line."""
    if len(text) <= CODE_CHARACTERS:
        yield text
        return
    held: list[str] = []
    size = 0
    for statement in re.split(r"(?<=\n)\n(?=[^\s#)\]}])", text):
        if held and size + len(statement) > CODE_CHARACTERS:
            yield "\n".join(held)
            held, size = [], 0
        held.append(statement)
        size += len(statement) + 1
    yield "\n".join(held)


def _is_prose(text: str) -> bool:
    letters = sum(character.isalpha() or character.isspace() for character in text)
    return bool(text) and letters / len(text) >= LETTERS_LEAST


@contextmanager
def _without_collector() -> Iterator[None]:
    """Parsing makes millions of objects and no cycles; collecting among them costs three quarters of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
