"""Notebooks without a kernel: their cells, in order, in one namespace and in their own folder."""

import contextlib
import json
from pathlib import Path

import pytest
from PIL import Image

from fcnseg.report.blocks import Table

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"
SHOWN = {"results.ipynb": {Table, Image.Image}, "predictions.ipynb": {Image.Image}}


def cells(name, kind):
    notebook = json.loads((NOTEBOOKS / name).read_text(encoding="utf-8"))
    return [cell for cell in notebook["cells"] if cell["cell_type"] == kind]


def test_all_of_them_are_tested():
    assert {path.name for path in NOTEBOOKS.glob("*.ipynb")} == SHOWN.keys()


@pytest.mark.parametrize("name", SHOWN)
def test_it_is_short_and_stripped(name):
    assert cells(name, "markdown")
    for cell in cells(name, "code"):
        assert cell["outputs"] == []
        assert cell["execution_count"] is None
        assert len(cell["source"]) <= 15
        assert not any(line.lstrip().startswith(("def ", "class ", "if ", "while ")) for line in cell["source"])


@pytest.fixture(scope="module")
def repository(tmp_path_factory, train_in):
    """A folder with a run in runs/, and notebooks/."""
    folder = tmp_path_factory.mktemp("repository")
    for name in ("runs", "notebooks"):
        (folder / name).mkdir()
    train_in(folder / "runs", "experiment=baseline", "trainer.max_epochs=2")  # one epoch has no curve
    return folder


@pytest.mark.parametrize("name", SHOWN)
def test_it_runs(name, repository, monkeypatch):
    monkeypatch.delenv("RUNS", raising=False)
    shown = []
    namespace = {"display": shown.append}
    with contextlib.chdir(repository / "notebooks"):
        for cell in cells(name, "code"):
            exec("".join(cell["source"]), namespace)
    kinds = {kind for kind in SHOWN[name] for one in shown if isinstance(one, kind)}
    assert kinds == SHOWN[name]
    assert all(min(one.size) > 100 for one in shown if isinstance(one, Image.Image))
