"""The model card of a run: what was trained, on what, how to load it."""

from pathlib import Path

from satmip_data.pages import render
from satmip_train.runs.checkpoint import Checkpoint
from satmip_train.runs.cost import read_summary
from satmip_train.runs.log import Line, read_log


def model_card(run: Path, saved: Checkpoint, files: list[str]) -> str:
    """Return the card as Markdown with the front matter that the Hugging Face hub reads."""
    settings, dataset = saved["settings"], saved["dataset"]
    data = [
        ("source", dataset["source"] or "not stated"),
        ("licence of the data", dataset["licence"] or "not stated"),
        ("shards (sha256 over their hashes)", dataset["fingerprint"]),
        ("split", settings["split"]),
        ("metadata fields", ", ".join(saved["metadata"]["fields"]) if "metadata.safetensors" in files else "none"),
        ("steps of how many samples", f"{saved['step']:,} of {settings['batch_size']:,}"),
    ]
    return render("model.md", settings=settings, version=saved["versions"]["satmip"], files=files, data=data, knn=_knn(run))


def _knn(run: Path) -> list[tuple[str, Line]]:
    """Return the last and the best scores in training, none where there was no evaluation."""
    evaluated = [line["knn"] for line in read_log(run) if "knn" in line]
    best = read_summary(run).get("best")
    if not evaluated or best is None:
        return []
    return [("last", evaluated[-1]), (f"best, after {best['step']:,} steps", best)]
