"""The networks of a run as files that others load: the backbone for timm, the metadata encoder, and a card; and back."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any

import satmip_schemas
import timm
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from satmip_data.errors import cause
from satmip_train.config import Settings
from satmip_train.errors import UsageError
from satmip_train.files import BEST_WEIGHTS, METADATA_WEIGHTS, PROJECTIONS, WEIGHTS, write_atomically
from satmip_train.models.backbones import create_backbone, feature_dim
from satmip_train.models.class_token import read_class_token_alone
from satmip_train.models.metadata_encoders import MetadataShape, create_metadata_encoder
from satmip_train.models.pretrained import digest
from satmip_train.runs import checkpoint, timm_format
from satmip_train.runs import open_clip as open_clip_module
from satmip_train.runs.checkpoint import Checkpoint
from satmip_train.runs.model_card import model_card

CARD = "README.md"
_BACKBONE, _ENCODER, _MATCHING = "backbone.", "metadata_encoder.", "matching."
_PROJECTED = ("image_projection", "metadata_projection", "logit_scale", "logit_bias")


@dataclass(frozen=True)
class Projections:
    """What brings features of images and of metadata into their common space, and what the loss scales their products by."""

    image: nn.Linear
    """(N, features) -> (N, embed_dim)."""
    metadata: nn.Linear
    """(N, width) -> (N, embed_dim)."""
    logit_scale: float
    """Its logarithm was learned; 1 / temperature."""
    logit_bias: float
    """Of the sigmoid loss; 0 for the paper's."""


def export_run(run: Path, open_clip: bool = False, repository: str | None = None) -> list[Path]:
    """Write all that a run has to give and return the paths; what is exported is the last checkpoint.

    `backbone.safetensors` with `backbone.json`; `backbone-best.safetensors` with `backbone-best.json`, where kNN was evaluated;
    `metadata.safetensors` with `metadata.json` and `projections.safetensors` with `projections.json`, where metadata were learned
    from; `timm/`, which timm loads by itself; `README.md`, a model card.

    Args:
        open_clip: write both encoders as a model of open_clip too
        repository: of the Hugging Face hub, where the card's code shall look for the files; None: beside the card

    Raises:
        UsageError: the run has no checkpoint, or is no model of open_clip.
    """
    saved = _load(run, checkpoint.NAME)
    made = [export_backbone(run)]
    if (run / checkpoint.BEST).exists():
        made.append(export_backbone(run, best=True))
    if weights := _weights(saved, _ENCODER):
        _write(run / METADATA_WEIGHTS, weights, {**saved["metadata"], **_provenance(saved)})
        made.append(run / METADATA_WEIGHTS)
    if projections := {name: value for name, value in _weights(saved, _MATCHING).items() if name.startswith(_PROJECTED)}:
        _write(run / PROJECTIONS, projections, {"embed_dim": saved["settings"]["embed_dim"], **_provenance(saved)})
        made.append(run / PROJECTIONS)
    made.append(_export_timm(run, saved))
    if open_clip:
        made += _export_open_clip(run, saved)
    card = model_card(run, saved, [path.relative_to(run).as_posix() for path in made], repository).encode()
    write_atomically(run / CARD, lambda file: file.write(card))
    return [*made, run / CARD]


def _export_open_clip(run: Path, saved: Checkpoint) -> list[Path]:
    settings = checkpoint.saved_settings(saved, run)
    backbone = create_backbone(settings)
    backbone.load_state_dict(_weights(saved, _BACKBONE))
    context, dataset = saved["metadata"]["context"], saved["dataset"]
    weights, config = open_clip_module.to_open_clip(settings, context, backbone, saved["model"], dataset)
    paths = [run / open_clip_module.WEIGHTS, run / open_clip_module.CONFIG]
    _write(paths[0], weights, {**config, **_provenance(saved)}, paths[1])
    return paths


def _export_timm(run: Path, saved: Checkpoint) -> Path:
    settings, weights = checkpoint.saved_settings(saved, run), _weights(saved, _BACKBONE)
    backbone, dataset = create_backbone(settings), saved["dataset"]
    arguments = _arguments(settings, backbone)
    config = timm_format.timm_config(
        backbone, feature_dim(backbone), arguments, settings.view_size, dataset["mean"], dataset["std"]
    )
    folder = run / timm_format.FOLDER
    _write(folder / timm_format.WEIGHTS, weights, config, folder / timm_format.CONFIG)
    return folder / timm_format.WEIGHTS


def export_backbone(run: Path, best: bool = False) -> Path:
    """Write the backbone of a run's last checkpoint, or of its best, with its config; return the path of the weights.

    `timm.create_model(model, **args, num_classes=0, checkpoint_path=...)` with `model` and `args` of the config loads it.

    Raises:
        UsageError: the run has no such checkpoint.
    """
    saved = _load(run, checkpoint.BEST if best else checkpoint.NAME)
    settings = checkpoint.saved_settings(saved, run)
    backbone, weights = create_backbone(settings), _weights(saved, _BACKBONE)
    backbone.load_state_dict(weights)
    config = {
        "model": settings.backbone,
        "args": _arguments(settings, backbone),
        "features": feature_dim(backbone),
        "view_size": settings.view_size,
        "mean": saved["dataset"]["mean"],
        "std": saved["dataset"]["std"],
        **_provenance(saved),
    }
    path = run / (BEST_WEIGHTS if best else WEIGHTS)
    _write(path, weights, config)
    return path


def load_backbone(path: str | Path) -> tuple[nn.Module, dict[str, Any]]:
    """Return an exported backbone in evaluation mode, on the CPU, and its config.

    Args:
        path: a run's folder, or its `backbone.safetensors` or `backbone-best.safetensors`

    Shape:
        the module: views (B, 3, S, S), normalized with the config's mean and std -> features (B, config["features"])

    Raises:
        UsageError: there is no exported backbone, it is damaged, or the run has gone on since.
    """
    weights, config = _find(Path(path), WEIGHTS, "a backbone")
    if "model" not in config:
        raise UsageError(f"{path} is no backbone: it encodes no images. Name the folder of the run.")
    try:
        backbone: nn.Module = timm.create_model(config["model"], num_classes=0, **config["args"])
    except Exception as error:  # timm raises many kinds for arguments that it does not understand
        raise UsageError(
            f"timm cannot make the network that {path} describes, {config['model']} with {json.dumps(config['args'])}: "
            f"{cause(error)}. Use the timm that wrote it ({config.get('versions', {}).get('timm', 'another version')}), or export "
            "the run again."
        ) from error
    _fill(backbone, weights)
    read_class_token_alone(backbone)
    return backbone.eval(), config


def load_metadata_encoder(path: str | Path) -> tuple[nn.Module, dict[str, Any]]:
    """Return an exported metadata encoder in evaluation mode, on the CPU, and its config.

    The config says what the encoder reads: `fields`; `context` and `caption_style` of a textual one; `numeric_columns` with mean
    and std and `categorical_columns` with values (code i + 1 stands for value i, 0 for none) of a tabular one.

    Args:
        path: a run's folder, or its `metadata.safetensors`

    Shape:
        the module: a batch as in `Objective.forward` -> features (B, width)

    Raises:
        UsageError: there is no exported metadata encoder, it is damaged, or the run has gone on since.
    """
    weights, config = _find(Path(path), METADATA_WEIGHTS, "a metadata encoder")
    shape = MetadataShape(config["context"], config["numeric"], tuple(config["cardinalities"]))
    encoder = create_metadata_encoder(checkpoint.saved_settings(config, Path(path)), shape)
    _fill(encoder, weights)
    return encoder.eval(), config


def load_projections(path: str | Path) -> Projections:
    """Return the projections of a run into the space where images and metadata are compared, on the CPU.

    They are read from the export or, where that is from before projections were exported, from the last checkpoint.

    Args:
        path: a run's folder

    Raises:
        UsageError: the objective has none, or they are neither exported nor in a checkpoint.
    """
    run = Path(path)
    if (run / PROJECTIONS).is_file():
        weights, _ = _find(run, PROJECTIONS, "a pair of projections")
        try:
            tensors = load_file(weights)
        except SafetensorError as error:
            raise UsageError(f"{weights} holds no projections: {cause(error)}. {_again(weights)}") from error
    else:
        saved = checkpoint.load(run)
        tensors = {} if saved is None else _weights(saved, _MATCHING)
        if f"{_PROJECTED[0]}.weight" not in tensors:
            objective = "none" if saved is None else Settings.model_validate(saved["settings"]).objective
            raise UsageError(
                f"{run} has no projections, by which images and metadata are compared: its objective is {objective}. Name a run of "
                "satmip or satmips, with its projections.safetensors or its last.pt."
            )
    scale, bias = tensors["logit_scale"].float().exp(), tensors.get("logit_bias")
    image, metadata = (_linear(tensors, name) for name in _PROJECTED[:2])
    return Projections(image, metadata, float(scale), 0.0 if bias is None else float(bias))


def _linear(weights: dict[str, Tensor], name: str) -> nn.Linear:
    weight, bias = weights[f"{name}.weight"].float(), weights.get(f"{name}.bias")
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None).requires_grad_(False)
    layer.load_state_dict({"weight": weight} if bias is None else {"weight": weight, "bias": bias.float()})
    return layer


def _load(run: Path, name: str) -> Checkpoint:
    saved = checkpoint.load(run, name)
    if saved is None:
        raise UsageError(f"{run} has no checkpoint {name} to export. Train first: satmip-train --shards out/shards --out {run}")
    return saved


def _weights(saved: Checkpoint, prefix: str) -> dict[str, Any]:
    return {name.removeprefix(prefix): value for name, value in saved["model"].items() if name.startswith(prefix)}


def _provenance(saved: Checkpoint) -> dict[str, Any]:
    return {
        "step": saved["step"],
        "settings": saved["settings"],
        "dataset": {name: saved["dataset"][name] for name in ("root", "source", "licence", "fingerprint")},
        "versions": saved["versions"],
    }


def _write(path: Path, weights: dict[str, Any], config: dict[str, Any], beside: Path | None = None) -> None:
    content = save({name: value.contiguous() for name, value in weights.items()}, metadata={"format": "pt"})
    write_atomically(path, lambda file: file.write(content))
    own = {"sha256": hashlib.sha256(content).hexdigest()} if "settings" in config else {}  # timm's config is all timm's
    described = {**config, **own}
    text = satmip_schemas.seal(described, satmip_schemas.OWN) if own else json.dumps(described, indent=1).encode()
    write_atomically(beside or path.with_suffix(".json"), lambda file: file.write(text))


def _arguments(settings: Settings, backbone: nn.Module) -> dict[str, Any]:
    """Return the arguments that make timm build the same network; number of heads and pooling cannot be read off the weights."""
    pooling = {"global_pool": backbone.global_pool} if isinstance(backbone, VisionTransformer) else {}
    return {**pooling, **settings.backbone_args}


def _find(path: Path, name: str, what: str) -> tuple[Path, dict[str, Any]]:
    weights = path / name if path.is_dir() else path
    for file in (weights, weights.with_suffix(".json")):
        if not file.is_file():
            raise UsageError(
                f"{file.parent} has no {file.name}, which is part of {what}. Run: satmip-train export {quote(str(file.parent))}"
            )
    config = _read_config(weights.with_suffix(".json"))
    # Those of earlier versions have none.
    if config.get("sha256", found := digest(weights)) != found:
        raise UsageError(f"{weights} is damaged: its sha256 is not the one in {weights.stem}.json. {_again(weights)}")
    if path.is_dir() and (step := checkpoint.read_step(path)) not in (None, config["step"]):
        raise UsageError(
            f"The run has gone on since its export: in {path}, {name} is of step {config['step']} and {checkpoint.NAME} of step "
            f"{step}. Run: satmip-train export {quote(str(path))}"
        )
    return weights, config


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = satmip_schemas.read_sealed(path.read_bytes(), "the file")
        return {**config, "settings": config["settings"], "step": config["step"]}
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path} describes no export: {cause(error)}. {_again(path)}") from error


def _fill(network: nn.Module, weights: Path) -> None:
    """Give a network the exported weights."""
    try:
        network.load_state_dict(load_file(weights))
    except (SafetensorError, RuntimeError) as error:
        described = weights.with_suffix(".json").name
        raise UsageError(
            f"{weights} does not hold the weights that {described} describes: {cause(error)}. {_again(weights)}"
        ) from error


def _again(path: Path) -> str:
    return f"Copy it again, or run: satmip-train export {quote(str(path.parent))}"
