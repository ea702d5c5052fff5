"""The settings of a training run, validated; recipes are TOML files of them, and flags win over the recipe."""

import tomllib
import warnings
from functools import reduce
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from satmip_data.errors import cause
from satmip_data.metadata.fields import expand_fields
from satmip_data.names import did_you_mean
from satmip_train import policies
from satmip_train.objective_names import terms_of

PAPERS_BACKBONE = "vit_small_patch16_224"
_OURS = {"pretrained": "--init timm", "num_classes": "no classifier", "in_chans": "views of 3 channels"}
"""Arguments of timm's that are not for backbone_args, and what there is in their place."""
GROUPS = {
    "objective": "Objective",
    "backbone": "Backbone",
    "metadata_encoder": "Metadata encoder and heads",
    "coupled": "Losses",
    "view_size": "Views",
    "epochs": "Schedule and optimizer",
    "precision": "Speed and memory",
    "log_every": "Reports and checkpoints",
}
"""The headings under which settings are shown, by the first setting of each group."""
FREE_SETTINGS = frozenset(
    {
        "workers", "log_every", "checkpoint_every", "max_steps", "compile", "data", "micro_batch", "grad_checkpointing",
        "activation_budget", "attention", "tf32", "trim_tokens", "knn_every", "knn_samples", "report_to",
    }
)  # fmt: skip
"""Settings that a resumed run may change: they change its speed, its memory, its reports and where it stops, not what is learned
(its numbers may round otherwise)."""


RETIRED = {("attention", "packed"): "auto"}
"""Values that a setting had once, as typed and in the files of earlier runs, and what is used in their place."""


class Settings(BaseModel):
    """Every choice of a run. Saved with each checkpoint; the same settings, shards and seed give the same run."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    objective: str = Field(
        "satmips",
        description="loss to minimise: a sum of the terms satmip, simclr, moco and geo, with +tp for temporal positives, such as "
        "satmip+simclr+tp; satmips is satmip+simclr, moco-geo-tp is moco+geo+tp",
    )
    split: str = Field("train", description="split of the shards to train on")
    seed: int = Field(0, ge=0, lt=2**32, description="seed of the weights, the order and the views")

    backbone: str = Field(PAPERS_BACKBONE, description="any timm model by name")
    backbone_args: dict[str, Any] = Field(
        default_factory=lambda: {"num_heads": 12},
        description="arguments for timm.create_model, as JSON; by default 12 heads for the paper's backbone, MoCo v3's ViT-S",
    )
    cls_token_std: float | None = Field(
        0.02, gt=0, description="standard deviation of the CLS token's initial values (timm at SLIP's time; today it is 1e-6)"
    )
    init: str = Field(
        "random",
        description="initial weights of the backbone: random, timm (timm's pretrained ones), or a file of a run, SLIP or CLIP",
    )
    init_heads: int | None = Field(
        None, ge=1, description="attention heads of the network in the init file, where the file does not tell"
    )

    metadata_encoder: Literal["text", "tabular", "pretrained"] = Field(
        "text", description="metadata encoder; pretrained reads captions by the sentence encoder --text-model"
    )
    fields: tuple[str, ...] | None = Field(
        None,
        description="metadata fields by name or alias (gsd, time, loc, angles, all ...); by default those of the captions, or "
        "gsd,time,loc (tabular)",
    )
    text_layers: int = Field(3, ge=1, description="layers of the textual metadata encoder")
    text_width: int = Field(512, ge=8, description="width of the textual metadata encoder")
    text_heads: int = Field(8, ge=1, description="attention heads of the textual metadata encoder")
    tabular_layers: int = Field(3, ge=1, description="blocks of the FT-Transformer")
    tabular_width: int = Field(192, ge=8, description="width of the FT-Transformer")
    tabular_heads: int = Field(8, ge=1, description="attention heads of the FT-Transformer")
    tabular_attention_dropout: float = Field(0.2, ge=0, lt=1, description="dropout of the FT-Transformer's attention")
    tabular_ffn_dropout: float = Field(0.1, ge=0, lt=1, description="dropout of the FT-Transformer's feed-forward")
    embed_dim: int = Field(512, ge=1, description="size of the joint metadata-image embedding")
    ssl_hidden: int = Field(4096, ge=1, description="hidden width of the image-image projection head")
    ssl_dim: int = Field(256, ge=1, description="size of the image-image embedding")
    text_model: str | None = Field(
        None, description="BERT-like model of the Hugging Face hub, or a folder with one, for pretrained"
    )
    text_tune: bool = Field(False, description="train the pretrained sentence encoder too, instead of keeping it frozen")
    shuffle_metadata: bool = Field(
        False, description="control experiment: give each sample the metadata of a sample from another place"
    )
    metadata_mask: float = Field(0.0, ge=0, lt=1, description="share of the metadata fields hidden at random in each step")
    tabular_final_norm: bool = Field(False, description="end the FT-Transformer with a layer norm")
    projection_bias: bool = Field(False, description="give the metadata-image projections a bias")
    text_pool: Literal["start", "end"] = Field(
        "start", description="token that represents a caption: the first, or the last, as in CLIP"
    )
    text_attend_padding: bool = Field(
        False, description="let captions attend to their padding, to the length of the longest caption"
    )

    coupled: bool = Field(True, description="use the first of the two compared views for the metadata too (paper, section 3.2)")
    metadata_weight: float = Field(1.0, ge=0, description="weight of the metadata-image loss in a sum")
    simclr_weight: float = Field(1.0, ge=0, description="weight of SimCLR's loss in a sum: lambda of SatMIPS (paper, eq. 4)")
    moco_weight: float = Field(1.0, ge=0, description="weight of MoCo's loss in a sum")
    temperature: float = Field(0.1, gt=0, description="temperature of the image-image loss")
    metadata_loss: Literal["clip", "siglip"] = Field("clip", description="metadata-image loss: eq. 2 of the paper, or SigLIP's")
    negatives: Literal["both", "cross"] = Field(
        "both", description="image-image negatives: both views (SLIP) or the other view only (eq. 3)"
    )
    loss_gather: Literal["exact", "slip"] = Field("exact", description="gradient of the metadata-image loss across ranks")
    mask_same_place: bool = Field(False, description="exclude other acquisitions of a sample's place from its negatives")
    geo_clusters: int = Field(
        100, ge=2, description="Geo: number of k-means clusters of locations, which are the classes to predict"
    )
    geo_space: Literal["raw", "sphere"] = Field(
        "raw", description="Geo: cluster longitude and latitude as plain numbers, or points on the sphere"
    )
    geo_weight: float = Field(1.0, ge=0, description="weight of Geo's loss in a sum")
    queue_length: int = Field(65_536, ge=1, description="MoCo: keys of earlier steps kept as negatives")
    key_momentum: float = Field(0.999, ge=0, le=1, description="MoCo: momentum of the key encoder")
    geo_input: Literal["projection", "features"] = Field(
        "projection", description="Geo: input of the classifier: the projection after a ReLU, or the backbone's features"
    )

    view_size: int = Field(224, ge=16, description="side of a view in pixels")
    policy: str = Field(
        "simclr-sat",
        description="augmentation policy: simclr-sat or crop (supplement B); moco-v2: simclr-sat without vertical flips and "
        "rotations; north-up: moco-v2 with crops of at least half the area and no grey, for images with north at the top",
    )
    jitter: float = Field(1.0, ge=0, le=5, description="strength of the colour jitter, times SLIP's 0.4, 0.4, 0.4 and 0.1 (hue)")

    epochs: float = Field(200, gt=0, description="passes over the split")
    max_steps: int | None = Field(None, ge=1, description="stop after this many steps; the schedule still spans the epochs")
    batch_size: int = Field(1024, ge=2, description="samples per step over all ranks")
    lr_base: float = Field(1.875e-4, gt=0, description="learning rate per 256 samples: the peak is lr_base x batch_size / 256")
    lr_start: float = Field(1e-6, ge=0, description="learning rate of the first step, unscaled")
    lr_end: float = Field(1e-5, ge=0, description="learning rate of the last step, unscaled")
    warmup_epochs: float = Field(1, ge=0, description="epochs of linear warm-up")
    weight_decay: float = Field(0.1, ge=0, description="weight decay: AdamW's, or added to the gradient by SGD")
    wd_policy: Literal["slip", "timm"] = Field(
        "slip", description="which parameters decay: as in SLIP, or as in timm (no positions, no tokens)"
    )
    beta1: float = Field(0.9, ge=0, lt=1, description="AdamW's first beta")
    beta2: float = Field(0.98, ge=0, lt=1, description="AdamW's second beta")
    adam_eps: float = Field(1e-8, gt=0, description="AdamW's epsilon")
    optimizer: Literal["adamw", "sgd"] = Field("adamw", description="AdamW, the paper's; or SGD, MoCo's")
    sgd_momentum: float = Field(0.9, ge=0, lt=1, description="SGD's momentum")

    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto",
        description="precision of the networks; losses are always float32. auto: bf16 on a GPU that has it, else fp16; "
        "fp32 on a CPU",
    )
    compile: bool | None = Field(
        None,
        description="compile the backbone, the textual encoder and the views with torch.compile; by default on GPUs with Triton",
    )
    workers: int = Field(2, ge=0, description="loader processes per rank")
    shuffle_shards: int = Field(16, ge=1, description="shards whose samples are permuted together")
    data: Literal["auto", "stream", "resident"] = Field(
        "auto",
        description="decode the shards in each epoch (stream), or once onto the device (resident); auto: resident if it fits",
    )
    micro_batch: int | None = Field(
        None,
        ge=1,
        description="samples per pass through the encoders, so that large batches fit into less memory; same loss, same gradient",
    )
    grad_checkpointing: bool = Field(
        False, description="recompute the backbone's activations in the backward pass instead of keeping them"
    )
    activation_budget: float = Field(
        1.0,
        ge=0,
        le=1,
        description="share of activations that compiled encoders keep for the backward pass; the rest is recomputed, the cheapest "
        "first",
    )
    residual: Literal["fp32", "autocast"] = Field(
        "fp32",
        description="type of a ViT's residual stream under bf16 or fp16: float32, or the same, which is faster and rounds more",
    )
    attention: Literal["auto", "torch", "flash", "cudnn", "efficient", "math"] = Field(
        "auto", description="attention backend of torch to try first; with auto and torch, torch chooses"
    )
    tf32: Literal["off", "views", "all"] = Field(
        "views", description="float32 matrix products that a GPU may round to TF32; those of the losses only with all"
    )
    trim_tokens: bool = Field(True, description="cut captions to the longest of the batch, rounded up to a multiple of 8")

    log_every: int = Field(10, ge=1, description="steps between two lines of the log")
    checkpoint_every: int = Field(500, ge=1, description="steps between two checkpoints")
    knn_every: float = Field(
        0, ge=0, description="epochs between two kNN evaluations on the split val; the best weights are kept; 0: none"
    )
    knn_samples: int = Field(10_000, ge=2, description="largest number of samples of each split in these evaluations")
    report_to: tuple[Literal["tensorboard", "wandb"], ...] = Field(
        (), description="also send the log to tensorboard or wandb, or to both, separated by a comma"
    )

    @model_validator(mode="before")
    @classmethod
    def _without_retired_values(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        retired = {name: RETIRED[name, given[name]] for name in given if (name, str(given[name])) in RETIRED}
        for name, value in retired.items():
            warnings.warn(
                f'{name} "{given[name]}" is gone, and "{value}" is used. Leave the setting out.', FutureWarning, stacklevel=2
            )
        return {**given, **retired}

    @field_validator("objective")
    @classmethod
    def _in_its_one_form(cls, objective: str) -> str:
        return str(terms_of(objective))

    @field_validator("fields")
    @classmethod
    def _expand_aliases(cls, fields: tuple[str, ...] | None) -> tuple[str, ...] | None:
        return None if fields is None else expand_fields(fields)

    @field_validator("policy")
    @classmethod
    def _known_policy(cls, name: str) -> str:
        policies.policy(name, 224)
        return name

    @field_validator("backbone_args")
    @classmethod
    def _leave_what_is_ours(cls, arguments: dict[str, Any]) -> dict[str, Any]:
        if ours := [name for name in arguments if name in _OURS]:
            raise ValueError(f"backbone_args cannot hold {ours[0]}, which is set by satmip. Instead there is: {_OURS[ours[0]]}.")
        return arguments

    @model_validator(mode="before")
    @classmethod
    def _no_arguments_of_another_network(cls, given: Any) -> Any:
        return {"backbone_args": {}, **given} if isinstance(given, dict) and _backbone(given) != PAPERS_BACKBONE else given

    @model_validator(mode="after")
    def _consistent(self) -> "Settings":
        if self.lr_start > self.peak_lr:
            raise ValueError(f"--lr-start {self.lr_start:g} is above the peak rate, {self.peak_lr:g}. Use a smaller one.")
        if self.metadata_loss == "siglip" and self.loss_gather == "slip":
            raise ValueError("--loss-gather slip does not go with --metadata-loss siglip, which SLIP does not have. Use exact.")
        if self.metadata_encoder == "pretrained" and self.text_model is None:
            raise ValueError("--metadata-encoder pretrained needs a sentence encoder. Name one with --text-model.")
        if self.metadata_encoder != "pretrained" and self.text_model is not None:
            raise ValueError(
                f"--text-model {self.text_model} is not read by --metadata-encoder {self.metadata_encoder}. Use pretrained."
            )
        return self

    @property
    def peak_lr(self) -> float:
        """The linear scaling rule (supplement B): lr_base x batch_size / 256."""
        return self.lr_base * self.batch_size / 256


def grouped_settings() -> dict[str, list[str]]:
    """Return the names of the settings under their headings, in order."""
    groups: dict[str, list[str]] = {}
    for name in Settings.model_fields:
        if name in GROUPS:
            groups[GROUPS[name]] = members = []
        members.append(name)
    return groups


def recipe_names() -> list[str]:
    """Return the names of the recipes that ship with the package."""
    return _names("")


def experiment_names() -> list[str]:
    """Return the names of the recipes of the paper's experiments, such as "paper/table5-gsd"."""
    return _names("paper/")


def all_recipes() -> dict[str, str]:
    """Return every shipped recipe with the first line of its file, which says what it is for."""
    names = [*recipe_names(), *experiment_names()]
    return {name: _recipe_text(name).partition("\n")[0].lstrip("# ") for name in names}


def _recipe_text(name: str) -> str:
    return (files("satmip_train.recipes") / f"{name}.toml").read_text(encoding="utf-8")


def _names(folder: str) -> list[str]:
    entries = (files("satmip_train.recipes") / folder).iterdir()
    return sorted(f"{folder}{entry.name.removesuffix('.toml')}" for entry in entries if entry.name.endswith(".toml"))


def load_recipe(name_or_path: str) -> dict[str, Any]:
    """Read a recipe by the name of a shipped one or by the path of a TOML file.

    A recipe may say `extends = "satmips"`: the name of another, or the path of one beside it, whose settings hold where its own
    are silent.

    Raises:
        ValueError: there is no such recipe, it is not TOML, or recipes extend one another in a circle.
    """
    chain: list[dict[str, Any]] = []
    names: list[str] = []
    following: str | None = name_or_path
    while following is not None:
        if following in names:
            raise ValueError(f'The recipe {following} extends itself: {" -> ".join([*names, following])}. Remove one "extends".')
        names.append(following)
        chain.append(_read_recipe(following))
        following = chain[-1].pop("extends", None)
        if following is not None and following.endswith(".toml"):
            following = str(Path(names[-1]).parent / following)
    return reduce(_laid_over, reversed(chain))


def _laid_over(settings: dict[str, Any], others: dict[str, Any]) -> dict[str, Any]:
    """Return settings with others laid over them; arguments of a network end with it where these name another."""
    kept = {**settings, **others}
    if "backbone_args" not in others and _backbone(kept) != _backbone(settings):
        kept.pop("backbone_args", None)
    return kept


def _backbone(settings: dict[str, Any]) -> str:
    return str(settings.get("backbone", PAPERS_BACKBONE))


def _read_recipe(name_or_path: str) -> dict[str, Any]:
    path = Path(name_or_path)
    if path.suffix != ".toml":
        if name_or_path not in (known := [*recipe_names(), *experiment_names()]):
            guess = did_you_mean(name_or_path, known)
            raise ValueError(
                f'Unknown recipe "{name_or_path}".{guess} All recipes: satmip-train recipes. A file of your own ends in .toml.'
            )
        return tomllib.loads(_recipe_text(name_or_path))
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise ValueError(f"Cannot read the recipe {path}: {cause(error)}.") from error


def resolve(recipe: str, flags: dict[str, Any]) -> Settings:
    """Return the settings of a recipe with the given flags laid over it (pydantic's ValidationError names what is wrong)."""
    return Settings.model_validate(_laid_over(load_recipe(recipe), flags))
