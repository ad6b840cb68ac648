"""Show the code in docstrings as code on the site.

mkdocs.yml names this file as an extension of Griffe, which reads the docstrings. Griffe
takes `Examples:` for code, and the docstrings of this project have `Example:`. The
docstrings of modules have code that is not indented.
"""

import ast
import re
import textwrap
from typing import Any

import griffe


def _is_code(paragraph: str) -> bool:
    """Return whether a paragraph is code; no sentence is a statement of Python."""
    try:
        return bool(ast.parse(paragraph).body)
    except SyntaxError:
        return False


class Examples(griffe.Extension):
    """Mark code in docstrings."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Change the docstring of an object that was read."""
        if not obj.docstring:
            return
        text = re.sub(r"^Example:$", "Examples:", obj.docstring.value, flags=re.M)
        if obj.is_module:
            paragraphs = text.split("\n\n")
            text = "\n\n".join(
                textwrap.indent(part, "    ") if _is_code(part) else part
                for part in paragraphs
            )
        obj.docstring.value = text
