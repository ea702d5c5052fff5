"""What makes a step fast, each lever with what it is measured against: another setting, or the fast path taken out by a patch."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from satmip_train.data.transfer import to_device
from satmip_train.models.class_token import ClassTokenViT
from satmip_train.objectives.base import Objective
from satmip_train.policies import Policy
from satmip_train.training.state import State
from satmip_train.training.step import Step
from satmip_train.views import apply
from satmip_train.views.draws import Params


def _nothing(state: State, step: Step) -> None:
    """Leave a step as it is."""


@dataclass(frozen=True)
class Lever:
    """One change to a measured run."""

    name: str
    changes: dict[str, Any] = field(default_factory=dict)
    """Settings."""
    held: bool = True
    """Whether the split is resident."""
    around: Callable[[], AbstractContextManager[Any]] = nullcontext
    """Entered before the networks are made."""
    prepare: Callable[[State, Step], None] = _nothing
    """Called once they are."""
    every_step: Callable[[dict[str, Tensor]], Any] = lambda parts: None
    steps: int | None = None
    """To measure, where a step takes very long."""

    @property
    def means(self) -> str:
        """How a user would do the same."""
        settings = " ".join(f"{name}={value}" for name, value in self.changes.items())
        return settings or ("data=stream" if not self.held else "patched" if self.name else "the recipe")


@contextmanager
def views_on_the_cpu() -> Iterator[None]:
    """Let one process make the views one by one on the CPU."""

    def made(images: Tensor, params: Params, policy: Policy) -> Tensor:
        return to_device(apply.one_by_one(images.cpu(), params.to("cpu"), policy), images.device)

    with patch.object(apply, "batched", made):
        yield


@contextmanager
def a_view_at_a_time() -> Iterator[None]:
    """Let each view have a pass through the backbone of its own."""
    with patch.object(Objective, "encode", lambda self, views: tuple(self.backbone(view) for view in views)):
        yield


@contextmanager
def weights_cast_at_each_use() -> Iterator[None]:
    """Let autocast forget what it has cast."""
    before = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(before)


def eager_views(state: State, step: Step) -> None:
    """Do not compile the views."""
    step._apply = apply.apply


def optimizer_by(fused: bool, foreach: bool) -> Callable[[State, Step], None]:
    """Take another implementation of AdamW."""

    def prepare(state: State, step: Step) -> None:
        for group in state.optimizer.param_groups:
            group.update(fused=fused, foreach=foreach)

    return prepare


def channels_last(state: State, step: Step) -> None:
    """Keep the patch embedding's weight with its channels last."""
    state.objective.backbone.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def eager_text(state: State, step: Step) -> None:
    """Do not compile the text encoder."""
    vars(state.objective.metadata_encoder).pop("features", None)


@contextmanager
def autotuned() -> Iterator[None]:
    """Let matrix products be chosen by trial, in both passes.

    What is set for the compiler at large holds for one thread alone since torch 2.12; another one compiles a GPU's backward pass.
    """
    with patch.object(torch, "compile", partial(torch.compile, options={"max_autotune": True})):
        yield


@contextmanager
def all_tokens() -> Iterator[None]:
    """Let the last block compute all tokens, as timm does."""
    with patch.object(ClassTokenViT, "forward", VisionTransformer.forward):
        yield


ROUNDED = Lever("residual stream rounded", {"residual": "autocast"})
LEVERS = (
    ROUNDED,
    Lever("stream instead of resident", held=False),
    Lever("no compile", {"compile": False}),
    Lever("attention flash", {"attention": "flash"}),
    Lever("attention cudnn", {"attention": "cudnn"}),
    Lever("attention efficient", {"attention": "efficient"}),
    Lever("a view at a time through the trunk", around=a_view_at_a_time),
    Lever("activations recomputed", {"grad_checkpointing": True}),
    Lever("nine tenths of the activations kept", {"activation_budget": 0.9}),
    Lever("a tenth of the activations kept", {"activation_budget": 0.1}),
    Lever("micro-batch of 256 rows", {"micro_batch": 256}),
    Lever("half the batch", {"batch_size": 512}),
    Lever("views not compiled", prepare=eager_views),
    Lever("views by one process on the CPU", around=views_on_the_cpu, prepare=eager_views, steps=2),
    Lever("tf32 off", {"tf32": "off"}),
    Lever("tf32 all", {"tf32": "all"}),
    Lever("tokens not trimmed", {"trim_tokens": False}),
    Lever("text encoder not compiled", prepare=eager_text),
    Lever("all tokens of the last block", around=all_tokens),
    Lever("AdamW foreach", prepare=optimizer_by(fused=False, foreach=True)),
    Lever("AdamW as a loop", prepare=optimizer_by(fused=False, foreach=False)),
    Lever("weights cast at each use", around=weights_cast_at_each_use),
    Lever("patch embedding channels last", prepare=channels_last),
    Lever("loss read in each step", every_step=lambda parts: float(parts["loss"])),
    Lever("attention math", {"attention": "math"}),
    Lever("fp16", {"precision": "fp16"}),
    Lever("fp32", {"precision": "fp32"}),
    # Products fused with what follows them, chosen by trial: minutes before the first step.
    Lever("max-autotune", around=autotuned),
)
"""Those of the most worth first. What is measured before each is the recipe as it stands, resident."""
