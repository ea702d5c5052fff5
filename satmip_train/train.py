"""Training, from a shard directory to a backbone. Read it from top to bottom."""

import json
import signal
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from satmip_train import attention, augment, checkpoint, online, optim, resident, speed
from satmip_train.cached import work_in_parts
from satmip_train.class_token import round_residual
from satmip_train.config import Settings
from satmip_train.cost import write_summary
from satmip_train.display import show_run
from satmip_train.distributed import synchronize_batch_norm
from satmip_train.errors import UsageError
from satmip_train.export import export_run
from satmip_train.files import PLAN, write_atomically
from satmip_train.job import Job, Stopped, StopRequest
from satmip_train.log import Clock, Line, Reporter, keep_lines
from satmip_train.meter import Meter
from satmip_train.objectives import build_objective
from satmip_train.objectives.base import Objective
from satmip_train.places import read_places
from satmip_train.plan import Plan, describe, describe_dataset, describe_metadata, plan_run
from satmip_train.recent import Recent
from satmip_train.resident import DataPath
from satmip_train.run_page import write_run_page
from satmip_train.shards import Dataset
from satmip_train.stream import Batch, loader_errors
from satmip_train.trackers import open_trackers
from satmip_train.transfer import to_device

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
    best: dict[str, float] | None = None
    """The best kNN evaluation so far: its scores, and the steps that were done."""


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
        if plan.settings.grad_checkpointing:
            speed.recompute_activations(objective.backbone)
        if plan.settings.residual == "autocast":
            for encoder in objective.image_encoders:
                round_residual(encoder)
        if plan.compiled:
            speed.compile_encoders(objective, plan.settings.activation_budget)
        if plan.settings.micro_batch is not None:
            work_in_parts(objective, plan.settings.micro_batch)
    except ValueError as error:
        raise UsageError(str(error)) from error
    parallel: nn.Module = objective
    if plan.job.ranks > 1:
        synchronize_batch_norm(objective)
        parallel = DistributedDataParallel(objective, gradient_as_bucket_view=True)
    optimizer = optim.build_optimizer(objective, plan.settings)
    scaler = torch.amp.GradScaler(plan.job.device.type, enabled=plan.precision == "fp16")
    return State(objective, parallel, optimizer, scaler)


def restore(plan: Plan, state: State, run: Path, console: Console) -> None:
    """Go on from the run's checkpoint, where there is one.

    Raises:
        UsageError: the checkpoint is damaged, or of other settings or shards, or is not there for every rank.
    """
    saved = checkpoint.load(run)
    if not plan.job.same(-1 if saved is None else saved["step"]):
        raise UsageError(
            f"every rank must go on from the same step, however: they find different checkpoints in {run}. Pass an --out that "
            "all machines share"
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


def save(plan: Plan, state: State, run: Path, name: str = checkpoint.NAME) -> None:
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


def seed_of(*parts: int) -> int:
    """Return a 63-bit seed that is a pure function of the given numbers."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0]) >> 1


class Step:
    """One training step: views, forward, backward, learning rate, optimizer."""

    def __init__(self, plan: Plan, state: State) -> None:
        self._plan, self._state = plan, state
        self._policy = augment.policy(plan.settings.policy, plan.settings.view_size, plan.settings.jitter)
        self._mean, self._std = (torch.tensor(v, device=plan.job.device) for v in (plan.dataset.mean, plan.dataset.std))
        self._autocast = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(plan.precision)
        dtype = self._autocast or torch.float32
        try:
            self.attention = attention.choose(plan.settings.attention, state.objective.backbone, plan.job, dtype)
        except ValueError as error:
            raise UsageError(str(error)) from error
        attention.install(self.attention.name, state.objective.image_encoders)
        speed.tell_graphs_apart(f"attention {self.attention.name}", plan.precision)
        # On a CPU the views are made one by one, and there is nothing to fuse.
        fuses = plan.compiled and plan.job.device.type == "cuda"
        self._apply = torch.compile(augment.apply) if fuses else augment.apply

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
        with attention.use(self.attention.name), speed.tf32(plan.settings.tf32 == "all"):
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
        params = augment.draw(self._policy, plan.settings.batch_size, generator, (images.shape[2], images.shape[3]))
        mine = params[plan.job.rank * rows : (plan.job.rank + 1) * rows].to(images.device)
        with speed.tf32(plan.settings.tf32 != "off"):
            return self._apply(images, mine, self._policy, self._mean, self._std)


def batch_keys(state: State) -> frozenset[str]:
    """Return what a batch must hold: what the objective asks for, the images its views are made of, and names for messages."""
    return state.objective.batch_keys | {*state.objective.view_sources, "key"}


def batches(plan: Plan, state: State, path: DataPath, console: Console, stop: StopRequest) -> Iterable[Batch]:
    """Return this rank's batches from the next step to the last.

    Raises:
        Stopped: the run was asked to stop while a split was decoded onto the device.
    """
    columns = BarColumn(), MofNCompleteColumn(), TextColumn("samples decoded onto the device"), TimeRemainingColumn()
    with Progress(*columns, console=console, auto_refresh=False, disable=not console.is_terminal or not path.resident) as bar:
        task = bar.add_task("", total=sum(plan.order.counts))

        def progress(samples: int) -> None:
            bar.update(task, advance=samples, refresh=True)
            if stop.agreed():
                raise Stopped

        return resident.batches(plan, batch_keys(state), range(state.step, plan.last_step), path, progress)


def train(settings: Settings, dataset: Dataset, run: Path, job: Job, console: Console, recipe: str | None = None) -> int:
    """Train, or go on training, into the folder `run`; the same call after an interruption resumes where it stopped.

    Writes `config.json` (everything resolved), `log.jsonl`, `last.pt` with `summary.json` (time, memory, energy), `best.pt` where
    kNN is evaluated, and at the end `index.html` with `curves.png`, and what `export_run` writes.

    Args:
        recipe: the one that the settings come from, only to show what differs from it

    Returns:
        0, or the number of the signal that stopped the run before its end

    Raises:
        UsageError: settings, shards, captions or an earlier run in the folder do not fit, or the loss is no longer finite.
    """
    checkpoint.check_folder(run)
    with checkpoint.locked(run) if job.main else nullcontext():
        return _train(plan_run(settings, dataset, job), run, console, recipe)


def _train(plan: Plan, run: Path, console: Console, recipe: str | None) -> int:
    job = plan.job
    state = build_state(plan)
    restore(plan, state, run, console)
    if state.step >= plan.last_step:
        console.print(f"{run} is finished: {state.step} of {plan.last_step} steps are done.", soft_wrap=True)
    else:
        path = resident.choose(plan, state.step)
        step = Step(plan, state)
        description = {**describe(plan, state.objective), "attention": str(step.attention), "data": str(path)}
        description["online_knn"] = _online(plan)
        if job.main:
            _announce(plan, state, run, console, description, recipe)
        with StopRequest(job) as stop:
            try:
                Loop(plan, state, step, run, console, path, description).go(stop)
            except (speed.CompilerError, Stopped, KeyboardInterrupt):
                # What stops a whole group of processes also stops those of the compiler.
                if stop.signal is None:
                    raise
                there = "goes on from the last checkpoint" if (run / checkpoint.NAME).exists() else "begins again"
                console.print(f"Stopped; nothing more was saved. The same command {there}.", soft_wrap=True)
                return stop.signal
        if state.step < plan.last_step:
            saved = f"Stopped after step {state.step} of {plan.last_step} and saved"
            console.print(f"{saved}. The same command goes on from here.", soft_wrap=True)
            return int(stop.signal or signal.SIGTERM)
    if job.main:
        # Again for a finished run, which may have been killed just before this.
        for made in (*export_run(run), write_run_page(run)):
            console.print(f"Wrote {made}", soft_wrap=True)
    return 0


def _online(plan: Plan) -> str:
    obstacle = online.obstacle(plan)
    if obstacle is not None:
        return f"none: {obstacle}"
    return f"every {plan.settings.knn_every:g} epochs on {online.TEST_SPLIT}, {plan.settings.knn_samples:,} samples a split at most"


def _announce(plan: Plan, state: State, run: Path, console: Console, description: dict[str, Any], recipe: str | None) -> None:
    content = json.dumps({**description, "recipe": recipe}, indent=1).encode()
    write_atomically(run / PLAN, lambda file: file.write(content))
    keep_lines(run, state.step)
    show_run(console, plan.settings, description, recipe)
    if plan.order.dropped:
        console.print(f"Each epoch leaves out {plan.order.dropped} samples that fill no batch, other ones each time.")
    for doubt in optim.doubts(plan.order.steps_per_epoch, plan.total_steps, plan.settings):
        console.print(f"Warning: {doubt}.", style="yellow", soft_wrap=True)
    if plan.empty_captions and "tokens" in state.objective.batch_keys:
        console.print(f"Warning: {plan.empty_captions} captions know none of the fields and are read as empty.", style="yellow")
    if state.step:
        console.print(f"Going on after step {state.step}.")


class Loop:
    """The steps of a session, with what is reported, evaluated and saved between them."""

    def __init__(
        self, plan: Plan, state: State, step: Step, run: Path, console: Console, path: DataPath, description: dict[str, Any]
    ) -> None:
        self._plan, self._state, self._run, self._console, self._path = plan, state, run, console, path
        self._clock, self._step, self._recent = Clock(plan.job.device), step, Recent(plan.job, run)
        self._meter = Meter(plan.job, state.step)
        self._knn = online.obstacle(plan) is None
        self._description = description
        self._reporter: Reporter | None = None

    def go(self, stop: StopRequest) -> None:
        """Take steps until the run ends or is asked to stop, and save."""
        plan, state, run = self._plan, self._state, self._run
        state.parallel.train()
        source = iter(batches(plan, state, self._path, self._console, stop))
        trackers = open_trackers(plan.settings.report_to, run, self._description, state.step) if plan.job.main else []
        reports = Reporter(run, self._console, state.step, plan.last_step, trackers) if plan.job.main else nullcontext()
        self._clock.restart()
        with reports as self._reporter, speed.compiler_errors(), speed.memory_errors(), loader_errors():
            while state.step < plan.last_step and not stop.agreed():
                self._clock.waits()
                batch = next(source)
                self._clock.works()
                self._recent.add(state.step, batch["key"], self._step(batch))
                self._look()
        if state.step < plan.last_step:
            self._save()

    def _look(self) -> None:
        """Report, evaluate and save after a step, where that is due."""
        plan, state = self._plan, self._state
        last = state.step == plan.last_step
        due = self._knn and online.is_due(plan, state.step)
        if last or due or state.step % plan.settings.log_every == 0:
            line = self._line()
            if due:
                line["knn"] = self._evaluate()
            if self._reporter is not None:
                self._reporter.report(line)
            self._clock.restart()
        if last or state.step % plan.settings.checkpoint_every == 0:
            self._save()

    def _save(self) -> None:
        self._recent.check()
        self._recent.check_weights(self._state.objective)
        save(self._plan, self._state, self._run)
        self._summarize()

    def _line(self) -> Line:
        plan, state = self._plan, self._state
        measured = self._recent.check()
        steps, seconds, waited = self._clock.read()
        return {
            "step": state.step - 1,
            "epoch": state.step / plan.order.steps_per_epoch,
            "lr": state.optimizer.param_groups[0]["lr"],
            "samples_per_second": steps * plan.settings.batch_size / seconds,
            "data_wait": waited / seconds,
            **measured,
            "chance": state.objective.chance(),
        }

    def _evaluate(self) -> dict[str, float]:
        """Evaluate kNN on the main rank, while the others wait; keep the networks if none were better."""
        plan, state = self._plan, self._state
        self._recent.check_weights(state.objective)
        scores: dict[str, float] = {}
        if plan.job.main:
            scores = online.evaluate(plan, state.objective.backbone)
            if state.best is None or scores["macro_f1"] > state.best["macro_f1"]:
                state.best = {**scores, "step": state.step}
                save(plan, state, self._run, checkpoint.BEST)
        plan.job.wait()
        return scores

    def _summarize(self) -> None:
        """Tell with each checkpoint what its steps took: a session may end without a word."""
        session = self._meter.session(self._state.step, self._clock.worked)
        if self._plan.job.main:
            samples = self._state.step * self._plan.settings.batch_size
            facts = {"step": self._state.step, "samples": samples, "measured": self._recent.check(), "best": self._state.best}
            write_summary(self._run, session, facts)
