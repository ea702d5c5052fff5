"""Small finished runs on toy shards, as satmip-train leaves them, with random weights drawn from their seed."""

from pathlib import Path

import torch
from click.testing import CliRunner, Result

from satmip_train import checkpoint
from satmip_train.config import Settings
from satmip_train.eval_cli import main
from satmip_train.export import export_backbone
from satmip_train.job import Job
from satmip_train.objectives import build_objective
from satmip_train.plan import plan_run
from satmip_train.shards import open_dataset

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
    shape = plan_run(chosen, dataset, Job(torch.device("cpu"))).shape
    torch.manual_seed(100 + 10 * len(chosen.objective) + chosen.seed)
    objective = build_objective(chosen, shape)
    state = {
        "model": objective.state_dict(), "optimizer": {}, "scaler": {}, "step": 7, "settings": chosen.model_dump(mode="json"),
        "dataset": {"root": dataset.root, "fingerprint": dataset.fingerprint, "mean": dataset.mean, "std": dataset.std},
        "versions": checkpoint.versions(),
    }  # fmt: skip
    checkpoint.save(folder, state)
    export_backbone(folder)
    return folder


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments], catch_exceptions=False)
