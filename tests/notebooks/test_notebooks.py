"""Every notebook runs from top to bottom, in a temporary folder."""

import ast
import os
import re
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

sys.path.insert(0, str(Path(__file__).parents[1] / "readme"))
from snippets import Shrink

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
pytestmark = [  # warnings of Jupyter about its folders, and about threads that outlive the kernel
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


@pytest.fixture
def jupyter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the working folder of a kernel that imports the package of this repository."""
    for name in ("JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "IPYTHONDIR"):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    inherited = os.environ.get("PYTHONPATH")
    folders = [str(ROOT), str(ROOT / "envs"), *([inherited] if inherited else [])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(folders))
    monkeypatch.delenv("PYTHONWARNINGS", raising=False)  # the kernel has the warnings of a user
    work = tmp_path / "work"
    work.mkdir()
    return work


def execute(notebook: nbformat.NotebookNode, work: Path) -> None:
    """Run all cells and check that a picture was drawn.

    Raises:
        CellExecutionError: at the first cell that fails.
    """
    client = NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(work)}}
    )
    client.execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert any("image/png" in output.get("data", {}) for output in outputs)


def test_the_quickstart_runs_on_a_small_budget(jupyter: Path) -> None:
    notebook = nbformat.read(ROOT / "notebooks" / "01_quickstart.ipynb", as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.source = ast.unparse(Shrink().visit(ast.parse(cell.source)))
    execute(notebook, jupyter)


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_runs(path: Path, jupyter: Path) -> None:
    execute(nbformat.read(path, as_version=4), jupyter)


def test_all_are_stored_tidily() -> None:
    """They contain no local paths, errors or large pictures."""
    assert NOTEBOOKS
    for path in NOTEBOOKS:
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
        assert path.stat().st_size < 600_000, path.name
        text = re.sub(r'"image/png": "[^"]*"', "", path.read_text(encoding="utf-8"))
        assert not re.search(r"/(?:home|root|Users|tmp|work)/", text), path.name
        for cell in notebook.cells:
            assert all(output.output_type != "error" for output in cell.get("outputs", []))
