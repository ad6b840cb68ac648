"""Add pages to the site that are not in docs/: the README and the API.

mkdocs.yml names this file as a hook of MkDocs.
"""

import pathlib
import re
from typing import Any

from mkdocs.structure.files import File, Files

_ROOT = pathlib.Path(__file__).parent.parent
_PAGES = {
    "README.md": "index.md",
    **{name: name for name in ("RESULTS.md", "CONTRIBUTING.md", "CHANGELOG.md")},
}


def on_config(config: Any) -> Any:
    """List a page of the API for each room."""
    for entry in config.nav:
        if "API" in entry:
            entry["API"] = [{room: f"api/{room}.md"} for room in _rooms()]
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add the pages of the folder above, and those of the API."""
    for name, uri in _PAGES.items():
        text = (_ROOT / name).read_text()
        content = re.sub(r"\]\((?:docs/)?README\.md", "](index.md", text)
        content = content.replace("](docs/", "](")
        files.append(File.generated(config, uri, content=content))
    for room in _rooms():
        package = f"seeflower_jax.{room}"
        content = f"::: {package}\n    options:\n      heading_level: 1\n"
        files.append(File.generated(config, f"api/{room}.md", content=content))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Let links to pages of the folder above point at their pages of the site."""
    return re.sub(r"\]\(\.\./(\w+\.md)", r"](\1", markdown)


def _rooms() -> list[str]:
    package = _ROOT / "seeflower_jax"
    return sorted(path.parent.name for path in package.glob("*/__init__.py"))
