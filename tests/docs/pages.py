"""Read the documentation pages and their commands."""

import re

from tests import harness

# docs/scripts.md is left out. tests/test_console.py checks its examples.
_PATHS = [
    harness.ROOT / "README.md",
    *(p for p in sorted((harness.ROOT / "docs").glob("*.md")) if p.stem != "scripts"),
]
PAGES = {str(path.relative_to(harness.ROOT)): path.read_text() for path in _PATHS}


def blocks_of(text: str) -> list[list[str]]:
    """Return the commands of each indented block, without line breaks and comments."""
    text = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    return [
        [
            " ".join(command.split("  # ")[0].split())
            for line in re.sub(r"\\\n", " ", block).strip().splitlines()
            for command in line.split(" && ")
        ]
        for block in re.findall(r"(?:^ {4}.*\n?)+", text, re.MULTILINE)
    ]


def blocks() -> list[list[str]]:
    """Return the blocks of all pages, each once."""
    found = [block for text in PAGES.values() for block in blocks_of(text)]
    return [block for i, block in enumerate(found) if block not in found[:i]]


def tables(text: str) -> list[tuple[list[str], list[list[str]]]]:
    """Return (header, rows) of each table: lists of cells."""
    found = []
    for table in re.findall(r"(?:^\|.*\|\n)+", text, re.MULTILINE):
        header, _, *rows = (
            [cell.strip(" `") for cell in line.strip("|\n").split("|")]
            for line in table.splitlines()
        )
        found.append((header, rows))
    return found
