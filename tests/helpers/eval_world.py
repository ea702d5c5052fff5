"""Small finished runs on toy shards, as satmip-train leaves them, with random weights drawn from their seed."""

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from click.testing import CliRunner, Result

from helpers.toy_shards import _write_tar, write_dataset_json
from satmip_train.cli.evaluate import main
from satmip_train.config import Settings
from satmip_train.data.dataset import open_dataset
from satmip_train.distributed import Job
from satmip_train.objectives import build_objective
from satmip_train.runs import checkpoint
from satmip_train.runs.export import export_run
from satmip_train.training.plan import describe_dataset, describe_metadata, plan_run

SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 1, "num_heads": 2}
TINY = {
    "backbone_args": SMALL, "view_size": 32, "text_layers": 1, "text_width": 32, "text_heads": 4, "tabular_layers": 1,
    "tabular_width": 32, "tabular_heads": 4, "embed_dim": 24, "ssl_hidden": 40, "ssl_dim": 20, "batch_size": 8,
}  # fmt: skip
COMMON = ["--workers", "0", "--device", "cpu"]


def write_run(folder: Path, shards: Path, **settings: object) -> Path:
    """Write what a finished run leaves."""
    chosen = Settings.model_validate({**TINY, **settings})
    dataset = open_dataset(shards)
    plan = plan_run(chosen, dataset, Job(torch.device("cpu")))
    torch.manual_seed(100 + 10 * len(chosen.objective) + chosen.seed)
    state = {
        "model": build_objective(chosen, plan.shape).state_dict(), "optimizer": {}, "scaler": {}, "step": 7, "ranks": 1,
        "settings": chosen.model_dump(mode="json"), "metadata": describe_metadata(plan), "dataset": describe_dataset(dataset),
        "best": None, "versions": checkpoint.versions(),
    }  # fmt: skip
    checkpoint.save(folder, state)
    export_run(folder)
    return folder


def as_multilabel(shards: Path) -> Path:
    """Give each sample the labels 0..2, each with a chance that its class decides, instead of its class; there are 4 classes."""
    rng = np.random.default_rng(0)

    def change(name: str, content: bytes) -> tuple[str, bytes]:
        if not name.endswith(".cls"):
            return name, content
        hot = (rng.random(4) < np.roll([0.9, 0.6, 0.2, 0.0], int(content)) * [1, 1, 1, 0]).astype(np.uint8)
        buffer = io.BytesIO()
        np.save(buffer, hot)
        return name.replace(".cls", ".labels.npy"), buffer.getvalue()

    return rewrite(shards, change)


def unlabel(shards: Path, keys: set[str]) -> Path:
    """Take their classes from samples."""
    return rewrite(shards, lambda name, content: None if name.removesuffix(".cls") in keys else (name, content))


def rewrite(shards: Path, change: Callable[[str, bytes], tuple[str, bytes] | None]) -> Path:
    """Change the members of a shard directory by name and content, or leave them out."""
    data = json.loads((shards / "dataset.json").read_text())
    for entry in data["shards"]:
        path = shards / entry["name"]
        with tarfile.open(path) as tar:
            members = [change(info.name, tar.extractfile(info).read()) for info in tar]
        entry.update(_write_tar(path, [member for member in members if member is not None]))
    write_dataset_json(shards, data)
    return shards


def damage(png: Path) -> None:
    """Give a chunk within the pixels of a PNG a type that is none, of which Pillow makes a SyntaxError."""
    content = png.read_bytes()
    place = content.rindex(b"IDAT")
    png.write_bytes(content[:place] + b"\x80\xd2\x92M" + content[place + 4 :])


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments], catch_exceptions=False)
