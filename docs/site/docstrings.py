"""Hooks of the Python reference: types as they were written, and sentences with colons left whole."""

import importlib
import re
from typing import Any

# types that Python spells out -> names that stand in the code
_ARRAY_LIKE = re.compile(r"~?[\w.]*\b_Buffer \| ~?[\w.]*_SupportsArray\[.*?bytes \| str\]")
_ARRAY = re.compile(
    r"~?numpy\.ndarray\[tuple\[~?(?:typing\.)?Any, \.\.\.\], ~?numpy\.dtype\[((?:[^\[\]]|\[[^\]]*\])*)\]\]"
)
_ANNOTATED = re.compile(r"~?typing\.Annotated\[([\w.~]+)(?:, [^\[\]]*)?\]")
_OBJECTS = (
    (re.compile(r"<class '(?:[\w.]*\.)?(\w+)'>"), r"\1"),
    (re.compile(r"<function (?:[\w.]*\.)?(\w+)(?: at 0x[0-9a-f]+)?>"), r"\1"),
    (re.compile(r"<factory>"), "..."),
)
_PATH = re.compile(r"(?<![\w.~])(?:\w+\.)+(?=\w)")


def shortened(text: str) -> str:
    """Types and defaults in the words of the code.

    >>> shortened("x: ~numpy.ndarray[tuple[~typing.Any, ...], ~numpy.dtype[~numpy.float64]] = <factory>")
    'x: NDArray[~numpy.float64] = ...'
    """
    text = _ARRAY_LIKE.sub("ArrayLike", text)
    text = _ARRAY.sub(r"NDArray[\1]", text)
    text = _ANNOTATED.sub(r"\1", text)
    for pattern, words in _OBJECTS:
        text = pattern.sub(words, text)
    return text


def _signature(
    app: Any, what: str, name: str, obj: object, options: Any, signature: str | None, returned: str | None
) -> tuple[str | None, str | None]:
    return signature and shortened(signature), returned and shortened(returned)


def _types_of_fields(app: Any, what: str, name: str, obj: object, options: Any, lines: list[str]) -> None:
    """Shorten the types of attributes, which stand in lines of their own behind the conversion of the docstring."""
    for place, line in enumerate(lines):
        head, colon, kind = line.partition(": ")
        if head.startswith(":vartype ") and colon:
            lines[place] = f"{head}: {_PATH.sub(lambda path: '~' + path[0], shortened(kind))}"


def _is_left_out(app: Any, what: str, name: str, obj: object, skip: bool, options: Any) -> bool | None:
    """Leave out what a library says of its own: fields of named tuples by number, the configuration of settings."""
    says = getattr(obj, "__doc__", None) or ""
    return True if name == "model_config" or says.startswith("Alias for field number") else None


def _returns(self: Any, *arguments: Any) -> list[tuple[str, str, list[str]]]:
    """Text of ``Returns`` as it is: it names no type, so what stands before a colon is no type."""
    return [("", "", self._dedent(self._consume_to_next_section()))]


def _inline(self: Any) -> tuple[str, list[str]]:
    """First paragraph of a property as it is, for the same reason."""
    text = [self._lines.next(), *self._dedent(self._consume_to_end())]
    return "", self.__class__(text, self._config).lines()


def _dashes(app: Any, tree: Any) -> None:
    """Set the dash between a parameter and its meaning, which Sphinx leaves to smart quotes."""
    text = importlib.import_module("docutils.nodes").Text
    for node in list(tree.findall(text)):
        if node == " -- ":
            node.parent.replace(node, text(" – "))


def setup(app: Any) -> dict[str, Any]:
    """Register the hooks; Sphinx is loaded here, so that its absence ends no test of this file."""
    docstring = importlib.import_module("sphinx.ext.napoleon").GoogleDocstring
    docstring._consume_returns_section = _returns
    docstring._consume_inline_attribute = _inline
    for field in importlib.import_module("sphinx.domains.python").PyObject.doc_field_types:
        if field.name == "variable":
            field.label = "Attributes"
    app.connect("autodoc-process-signature", _signature)
    app.connect("autodoc-process-docstring", _types_of_fields, priority=900)  # behind napoleon
    app.connect("autodoc-skip-member", _is_left_out)
    app.connect("doctree-read", _dashes)
    return {"parallel_read_safe": True, "parallel_write_safe": True, "version": "1"}
