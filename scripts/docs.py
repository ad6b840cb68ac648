"""Write docs/scripts.md from the docstrings of the scripts.

    python -m scripts.docs

The page has the texts that `python -m scripts.NAME --help` prints before the flags. The
script needs a clone of the repository.
"""

import ast
import pathlib
import re

import scripts
from scripts import console

_ROOT = pathlib.Path(__file__).parent.parent
_PAGE = "docs/scripts.md"
_HEAD = """\
# Scripts

    python -m scripts.predict --help

`--help` prints the text of this page for one script, and lists its flags.
`python -m scripts.docs` writes this page.

- The result goes to stdout, as JSON with `--json`. Progress and errors go to stderr.
- A script that fails prints one line with the reason and exits with status 1. The
  status is 2 if the command line is wrong. `--debug` also prints the traceback.
- If a flag, config key, config file, run directory, network, method or class is
  mistyped, the line suggests a similar valid name.
- `predict` and `attribute` skip files that are not readable images. They name these
  files and exit with status 3.
- `--plugins=my_module` imports a module that registers networks, weight readers or
  attribution methods. See [extending.md](extending.md).
"""


def page() -> str:
    """Return docs/scripts.md: a section for each script, from its docstring."""
    return "\n".join([_HEAD, *(_section(name) for name in scripts.names())])


def _section(name: str) -> str:
    source = (_ROOT / "scripts" / f"{name}.py").read_text(encoding="utf-8")
    docstring = ast.get_docstring(ast.parse(source)) or ""
    lines = [
        line if line.startswith(" " * 4) else _escape(line)
        for line in docstring.splitlines()
    ]
    return "\n".join([f"## {name}", "", *lines, ""])


def _escape(line: str) -> str:
    """Escape characters outside of code that have a meaning in Markdown."""
    parts = line.split("`")
    parts[::2] = [re.sub(r"([<*\[])", r"\\\1", part) for part in parts[::2]]
    return "`".join(parts)


def main(_: list[str]) -> None:
    (_ROOT / _PAGE).write_text(page(), encoding="utf-8")
    console.show({"page": _PAGE}, _PAGE)


if __name__ == "__main__":
    console.run(main)
