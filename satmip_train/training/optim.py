"""The optimizer and its schedule: SLIP's (supplement B), or MoCo's SGD."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from satmip_data.names import counted
from satmip_train.config import Settings
from satmip_train.models.weight_decay import undecayed


def learning_rate(step: int, steps_per_epoch: int, total_steps: int, settings: Settings) -> float:
    """Return the learning rate of a step, counted from 0: linear warm-up, then half a cosine, both per step.

    The warm-up goes from `lr_start` to the peak, both included; the first step after it has the peak once more, and the last
    step is one short of `lr_end`, as in SLIP. The cosine spans the steps that the warm-up leaves of `total_steps`.

    Raises:
        ValueError: the step is not one of the run.
    """
    if not 0 <= step < total_steps:
        raise ValueError(f"Step {step} is outside the run, which has {counted(total_steps, 'step')}.")
    warmup = round(settings.warmup_epochs * steps_per_epoch)
    if step < warmup:
        return settings.lr_start + (settings.peak_lr - settings.lr_start) * step / max(warmup - 1, 1)
    progress = (step - warmup) / (total_steps - warmup)
    return settings.lr_end + (settings.peak_lr - settings.lr_end) * (1 + math.cos(math.pi * progress)) / 2


def doubts(steps_per_epoch: int, total_steps: int, settings: Settings) -> list[str]:
    """Return what is odd about a schedule that can be followed all the same, to be told before the first step."""
    found = []
    if settings.lr_end > settings.peak_lr:
        found.append(
            f"the learning rate rises after the warm-up, from {settings.peak_lr:g} to --lr-end {settings.lr_end:g}, which is not "
            "scaled with the batch"
        )
    if (warmup := round(settings.warmup_epochs * steps_per_epoch)) > total_steps:
        found.append(f"the warm-up of {warmup} steps is longer than the run of {total_steps}, which never gets to its peak rate")
    return found


def build_optimizer(objective: nn.Module, settings: Settings) -> torch.optim.Optimizer:
    """Return AdamW or SGD over the parameters that learn: two groups, decayed and not. The loop sets the learning rate each step.

    NOTE[DIFF] MoCo's SGD decays every parameter; ours spares the same as AdamW.
    """
    spared = undecayed(objective, settings.wd_policy)
    learning = [(name, parameter) for name, parameter in objective.named_parameters() if parameter.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [(name, p) for name, p in learning if name not in spared], "weight_decay": settings.weight_decay},
        {"params": [(name, p) for name, p in learning if name in spared], "weight_decay": 0.0},
    ]
    # One pass over weight, gradient and averages: also on a CPU, six times as fast as a loop over the parameters.
    fused = {parameter.device.type for _, parameter in learning} <= {"cpu", "cuda"}
    if settings.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=settings.lr_start, momentum=settings.sgd_momentum, fused=fused)
    betas = settings.beta1, settings.beta2
    return torch.optim.AdamW(groups, lr=settings.lr_start, betas=betas, eps=settings.adam_eps, fused=fused)


def load_optimizer(optimizer: torch.optim.Optimizer, saved: dict[str, Any], names: Sequence[str]) -> None:
    """Give an optimizer of `build_optimizer` its state out of a checkpoint, each parameter by its name.

    Args:
        saved: the state dict, which numbers parameters
        names: today's names of all weights of the checkpoint, in its order; checkpoints from before states told the names of their
            parameters numbered them in this order, group by group

    Raises:
        KeyError: a parameter has no state in the checkpoint.
    """
    groups = []
    for group, then in zip(optimizer.param_groups, saved["param_groups"], strict=True):
        own = group["param_names"]
        numbers = dict(zip(then.get("param_names") or [name for name in names if name in own], then["params"], strict=True))
        groups.append({**then, "params": [numbers[name] for name in own], "param_names": own})
    optimizer.load_state_dict({"state": saved["state"], "param_groups": groups})
