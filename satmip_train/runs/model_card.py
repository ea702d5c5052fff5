"""The model card of a run: what was trained, on what, how to load it."""

from pathlib import Path

from satmip_data.pages import render
from satmip_train.runs.checkpoint import Checkpoint
from satmip_train.runs.cost import read_summary
from satmip_train.runs.log import Line, read_log


def model_card(run: Path, saved: Checkpoint, files: list[str], repository: str | None = None) -> str:
    """Return the card as Markdown with the front matter that the Hugging Face hub reads.

    Args:
        run: its folder
        saved: its last checkpoint
        files: what was exported, relative to the folder
        repository: of the hub, where the card's code shall look for the files; None: in the working folder
    """
    settings, dataset, fields = saved["settings"], saved["dataset"], ", ".join(saved["metadata"]["fields"])
    hub = None if repository is None else f"hf-hub:{repository}"
    data = [
        ("source", dataset["source"] or "not stated"),
        ("licence of the data", dataset["licence"] or "not stated"),
        ("shards (sha256 over their hashes)", dataset["fingerprint"]),
        ("split", settings["split"]),
        ("metadata fields", fields if "metadata.safetensors" in files else "none"),
        ("steps of how many samples", f"{saved['step']:,} of {settings['batch_size']:,}"),
    ]
    version = saved["versions"]["satmip"]
    return render("model.md", settings=settings, version=version, files=files, hub=hub, fields=fields, data=data, knn=_knn(run))


def _knn(run: Path) -> list[tuple[str, Line]]:
    """Return the last and the best scores in training, none where there was no evaluation."""
    evaluated = [line["knn"] for line in read_log(run) if "knn" in line]
    best = read_summary(run).get("best")
    if not evaluated or best is None:
        return []
    return [("last", evaluated[-1]), (f"best, after {best['step']:,} steps", best)]
