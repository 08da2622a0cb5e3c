"""The notebooks run from top to bottom, in a kernel of their own, and are kept without outputs."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from tests.doors.conftest import ROOT, Folder

pytestmark = [
    pytest.mark.ray,
    pytest.mark.timeout(180),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of Jupyter's own packages
]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
LAST_WORDS = {
    "quickstart": [
        "In Bergen live 291,940 people.",
        "messages before this one",
        "version 2 has no time for 'Hello?'",
    ],
    "swarm": ["50 answers, for example: place 7 is worth a visit"],
}


def printed(notebook: Any) -> str:
    outputs = [each for cell in notebook.cells for each in cell.get("outputs", ())]
    return "".join(each.get("text", "") for each in outputs)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path, folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    nbformat: Any = pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    nbclient: Any = import_module("nbclient")
    monkeypatch.setenv("RAY_AGENTS_STORE", folder.settings.store)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    notebook = nbformat.read(path, as_version=4)
    nbclient.NotebookClient(notebook, timeout=90, resources=_in(folder.path)).execute()
    for words in LAST_WORDS[path.stem]:
        assert words in printed(notebook)


def _in(folder: Path) -> dict[str, dict[str, str]]:
    return {"metadata": {"path": str(folder)}}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_without_outputs(path: Path) -> None:
    cells = json.loads(path.read_text())["cells"]
    assert [each["outputs"] for each in cells if each.get("outputs")] == []
