"""The notebooks run from top to bottom, on the run of `make demo` where it is there, else on one of two steps."""

from pathlib import Path

import pytest
from click.testing import CliRunner
from helpers.doc_blocks import ROOT

from satmip_data.cli.commands import main as data
from satmip_train.cli.train import main as train

NOTEBOOKS = sorted((ROOT / "docs/notebooks").glob("*.ipynb"))


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Return shards of the demo world and a run on them."""
    out = ROOT / "out"
    if (out / "runs/satmips/projections.safetensors").is_file() and (out / "shards/dataset.json").is_file():
        return str(out / "shards"), str(out / "runs/satmips")
    folder = tmp_path_factory.mktemp("demo")
    world, shards, run = (str(folder / name) for name in ("world", "shards", "run"))
    words = ["--recipe", "demo", "--max-steps", "2", "--batch-size", "8", "--workers", "0", "--view-size", "32"]
    for command, arguments in (
        (data, ["demo", world, "--places", "24", "--workers", "1"]),
        (data, ["build", world, shards, "--size", "32", "--workers", "1"]),
        (train, ["--shards", shards, *words, "--out", run]),
    ):
        assert CliRunner().invoke(command, arguments, catch_exceptions=False).exit_code == 0
    return shards, run


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path, demo: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    nbclient = pytest.importorskip("nbclient")
    nbformat = pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    monkeypatch.setenv("SATMIP_SHARDS", demo[0])
    monkeypatch.setenv("SATMIP_RUN", demo[1])
    notebook = nbformat.read(path, as_version=4)
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(path.parent)}}).execute()
    printed = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert any(output.output_type == "display_data" and "image/png" in output.data for output in printed)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_stored_without_outputs(path: Path) -> None:
    import json

    cells = json.loads(path.read_text())["cells"]
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)
