"""The first weights of a backbone: random, timm's published ones, or those of a file (hierarchical pretraining, section 4.6)."""

import argparse
import hashlib
import json
import pickle
import re
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from timm.layers.pos_embed import resample_abs_pos_embed
from torch import Tensor, nn

from satmip_data.names import counted
from satmip_train.config import Settings
from satmip_train.files import check_zip
from satmip_train.models.backbones import create_backbone

_SLIP, _OURS = "visual.", "backbone."
_PREFIXES = ("visual.trunk.", _SLIP, _OURS, "base_encoder.", "encoder_q.", "teacher.backbone.", "teacher.")
"""What stands before timm's names in files of open_clip, SLIP (also its CLIP and SimCLR), satmip-train and DINO, MoCo v3 and v2,
and of networks that learn from a teacher."""
_TWELVE_HEADS = (_SLIP, "base_encoder.")
"""Files of code whose ViT-S and ViT-B have 12 heads both."""
_MULTIARRAY = import_module("numpy._core.multiarray")
_NUMPY: list[Any] = [
    np.dtype, np.ndarray, *{type(np.dtype(kind)) for kind in "?bhilqBHILQefdFDSU"},
    *((getattr(_MULTIARRAY, name), f"numpy.{core}.multiarray.{name}") for core in ("core", "_core")
      for name in ("scalar", "_reconstruct")),
]  # fmt: skip
"""How a file names numbers of NumPy, such as a best score beside the weights; they hold no code."""
_PATHS: dict[str, type[PurePath]] = {
    f"{module}.{pure}{kind}": path
    for module in ("pathlib", "pathlib._local")  # Python 3.13 wrote the second
    for kind, path in (("PosixPath", PurePosixPath), ("WindowsPath", PureWindowsPath))
    for pure in ("", "Pure")
}
"""How a file names a path among a run's arguments, and what it is read as: text alone, on every system."""


@dataclass(frozen=True)
class Weights:
    """What a file gives a backbone."""

    tensors: dict[str, Tensor]
    """By timm's names."""
    heads: int | None
    """Attention heads of the network that wrote it; None where the file does not tell."""
    prefix: str
    """Before timm's names in the file."""


def start_backbone(settings: Settings) -> tuple[nn.Module, str]:
    """Return the backbone with its first weights, and what these are in words, for the run's records.

    Raises:
        ValueError: the backbone cannot be made, or the file is no weights for it; shapes cannot tell the number of attention
            heads, so that is checked apart.
    """
    if settings.init == "random":
        return create_backbone(settings), "random"
    if settings.init == "timm":
        _check_heads(create_backbone(settings), _timms_heads(settings.backbone), settings)
        return create_backbone(settings, pretrained=True), f"timm's published weights of {settings.backbone}"
    backbone, weights = create_backbone(settings), read_weights(Path(settings.init))
    _check_heads(backbone, weights.heads or settings.init_heads or _likely_heads(weights, settings), settings)
    return backbone, f"{settings.init} (sha256 {digest(Path(settings.init))}): {_load(backbone, weights.tensors, settings)}"


def read_weights(path: Path) -> Weights:
    """Read the backbone's weights out of a file or a run's folder, without running code from it.

    Known are safetensors, checkpoints of a run, SLIP's (its saver puts an `argparse.Namespace` beside the weights, with a path in
    it if submitit started the run), MoCo's, DINO's teacher, and plain state dicts by timm's names, also below "state_dict" or
    "model".

    Raises:
        ValueError: there is no such file, or it holds no weights.
    """
    path = _file(path)
    try:
        content = _safetensors(path) if path.suffix == ".safetensors" else _unpickle(path)
    except Exception as error:  # torch and safetensors raise many kinds for damaged files
        raise ValueError(f"Cannot read weights from {path}: {_refusal(error)}") from error
    if not isinstance(content, dict):
        raise ValueError(
            f"Cannot read weights from {path}: it holds no names, but one object of the class {type(content).__name__}. Save a "
            "state dict"
        )
    named = next((content[key] for key in ("state_dict", "model", "teacher") if isinstance(content.get(key), dict)), content)
    # What torch.compile and parallel training put before names.
    bare = {name.replace("_orig_mod.", "").removeprefix("module."): value for name, value in named.items()}
    tensors = {name: value for name, value in bare.items() if isinstance(value, Tensor)}
    if not tensors:
        found = ", ".join(sorted(map(str, content))[:8]) or "nothing"
        raise ValueError(f"Cannot read weights from {path}: it holds no tensors, but {found}. Pass a file of weights")
    prefix = next((prefix for prefix in _PREFIXES if any(name.startswith(prefix) for name in tensors)), "")
    stripped = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    # DINO's arguments name the same networks as MoCo v3's, with other heads: those of timm.
    return Weights(stripped, None if "teacher" in content else _told_heads(content), prefix)


def _file(path: Path) -> Path:
    candidates = [path / "last.pt", path / "backbone.safetensors"] if path.is_dir() else [path]
    found = next((candidate for candidate in candidates if candidate.is_file()), None)
    if found is None:
        raise ValueError(f"There is no {candidates[-1]} to read weights from. Pass a file of weights, a run, random or timm")
    return found


def _safetensors(path: Path) -> dict[str, Any]:
    beside = path.with_suffix(".json")
    config = json.loads(beside.read_text(encoding="utf-8")) if beside.is_file() else {}
    if config.get("sha256", found := digest(path)) != found:
        raise ValueError(f"its sha256 is not the one in {beside.name}")
    return {"state_dict": load_file(path), "settings": config.get("settings")}


def _unpickle(path: Path) -> Any:
    check_zip(path)
    known: list[Any] = [argparse.Namespace, *_NUMPY, *((path, name) for name, path in _PATHS.items())]
    with torch.serialization.safe_globals(known):
        return torch.load(path, map_location="cpu", weights_only=True)


def _refusal(error: Exception) -> str:
    """Return why a file is no weights, and what helps; torch's own message goes on about running code from the file."""
    if (refused := re.search(r"GLOBAL (\S+)", str(error))) is not None:
        return (
            f"it holds an object of {refused[1]}, and a file is read without the classes and functions that it names, which could "
            "run its code. Save the state dict alone"
        )
    if isinstance(error, (pickle.UnpicklingError, EOFError)):
        return "torch finds no checkpoint in it. Copy it again, or pass another"
    reason = str(error).partition("\n")[0] or type(error).__name__
    return f"{reason}. Copy it again, or pass another"


def _told_heads(content: dict[str, Any]) -> int | None:
    """Return the heads that a file tells: by our settings, or by the arguments that SLIP and MoCo v3 keep."""
    if isinstance(settings := content.get("settings"), dict):
        return settings["backbone_args"].get("num_heads") or _timms_heads(settings["backbone"])
    arguments = content.get("args")
    model = str(getattr(arguments, "model", getattr(arguments, "arch", ""))).lower().replace("_", "")
    heads = {"vits16": 12, "vitb16": 12, "vitl16": 16, "vitsmall": 12, "vitbase": 12}
    return next((count for ending, count in heads.items() if model.endswith(ending)), None)


def _likely_heads(weights: Weights, settings: Settings) -> int | None:
    """Return the heads of the code that writes files of such names: SLIP's and MoCo v3's own, else timm's."""
    if weights.prefix in _TWELVE_HEADS:
        return 12 if weights.tensors.get("cls_token", torch.empty(0)).shape[-1] <= 768 else 16
    return _timms_heads(settings.backbone)


def _timms_heads(name: str) -> int | None:
    arguments: dict[str, Any] = {"backbone": name, "backbone_args": {}, "cls_token_std": None}
    # Without storage: only its shape is looked at, and no random number is drawn.
    with torch.device("meta"):
        return attention_heads(create_backbone(Settings.model_validate(arguments), any_size=True))


def attention_heads(backbone: nn.Module) -> int | None:
    """Return the attention heads of a ViT; None for other networks."""
    found = (getattr(part, "num_heads", None) for part in backbone.modules())
    return next((heads for heads in found if isinstance(heads, int)), None)


def _check_heads(backbone: nn.Module, written: int | None, settings: Settings) -> None:
    here = attention_heads(backbone)
    if here is not None and written is not None and here != written:
        raise ValueError(
            f"--init {settings.init} is of {written} attention heads, and the backbone has {here}; the shapes are the same, the "
            f'network is another. Use --backbone-args with "num_heads": {written}, or --init-heads {here} if the file was written '
            f"with {here} and does not tell."
        )


def _load(backbone: nn.Module, tensors: dict[str, Tensor], settings: Settings) -> str:
    """Load the weights; return in words how many they are and what was changed to fit."""
    own, classifier = backbone.state_dict(), classifier_names(backbone)
    kept = {name: value for name, value in tensors.items() if name in own or not name.startswith(classifier)}
    tensors, note = resample_positions(backbone, kept), ""
    if tensors is not kept:
        note = f", positions resampled from {kept['pos_embed'].shape[1]} to {tensors['pos_embed'].shape[1]} tokens"
    other = [name for name in own.keys() & tensors.keys() if own[name].shape != tensors[name].shape]
    wrong = {
        "missing": sorted(own.keys() - tensors.keys()),
        "unknown": sorted(tensors.keys() - own.keys()),
        "of another shape": other,
    }
    if any(wrong.values()):
        evidence = "; ".join(f"{counted(len(names), 'tensor')} {how}, such as {names[0]}" for how, names in wrong.items() if names)
        raise ValueError(
            f"--init {settings.init} does not hold the weights of {settings.backbone}: {evidence}. Use the --backbone that wrote "
            "it."
        )
    backbone.load_state_dict(tensors)
    return f"{counted(len(tensors), 'tensor')}{note}"


def classifier_names(backbone: nn.Module) -> tuple[str, ...]:
    """Return how the names of the classifier's weights begin, which timm leaves out of a backbone."""
    names = getattr(backbone, "pretrained_cfg", {}).get("classifier") or ()
    return tuple(f"{name}." for name in ([names] if isinstance(names, str) else names))


def resample_positions(backbone: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Bring learned positions to the backbone's grid, as timm does where the size of images changes."""
    here, there = getattr(backbone, "pos_embed", None), tensors.get("pos_embed")
    if not isinstance(here, Tensor) or there is None or there.ndim != 3:
        return tensors
    if here.shape == there.shape or here.shape[-1] != there.shape[-1]:
        return tensors
    grid, prefix = list(backbone.patch_embed.grid_size), int(backbone.num_prefix_tokens)
    return {**tensors, "pos_embed": resample_abs_pos_embed(there, new_size=grid, num_prefix_tokens=prefix)}


def digest(path: Path) -> str:
    """Return the sha256 of a file of weights, or of that of a run's folder."""
    with _file(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
