"""The model card of a run: what was trained, on what, how to load it."""

from pathlib import Path
from typing import Any

from satmip_train.runs.checkpoint import Checkpoint
from satmip_train.runs.cost import read_summary
from satmip_train.runs.log import read_log

_PAPER = "https://hal.science/hal-04709749"
_FRONT = """---
library_name: timm
tags: [image-feature-extraction, remote-sensing, satmip]
---"""
_LOAD = """```python
import json, timm
config = json.load(open("backbone.json"))
backbone = timm.create_model(config["model"], **config["args"], num_classes=0, checkpoint_path="backbone.safetensors")
```"""
_LOAD_METADATA = """```python
from satmip_train.export import load_metadata_encoder
encoder, config = load_metadata_encoder("metadata.safetensors")  # config["fields"]: what it reads
```"""

_LOAD_OPEN_CLIP = """```python
import open_clip
model, preprocess = open_clip.create_model_from_pretrained("local-dir:.")  # or "hf-hub:USER/MODEL"
tokenize = open_clip.get_tokenizer("local-dir:.")
"""
_MASK_PADDING = "model.text.use_pad_mask = True  # captions do not see their padding, for which open_clip's config has no word\n"


def model_card(run: Path, saved: Checkpoint, files: list[str]) -> str:
    """Return the card as Markdown with the front matter that the Hugging Face hub reads."""
    settings, dataset = saved["settings"], saved["dataset"]
    parts = [
        _FRONT,
        f"# {settings['objective']}, {settings['backbone']}",
        f"A backbone for satellite images, trained without labels by `{settings['objective']}` ([SatMIP, ECCV 2024]({_PAPER})) "
        f"with satmip {saved['versions']['satmip']}. Input: {settings['view_size']} x {settings['view_size']} pixels, normalized "
        "with the mean and std of `backbone.json`. Output: features.",
        f"Files: {', '.join(f'`{name}`' for name in files)}.",
        _LOAD,
        *([_LOAD_METADATA] if "metadata.safetensors" in files else []),
        *([_load_open_clip(settings)] if "open_clip_model.safetensors" in files else []),
        "## What it was trained on",
        _table(
            {
                "source": dataset["source"] or "not stated",
                "licence of the data": dataset["licence"] or "not stated",
                "shards (sha256 over their hashes)": dataset["fingerprint"],
                "split": settings["split"],
                "metadata fields": ", ".join(saved["metadata"]["fields"]) if "metadata.safetensors" in files else "none",
                "steps of how many samples": f"{saved['step']:,} of {settings['batch_size']:,}",
            }
        ),
        "Whether the licence of the data binds what is learned from them is for you to judge.",
        "## How good it is",
        _metrics(run),
        "## Settings",
        _table({name: value for name, value in settings.items() if value is not None}),
    ]
    return "\n\n".join(parts) + "\n"


def _load_open_clip(settings: dict[str, Any]) -> str:
    # Settings of checkpoints from before this one do not hold it.
    return f"{_LOAD_OPEN_CLIP}{'' if settings.get('text_attend_padding') else _MASK_PADDING}```"


def _metrics(run: Path) -> str:
    evaluated = [line for line in read_log(run) if "knn" in line]
    best = read_summary(run).get("best")
    if not evaluated or best is None:
        return "Not evaluated in training. `satmip-eval knn` and `satmip-eval linear` measure it."
    last = evaluated[-1]["knn"]
    rows = {"last": last, f"best, after {best['step']:,} steps": best}
    table = "| kNN on `val`, in training | macro-F1 | top-1 |\n| --- | --- | --- |\n" + "\n".join(
        f"| {name} | {scores['macro_f1']:.4f} | {scores['top1']:.4f} |" for name, scores in rows.items()
    )
    return f"{table}\n\nOn a part of the chips; the best was picked on the same split, so it is a little too good."


def _table(rows: dict[str, Any]) -> str:
    return "| | |\n| --- | --- |\n" + "\n".join(f"| {name} | `{value}` |" for name, value in rows.items())
