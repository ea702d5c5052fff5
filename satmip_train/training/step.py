"""One step of training: views, forward and backward pass, update."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from satmip_train import policies
from satmip_train.data.decoder import Batch
from satmip_train.data.transfer import to_device
from satmip_train.training import optim, speed
from satmip_train.training.plan import RunPlan
from satmip_train.training.state import State
from satmip_train.views import apply, draws

_VIEWS, _DROPOUT = 1, 2
"""Tell the random numbers of a step apart by their use."""


def seed_of(*parts: int) -> int:
    """Return a 63-bit seed that is a pure function of the given numbers."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0]) >> 1


class Step:
    """One training step: views, forward, backward, learning rate, optimizer."""

    def __init__(self, plan: RunPlan, state: State) -> None:
        self._plan, self._state = plan, state
        self._policy = policies.policy(plan.settings.policy, plan.settings.view_size, plan.settings.jitter)
        self._mean, self._std = (torch.tensor(v, device=plan.job.device) for v in (plan.dataset.mean, plan.dataset.std))
        self._autocast = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(plan.precision)
        speed.set_compile_cache_tag(f"attention {plan.settings.attention}", plan.precision)
        # On a CPU the views are made one by one, and there is nothing to fuse.
        fuses = plan.compiled and plan.job.device.type == "cuda"
        self._apply = torch.compile(apply.apply) if fuses else apply.apply

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        """Learn from a batch; return the loss and its parts, still on the device.

        Shape:
            batch: see `stream.Decoder`; the rows of this rank
            returns: each ()
        """
        plan, state, job = self._plan, self._state, self._plan.job
        # Dropout draws from here, so that a resumed run draws the same.
        torch.manual_seed(seed_of(plan.settings.seed, state.step, _DROPOUT, job.rank))
        inputs: dict[str, Any] = {key: to_device(batch[key], job.device) for key in state.objective.batch_keys}
        images = {key: to_device(batch[key], job.device) for key in set(state.objective.view_sources)}
        inputs["views"] = tuple(self.view(images[key], number) for number, key in enumerate(state.objective.view_sources))
        state.optimizer.zero_grad(set_to_none=True)
        with speed.attention(plan.settings.attention), speed.tf32(plan.settings.tf32 == "all"):
            with torch.autocast(job.device.type, dtype=self._autocast, enabled=self._autocast is not None):
                parts: dict[str, Tensor] = state.parallel(inputs)
            state.scaler.scale(parts["loss"]).backward()  # type: ignore[no-untyped-call]
        rate = optim.learning_rate(state.step, plan.order.steps_per_epoch, plan.total_steps, plan.settings)
        for group in state.optimizer.param_groups:
            group["lr"] = rate
        state.scaler.step(state.optimizer)
        state.scaler.update()
        state.objective.after_step()
        state.step += 1
        return {name: value.detach() for name, value in parts.items()}

    def view(self, images: Tensor, number: int) -> Tensor:
        """Return one view of each image. The numbers are drawn for the global batch, so that they do not depend on the ranks."""
        plan, rows = self._plan, len(images)
        generator = torch.Generator().manual_seed(seed_of(plan.settings.seed, self._state.step, _VIEWS, number))
        params = draws.draw(self._policy, plan.settings.batch_size, generator, (images.shape[2], images.shape[3]))
        mine = params[plan.job.rank * rows : (plan.job.rank + 1) * rows].to(images.device)
        with speed.tf32(plan.settings.tf32 != "off"):
            return self._apply(images, mine, self._policy, self._mean, self._std)


def batch_keys(state: State) -> frozenset[str]:
    """Return what a batch must hold: what the objective asks for, the images its views are made of, and names for messages."""
    return state.objective.batch_keys | {*state.objective.view_sources, "key"}
