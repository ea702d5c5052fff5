"""Training, from a shard directory to a backbone. Read it from top to bottom."""

import json
import math
import signal
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from satmip_train import augment, checkpoint, optim
from satmip_train.config import Settings
from satmip_train.curves import draw_curves
from satmip_train.distributed import synchronize_batch_norm
from satmip_train.errors import UsageError
from satmip_train.export import export_backbone
from satmip_train.job import Job, StopRequest
from satmip_train.log import Clock, Line, Reporter, keep_lines
from satmip_train.objectives import build_objective
from satmip_train.objectives.base import Objective
from satmip_train.places import read_places
from satmip_train.plan import Plan, describe, plan_run
from satmip_train.shards import Dataset, Readers
from satmip_train.stream import Batch, TrainingStream, loader

_VIEWS, _DROPOUT = 1, 2
"""Tell the random numbers of a step apart by their use."""


@dataclass
class State:
    """What changes while a run goes."""

    objective: Objective
    parallel: nn.Module
    """The objective, wrapped where there are several ranks."""
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    step: int = 0
    """Steps done."""


def build_state(plan: Plan) -> State:
    """Return the networks with fresh weights, and their optimizer, on the device.

    Raises:
        UsageError: the settings describe no objective.
    """
    torch.manual_seed(plan.settings.seed)
    try:
        objective = build_objective(plan.settings, plan.shape)
        objective.fit(partial(read_places, plan.dataset, plan.settings.split))
        objective.to(plan.job.device)
    except ValueError as error:
        raise UsageError(str(error)) from error
    if plan.settings.compile:
        objective.backbone.compile()
    parallel: nn.Module = objective
    if plan.job.ranks > 1:
        synchronize_batch_norm(objective)
        parallel = DistributedDataParallel(objective, gradient_as_bucket_view=True)
    optimizer = optim.build_optimizer(objective, plan.settings)
    scaler = torch.amp.GradScaler(plan.job.device.type, enabled=plan.precision == "fp16")
    return State(objective, parallel, optimizer, scaler)


def restore(plan: Plan, state: State, run: Path) -> None:
    """Go on from the run's checkpoint, where there is one.

    Raises:
        UsageError: the checkpoint is damaged, or of other settings or shards.
    """
    saved = checkpoint.load(run)
    if saved is None:
        return
    checkpoint.check_same_run(saved, plan.settings, plan.dataset.fingerprint, run)
    state.objective.load_state_dict(saved["model"])
    state.optimizer.load_state_dict(saved["optimizer"])
    state.scaler.load_state_dict(saved["scaler"])
    state.step = saved["step"]


def save(plan: Plan, state: State, run: Path) -> None:
    """Write the checkpoint of a run."""
    if plan.job.main:
        dataset = {
            "root": plan.dataset.root,
            "fingerprint": plan.dataset.fingerprint,
            "mean": plan.dataset.mean,
            "std": plan.dataset.std,
        }
        checkpoint.save(
            run,
            {
                "model": state.objective.state_dict(),
                "optimizer": state.optimizer.state_dict(),
                "scaler": state.scaler.state_dict(),
                "step": state.step,
                "settings": plan.settings.model_dump(mode="json"),
                "dataset": dataset,
                "versions": checkpoint.versions(),
            },
        )


def seed_of(*parts: int) -> int:
    """Return a 63-bit seed that is a pure function of the given numbers."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0]) >> 1


class Step:
    """One training step: views, forward, backward, learning rate, optimizer."""

    def __init__(self, plan: Plan, state: State) -> None:
        self._plan, self._state = plan, state
        self._policy = augment.policy(plan.settings.policy, plan.settings.view_size)
        self._mean, self._std = (torch.tensor(v, device=plan.job.device) for v in (plan.dataset.mean, plan.dataset.std))
        self._autocast = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(plan.precision)

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        """Learn from a batch; return the loss and its parts, still on the device.

        Shape:
            batch: see `stream.Decoder`; the rows of this rank
            returns: each ()
        """
        plan, state, job = self._plan, self._state, self._plan.job
        # Dropout draws from here, so that a resumed run draws the same.
        torch.manual_seed(seed_of(plan.settings.seed, state.step, _DROPOUT, job.rank))
        inputs: dict[str, Any] = {key: batch[key].to(job.device, non_blocking=True) for key in state.objective.batch_keys}
        images = {key: batch[key].to(job.device, non_blocking=True) for key in set(state.objective.view_sources)}
        inputs["views"] = tuple(self._view(images[key], number) for number, key in enumerate(state.objective.view_sources))
        state.optimizer.zero_grad(set_to_none=True)
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

    def _view(self, images: Tensor, number: int) -> Tensor:
        """Return one view of each image. The numbers are drawn for the global batch, so that they do not depend on the ranks."""
        plan, rows = self._plan, len(images)
        generator = torch.Generator().manual_seed(seed_of(plan.settings.seed, self._state.step, _VIEWS, number))
        params = augment.draw(self._policy, plan.settings.batch_size, generator, (images.shape[2], images.shape[3]))
        mine = params[plan.job.rank * rows : (plan.job.rank + 1) * rows].to(images.device, non_blocking=True)
        return augment.apply(images, mine, self._policy, self._mean, self._std)


def batches(plan: Plan, state: State) -> Iterable[Batch]:
    """Return this rank's batches from the next step to the last."""
    decoder = replace(plan.decoder, keys=state.objective.batch_keys | {*state.objective.view_sources, "key"})
    places = read_places(plan.dataset, plan.settings.split) if "partner" in decoder.keys else None
    stream = TrainingStream(Readers(plan.dataset, plan.settings.split), plan.order, decoder, places)
    steps = range(state.step, plan.last_step)
    return loader(stream, steps, plan.settings.workers, pin=plan.job.device.type == "cuda")


def train(settings: Settings, dataset: Dataset, run: Path, job: Job, console: Console) -> int:
    """Train, or go on training, into the folder `run`; the same call after an interruption resumes where it stopped.

    Writes `run.json` (everything resolved), `log.jsonl`, `last.pt`, and at the end `curves.png`, `backbone.safetensors` and
    `backbone.json`.

    Returns:
        0, or the number of the signal that stopped the run before its end

    Raises:
        UsageError: settings, shards, captions or an earlier run in the folder do not fit, or the loss is no longer finite.
    """
    plan = plan_run(settings, dataset, job)
    state = build_state(plan)
    restore(plan, state, run)
    if state.step >= plan.last_step:
        console.print(f"{run} is finished: {state.step} of {plan.last_step} steps are done.", soft_wrap=True)
    else:
        if job.main:
            _announce(plan, state, run, console)
        with StopRequest(job) as stop:
            _loop(plan, state, run, console, stop)
        if state.step < plan.last_step:
            saved = f"Stopped after step {state.step} of {plan.last_step} and saved"
            console.print(f"{saved}. The same command goes on from here.", soft_wrap=True)
            return int(stop.signal or signal.SIGTERM)
    if job.main:
        # Again for a finished run, which may have been killed just before this.
        draw_curves(run)
        console.print(f"Its backbone: {export_backbone(run)}", soft_wrap=True)
    return 0


def _announce(plan: Plan, state: State, run: Path, console: Console) -> None:
    description = describe(plan, state.objective)
    content = json.dumps(description, indent=1).encode()
    checkpoint.write_atomically(run / "run.json", lambda file: file.write(content))
    keep_lines(run, state.step)
    for name, value in description.items():
        console.print(f"{name}: {json.dumps(value)}", markup=False, soft_wrap=True)
    if plan.order.dropped:
        console.print(f"Each epoch leaves out {plan.order.dropped} samples that fill no batch, other ones each time.")
    if plan.empty_captions:
        console.print(f"Warning: {plan.empty_captions} captions know none of the fields and are read as empty.", style="yellow")
    if state.step:
        console.print(f"Going on after step {state.step}.")


def _loop(plan: Plan, state: State, run: Path, console: Console, stop: StopRequest) -> None:
    settings, clock, step, recent = plan.settings, Clock(plan.job.device), Step(plan, state), _Recent(plan.job, run)
    state.parallel.train()
    source = iter(batches(plan, state))
    with Reporter(run, console, state.step, plan.last_step) if plan.job.main else nullcontext() as reporter:
        while state.step < plan.last_step and not stop.agreed():
            clock.waits()
            batch = next(source)
            clock.works()
            recent.add(state.step, batch["key"], step(batch))
            last = state.step == plan.last_step
            if last or state.step % settings.log_every == 0:
                measured = recent.check()
                if reporter is not None:
                    reporter.report(_line(plan, state, measured, clock))
            if last or state.step % settings.checkpoint_every == 0:
                recent.check()
                save(plan, state, run)
    if state.step < plan.last_step:
        recent.check()
        save(plan, state, run)


def _line(plan: Plan, state: State, measured: dict[str, float], clock: Clock) -> Line:
    steps, seconds, waited = clock.read()
    return {
        "step": state.step - 1,
        "epoch": state.step / plan.order.steps_per_epoch,
        "lr": state.optimizer.param_groups[0]["lr"],
        "samples_per_second": steps * plan.settings.batch_size / seconds,
        "data_wait": waited / seconds,
        **measured,
        "chance": state.objective.chance(),
    }


class _Recent:
    """The steps since the last look: what they measured stays on the device until then, so that no step waits for it."""

    def __init__(self, job: Job, run: Path) -> None:
        self._job, self._run = job, run
        self._steps: list[tuple[int, list[str], dict[str, Tensor]]] = []
        self._measured: dict[str, float] = {}

    def add(self, step: int, keys: list[str], parts: dict[str, Tensor]) -> None:
        """Remember a step."""
        self._steps.append((step, keys, parts))

    def check(self) -> dict[str, float]:
        """Return what the last step measured, as the mean over the ranks, and forget the steps.

        Raises:
            UsageError: a loss was not finite; the keys of its batch are saved.
        """
        if self._steps:
            names = list(self._steps[-1][2])
            rows = torch.stack([torch.stack([parts[name].float() for name in names]) for _, _, parts in self._steps])
            values = self._job.mean(rows).tolist()
            for (step, keys, _), row in zip(self._steps, values, strict=True):
                if not all(map(math.isfinite, row)):
                    self._give_up(step, keys, dict(zip(names, row, strict=True)))
            self._steps, self._measured = [], dict(zip(names, values[-1], strict=True))
        return self._measured

    def _give_up(self, step: int, keys: list[str], measured: dict[str, float]) -> None:
        path = self._run / f"nonfinite-rank{self._job.rank}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"step": step, "measured": measured, "keys": keys}, indent=1), encoding="utf-8")
        raise UsageError(
            f"the loss must stay finite, however: {measured} at step {step}. The keys of the batch are in {path}; the last "
            "checkpoint is from before. Look at these samples, or pass a smaller --lr-base, --precision fp32 and another --out"
        )
