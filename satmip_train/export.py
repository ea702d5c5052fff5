"""The backbone of a run as files that timm loads, and back."""

import json
from pathlib import Path
from typing import Any

import timm
from safetensors.torch import load_file, save
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from satmip_train import checkpoint
from satmip_train.backbones import create_backbone, feature_dim
from satmip_train.config import Settings
from satmip_train.errors import UsageError

WEIGHTS, CONFIG = "backbone.safetensors", "backbone.json"
_PREFIX = "backbone."


def export_backbone(run: Path) -> Path:
    """Write `backbone.safetensors` (timm's names) and `backbone.json` from the checkpoint of a run; return the path of the weights.

    `timm.create_model(model, **args, num_classes=0, checkpoint_path=...)` with `model` and `args` of `backbone.json` loads it.

    Raises:
        UsageError: the run has no checkpoint.
    """
    saved = checkpoint.load(run)
    if saved is None:
        raise UsageError(
            f"a run must have a checkpoint to be exported, however: there is no {checkpoint.NAME} in {run}. Train first"
        )
    settings = Settings.model_validate(saved["settings"])
    backbone = create_backbone(settings)
    weights = {name.removeprefix(_PREFIX): value for name, value in saved["model"].items() if name.startswith(_PREFIX)}
    backbone.load_state_dict(weights)
    config = {
        "model": settings.backbone,
        "args": _arguments(settings, backbone),
        "features": feature_dim(backbone),
        "view_size": settings.view_size,
        "mean": saved["dataset"]["mean"],
        "std": saved["dataset"]["std"],
        "step": saved["step"],
        "settings": saved["settings"],
        "dataset": {"root": saved["dataset"]["root"], "fingerprint": saved["dataset"]["fingerprint"]},
        "versions": saved["versions"],
    }
    content = save({name: value.contiguous() for name, value in weights.items()}, metadata={"format": "pt"})
    checkpoint.write_atomically(run / WEIGHTS, lambda file: file.write(content))
    text = json.dumps(config, indent=1).encode()
    checkpoint.write_atomically(run / CONFIG, lambda file: file.write(text))
    return run / WEIGHTS


def _arguments(settings: Settings, backbone: nn.Module) -> dict[str, Any]:
    """Return the arguments that make timm build the same network; number of heads and pooling cannot be read off the weights."""
    pooling = {"global_pool": backbone.global_pool} if isinstance(backbone, VisionTransformer) else {}
    return {**pooling, **settings.backbone_args}


def load_backbone(path: str | Path) -> tuple[nn.Module, dict[str, Any]]:
    """Return an exported backbone in evaluation mode, on the CPU, and its `backbone.json`.

    Args:
        path: a run's folder, or its `backbone.safetensors`

    Shape:
        the module: views (B, 3, S, S), normalized with the config's mean and std -> features (B, config["features"])

    Raises:
        UsageError: there is no exported backbone.
    """
    folder = Path(path) if Path(path).is_dir() else Path(path).parent
    for name in (WEIGHTS, CONFIG):
        if not (folder / name).is_file():
            raise UsageError(
                f"a backbone is {WEIGHTS} and {CONFIG}, however: there is no {name} in {folder}. Run: satmip-train export {folder}"
            )
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    backbone: nn.Module = timm.create_model(config["model"], num_classes=0, **config["args"])
    backbone.load_state_dict(load_file(folder / WEIGHTS))
    return backbone.eval(), config
