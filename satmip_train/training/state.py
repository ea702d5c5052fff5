"""Networks, optimizer and progress of a run; saving and restoring them."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from rich.console import Console
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from satmip_train.config import Settings
from satmip_train.data.places import read_places
from satmip_train.distributed import synchronize_batch_norm
from satmip_train.errors import UsageError
from satmip_train.models.class_token import round_residual
from satmip_train.objectives import build_objective
from satmip_train.objectives.base import Objective
from satmip_train.runs import checkpoint
from satmip_train.training import optim, speed
from satmip_train.training.micro_batch import micro_batched
from satmip_train.training.plan import RunPlan, describe_dataset, describe_metadata


@dataclass
class State:
    """State of a run that changes while it trains."""

    objective: Objective
    parallel: nn.Module
    """The objective, wrapped where there are several ranks."""
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    step: int = 0
    """Steps done."""
    best: dict[str, float] | None = None
    """The best kNN evaluation so far: its scores, and the steps that were done."""


def adapt(objective: Objective, settings: Settings) -> None:
    """Let the image encoders keep as much for the backward pass as the settings say, in the type that they say.

    Raises:
        ValueError: they cannot.
    """
    if settings.grad_checkpointing:
        speed.recompute_activations(objective.backbone)
    if settings.residual == "autocast":
        for encoder in objective.image_encoders:
            round_residual(encoder)


def build_state(plan: RunPlan) -> State:
    """Return the networks with fresh weights, and their optimizer, on the device.

    Raises:
        UsageError: the settings describe no objective.
    """
    torch.manual_seed(plan.settings.seed)
    try:
        objective = build_objective(plan.settings, plan.shape)
        objective.fit(partial(read_places, plan.dataset, plan.settings.split))
        objective.to(plan.job.device)
        adapt(objective, plan.settings)
        if plan.settings.grad_checkpointing and plan.job.device.type == "cpu":
            speed.return_freed_memory()
        if plan.compiled:
            speed.compile_encoders(objective, plan.settings.activation_budget)
        if plan.settings.micro_batch is not None:
            micro_batched(objective, plan.settings.micro_batch)
    except ValueError as error:
        raise UsageError(str(error)) from error
    parallel: nn.Module = objective
    if plan.job.ranks > 1:
        synchronize_batch_norm(objective)
        parallel = DistributedDataParallel(objective, gradient_as_bucket_view=True)
    optimizer = optim.build_optimizer(objective, plan.settings)
    scaler = torch.amp.GradScaler(plan.job.device.type, enabled=plan.precision == "fp16")
    return State(objective, parallel, optimizer, scaler)


def restore(plan: RunPlan, state: State, run: Path, console: Console) -> None:
    """Go on from the run's checkpoint, where there is one.

    Raises:
        UsageError: the checkpoint is damaged, or of other settings or shards, or is not there for every rank.
    """
    saved = checkpoint.load(run)
    if not plan.job.same(-1 if saved is None else saved["step"]):
        raise UsageError(
            f"The ranks found different checkpoints in {run}, so it is not shared by all machines. Use an --out on a file system "
            "that all of them see."
        )
    if saved is None:
        return
    checkpoint.check_same_run(saved, plan.settings, plan.dataset.fingerprint, run)
    known = state.objective.state_dict().keys()
    model = {checkpoint.todays_name(name, saved["model"], known): value for name, value in saved["model"].items()}
    state.objective.load_state_dict(model)
    optim.load_optimizer(state.optimizer, saved["optimizer"], list(model))
    if saved["scaler"]:  # empty where the run was not in fp16 before, which "auto" takes on some GPUs only
        state.scaler.load_state_dict(saved["scaler"])
    state.step, state.best = saved["step"], saved["best"]
    if saved["ranks"] != plan.job.ranks:
        console.print(
            f"The run had {_ranks(saved['ranks'])} and now has {_ranks(plan.job.ranks)}: it goes on with the same samples and "
            "views; what dropout draws, and how numbers round, is not the same.",
            soft_wrap=True,
        )


def _ranks(count: int) -> str:
    return f"{count} rank{'s' if count > 1 else ''}"


def save(plan: RunPlan, state: State, run: Path, name: str = checkpoint.NAME) -> None:
    """Write the checkpoint of a run."""
    if plan.job.main:
        content = {
            "model": state.objective.state_dict(),
            "optimizer": state.optimizer.state_dict(),
            "scaler": state.scaler.state_dict(),
            "step": state.step,
            "ranks": plan.job.ranks,
            "settings": plan.settings.model_dump(mode="json"),
            "metadata": describe_metadata(plan),
            "dataset": describe_dataset(plan.dataset),
            "best": state.best,
            "versions": checkpoint.versions(),
        }
        checkpoint.save(run, content, name)
