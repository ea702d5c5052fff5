"""Others' backbones from a local weight file, evaluated like ours: SatMAE, SatMAE++, Scale-MAE, SLIP, any of timm or open_clip.

All become timm networks, so that a converted backbone is a folder like that of a run.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from timm.models.vision_transformer import checkpoint_filter_fn
from torch import Tensor, nn

from satmip_data.errors import cause
from satmip_data.names import unknown_name
from satmip_train.config import Settings
from satmip_train.errors import UsageError
from satmip_train.files import CONFIG, WEIGHTS, write_atomically
from satmip_train.models.backbones import create_backbone, feature_dim
from satmip_train.models.pretrained import attention_heads, classifier_names, digest, read_weights, resample_positions
from satmip_train.runs.checkpoint import versions
from satmip_train.runs.external_forms import EXTERNALS, External

_SHOWN = 12


def load(
    name: str, weights: str | Path, size: int | None = None, arguments: Mapping[str, Any] | None = None
) -> tuple[nn.Module, dict[str, Any]]:
    """Return a backbone in evaluation mode, on the CPU, and its config, as `export.load_backbone` does.

    Args:
        name: one of `EXTERNALS`, "timm:MODEL" or "open_clip:MODEL"
        weights: its file: safetensors or a PyTorch checkpoint, read without running code from it
        size: side of the images in pixels, instead of its own; learned positions are resampled to it
        arguments: of `timm.create_model`, over those of the name: a smaller network of the same kind

    Shape:
        the module: views (B, 3, size, size) -> features (B, config["features"]), of a ViT the CLS token

    Raises:
        UsageError: there is no such name or file, or the file holds not exactly the backbone's weights and what is known to
            belong to none.
    """
    external = find(name)
    external = replace(external, size=size or external.size, args={**external.args, **(arguments or {})})
    path = Path(weights)
    tensors, heads = _read(path)
    settings, module = _create(name, external)
    tensors = _converted(tensors, module)
    dropped = sorted(key for key in tensors if key.startswith((*external.dropped, *classifier_names(module))))
    tensors = {key: value for key, value in tensors.items() if key not in dropped}
    tensors = _with_positions(tensors, module, external)
    _check(name, path, module, tensors, heads)
    module.load_state_dict(tensors)
    return module.eval(), _config(name, external, path, settings, module, dropped)


def find(name: str) -> External:
    """Return what is known of a name.

    Raises:
        UsageError: nothing is.
    """
    kind, _, model = name.partition(":")
    if kind == "timm" and model:
        return External(model, size=0)
    if kind == "open_clip" and model:
        return _open_clip(model)
    if name not in EXTERNALS:
        raise UsageError(unknown_name("backbone", name, [*EXTERNALS, "timm:MODEL", "open_clip:MODEL"], "--external"))
    return EXTERNALS[name]


def _open_clip(model: str) -> External:
    """Return the image tower of an open_clip model: a ViT of its own, which timm has too, or one of timm's."""
    import open_clip

    config = open_clip.get_model_config(model)
    if config is None:
        raise UsageError(unknown_name("model of open_clip", model, open_clip.list_models(), "--external"))
    vision = config["vision_cfg"]
    if "timm_model_name" in vision:
        return External(vision["timm_model_name"], size=vision["image_size"], dropped=("head.",))
    if not isinstance(vision["layers"], int):
        raise UsageError(
            f'The model "{model}" of open_clip is no ViT and none of timm\'s networks, which alone are read. Use timm:MODEL '
            "instead."
        )
    args = {"patch_size": vision["patch_size"], "embed_dim": vision["width"], "depth": vision["layers"]}
    args["num_heads"] = vision["width"] // vision.get("head_width", 64)
    if config.get("quick_gelu"):
        args["act_layer"] = "quick_gelu"
    return External("vit_base_patch16_clip_224", args, vision["image_size"], dropped=("head.",))


def _read(path: Path) -> tuple[dict[str, Tensor], int | None]:
    try:
        found = read_weights(path)
    except ValueError as error:
        raise UsageError(f"--weights: {error}") from error
    return found.tensors, found.heads


def _create(name: str, external: External) -> tuple[Settings, nn.Module]:
    values: dict[str, Any] = {"objective": name, "backbone": external.backbone, "cls_token_std": None}
    try:
        plain: Any = create_backbone(Settings.model_validate({**values, "backbone_args": external.args}), any_size=True)
        size = external.size or int(plain.pretrained_cfg["input_size"][-1])
        # A ViT is made for one size of images; convolutions take any.
        fixed = getattr(getattr(plain, "patch_embed", None), "img_size", None) is not None
        args = {**external.args, **({"img_size": size} if fixed else {})}
        settings = Settings.model_validate({**values, "backbone_args": args, "view_size": size})
        return settings, create_backbone(settings)
    except ValueError as error:
        raise UsageError(f"timm cannot make the network of --external: {cause(error)}") from error


def _converted(tensors: dict[str, Tensor], module: Any) -> dict[str, Tensor]:
    """Give the names of OpenAI's CLIP, which open_clip shares, those of timm."""
    if "class_embedding" not in tensors:
        return tensors
    named = {f"visual.{key}": value for key, value in tensors.items()}
    # timm resamples positions here itself, by the same function as `_with_positions`.
    return dict(checkpoint_filter_fn(named, module))


def _with_positions(tensors: dict[str, Tensor], module: Any, external: External) -> dict[str, Tensor]:
    """Compute positions that depend on the GSD, and bring learned ones to the network's grid."""
    if not external.scaled_positions:
        return resample_positions(module, tensors)
    side, width = int(module.patch_embed.grid_size[0]), module.pos_embed.shape[-1]
    return {**tensors, "pos_embed": scaled_positions(side, width, gsd_ratio(side * int(module.patch_embed.patch_size[0])))}


def gsd_ratio(size: int) -> float:
    """Return g/G of Scale-MAE (its eq. 2) for images of this side: a whole image on fewer pixels has larger ones.

    NOTE[DIFF] the paper does not say which GSD it gave Scale-MAE. Here an image of 224 pixels has the reference GSD on every set,
    as in Scale-MAE's own kNN evaluation with --eval_gsd.
    """
    return 224 / size


def scaled_positions(side: int, width: int, ratio: float) -> Tensor:
    """Return Scale-MAE's positions: MAE's 2-D sines and cosines of coordinates that are multiplied by g/G; zeros for the CLS token.

    Shape:
        returns: (1, 1 + side * side, width), rows of patches one after the other; the first half of the width tells x
    """
    coordinates = torch.arange(side, dtype=torch.float32) * ratio
    frequencies = 10000 ** -(torch.arange(width // 4, dtype=torch.float64) / (width / 4))
    angles = (coordinates.double()[:, None] * frequencies).float()
    axis = torch.cat([angles.sin(), angles.cos()], dim=1)
    x, y = axis.repeat(side, 1), axis.repeat_interleave(side, dim=0)
    return torch.cat([torch.zeros(1, width), torch.cat([x, y], dim=1)])[None]


def _check(name: str, path: Path, module: nn.Module, tensors: Mapping[str, Tensor], heads: int | None) -> None:
    """Check that a file holds exactly a network's weights."""
    own = module.state_dict()
    wrong = {
        "missing": sorted(own.keys() - tensors.keys()),
        "unexpected": sorted(tensors.keys() - own.keys()),
        "of another shape": sorted(key for key in own.keys() & tensors.keys() if own[key].shape != tensors[key].shape),
    }
    if any(wrong.values()):
        evidence = "; ".join(f"{len(keys)} {how}: {_listed(keys)}" for how, keys in wrong.items() if keys)
        raise UsageError(f"--weights {path} does not hold the backbone of {name}: {evidence}. Use another --external.")
    here = attention_heads(module)
    if heads is not None and here is not None and heads != here:
        raise UsageError(f"--weights {path} is of {heads} attention heads, and {name} has {here}. Use another --external.")


def _listed(keys: list[str]) -> str:
    return ", ".join(keys[:_SHOWN]) + (f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else "")


def _config(name: str, external: External, path: Path, settings: Settings, module: nn.Module, dropped: list[str]) -> dict[str, Any]:
    known: Any = getattr(module, "pretrained_cfg", {})
    mean, std = external.statistics or (known["mean"], known["std"])
    pooling = {"global_pool": module.global_pool} if getattr(module, "cls_token", None) is not None else {}
    return {
        "model": settings.backbone,
        "args": {**pooling, **settings.backbone_args},
        "features": feature_dim(module),
        "view_size": settings.view_size,
        "mean": list(mean),
        "std": list(std),
        "step": None,
        "settings": settings.model_dump(mode="json"),
        "dataset": {"root": None, "source": name, "licence": None, "fingerprint": None},
        "versions": versions(),
        "external": {"name": name, "weights": path.name, "sha256": digest(path), "dropped": dropped},
    }


def _versions(path: Path) -> Any:
    """Return with which packages a backbone was converted; None where its description is not there or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))["versions"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def install(name: str, weights: str | Path, folder: Path, size: int | None = None) -> Path:
    """Convert a backbone into a folder that evaluation takes like that of a run, once, and return the folder.

    Raises:
        UsageError: see `load`.
    """
    module_of, path = name.replace(":", "-").replace("/", "-").replace("+", "p"), Path(weights)
    # With the file in its name: several files may be of one network.
    words = [module_of, *([] if size is None else [str(size)]), *([digest(path)[:8]] if path.is_file() else [])]
    target = folder / "-".join(words)
    if (target / WEIGHTS).is_file() and _versions(target / CONFIG) == versions():
        return target
    module, config = load(name, path, size)
    content = save({key: value.contiguous() for key, value in module.state_dict().items()}, metadata={"format": "pt"})
    write_atomically(target / WEIGHTS, lambda file: file.write(content))
    text = json.dumps(config, indent=1).encode()
    write_atomically(target / CONFIG, lambda file: file.write(text))
    return target
