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
_EMBED = """```python
import satmip_train
from PIL import Image

encoder = satmip_train.load("{home}")
image = Image.new("RGB", (224, 224))  # or an array (H, W, 3) of bytes, or the path of a file
vectors = encoder.embed([image])  # float32, a row for each image
```"""
_COMPARE = """```python
record = {{"timestamp": "2016-05-01T10:30:00Z", "gsd": [0.5, 0.5]}}  # of these fields it reads: {fields}
similarities = encoder.similarity([image], [record])  # cosines, images x records
```"""
_TIMM = """With timm alone, the same vectors (`transform(image)`, without `to_tensor`, rounds resized pixels to 8 bits):

```python
import timm
from torchvision.transforms.functional import to_tensor

backbone = timm.create_model("{timm}", pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(backbone))
features = backbone(transform(to_tensor(image))[None])
```"""
_OPEN_CLIP = """```python
import open_clip

model, preprocess = open_clip.create_model_from_pretrained("{open_clip}")
tokenize = open_clip.get_tokenizer("{open_clip}")
"""
_MASK_PADDING = "model.text.use_pad_mask = True  # captions do not see their padding, for which open_clip's config has no word\n"


def model_card(run: Path, saved: Checkpoint, files: list[str], repository: str | None = None) -> str:
    """Return the card as Markdown with the front matter that the Hugging Face hub reads.

    Args:
        run: its folder
        saved: its last checkpoint
        files: what was exported, relative to the folder
        repository: of the hub, where the card's code shall look for the files; None: in the working folder
    """
    settings, dataset = saved["settings"], saved["dataset"]
    hub = None if repository is None else f"hf-hub:{repository}"
    fields = ", ".join(saved["metadata"]["fields"])
    parts = [
        _FRONT,
        f"# {settings['objective']}, {settings['backbone']}",
        f"A backbone for satellite images, trained without labels by `{settings['objective']}` ([SatMIP, ECCV 2024]({_PAPER})) "
        f"with satmip {saved['versions']['satmip']}. Input: {settings['view_size']} x {settings['view_size']} pixels, normalized "
        "with the mean and std of `backbone.json`. Output: features.",
        f"Files: {', '.join(f'`{name}`' for name in files)}.",
        _EMBED.format(home=hub or "."),
        *([_COMPARE.format(fields=fields)] if "projections.safetensors" in files else []),
        _TIMM.format(timm=hub or "local-dir:timm"),
        *([_load_open_clip(settings, hub)] if "open_clip_model.safetensors" in files else []),
        "## What it was trained on",
        _table(
            {
                "source": dataset["source"] or "not stated",
                "licence of the data": dataset["licence"] or "not stated",
                "shards (sha256 over their hashes)": dataset["fingerprint"],
                "split": settings["split"],
                "metadata fields": fields if "metadata.safetensors" in files else "none",
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


def _load_open_clip(settings: dict[str, Any], hub: str | None) -> str:
    # Settings of checkpoints from before this one do not hold it.
    mask = "" if settings.get("text_attend_padding") else _MASK_PADDING
    return f"{_OPEN_CLIP.format(open_clip=hub or 'local-dir:.')}{mask}```"


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
