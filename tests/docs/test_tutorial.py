"""Test that docs/tutorial.ipynb runs from its first to its last cell."""

import re

import nbclient
import nbformat
import pytest

from tests import harness

PATH = harness.ROOT / "docs/tutorial.ipynb"


def _cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def _printed(cell):
    return "".join(o.text for o in cell.outputs if o.get("name") == "stdout")


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """Return the notebook with its outputs, without the cell that installs packages."""
    notebook = nbformat.read(PATH, as_version=4)
    installing = [
        c for c in _cells(notebook) if "install" in c.metadata.get("tags", [])
    ]
    (cell,) = installing
    assert cell.source == "%pip install -q seeflower_jax"
    notebook.cells.remove(cell)
    folder = str(tmp_path_factory.mktemp("tutorial"))
    resources = {"metadata": {"path": folder}}
    client = nbclient.NotebookClient(notebook, timeout=600, resources=resources)
    return client.execute()


def test_head_is_accurate_and_the_export_predicts(executed):
    first, *_, last = map(_printed, _cells(executed))
    assert float(re.search(r"test top-1 (0\.\d+)", first).group(1)) > 0.85
    assert re.fullmatch(r"\w+ [01]\.\d\d\n", last)


def test_each_figure_is_drawn(executed):
    drawn = [
        any("image/png" in o.get("data", {}) for o in c.outputs)
        for c in _cells(executed)
    ]
    assert drawn == [False, True, True, True, False]


def test_outputs_of_the_page_are_small():
    notebook = nbformat.read(PATH, as_version=4)
    assert PATH.stat().st_size < 500_000
    assert all(o.get("name") != "stderr" for c in _cells(notebook) for o in c.outputs)
    assert "image/png" in str(notebook)
