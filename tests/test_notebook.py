"""The notebook runs from its first cell to its last, and is kept without outputs.

    python -m pytest tests/test_notebook.py -m "slow or not slow"

Needs requirements-notebook.txt.
"""

import re
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed")
PATH = Path(__file__).parent.parent / "notebooks/text_sketch.ipynb"


@pytest.fixture
def notebook():
    return nbformat.read(PATH, as_version=4)


def test_it_is_kept_without_outputs(notebook):
    nbformat.validate(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == [] and cell.execution_count is None


@pytest.mark.slow
def test_it_runs(notebook, monkeypatch):
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed")
    pytest.importorskip("ipykernel", reason="ipykernel is not installed")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    client = nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3")
    client.execute(cwd=str(PATH.parent))
    pictures, texts = 0, ""
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            texts += output.get("text", "")
            pictures += "image/png" in output.get("data", {})
    assert pictures >= 5  # of the photograph, the layers, each alone, the edits, the curve
    assert "bits per pixel" in texts and re.search(r"prompt: \w+", texts)
