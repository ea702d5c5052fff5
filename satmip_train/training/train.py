"""Training, from a shard directory to a backbone. Read it from top to bottom."""

import json
import signal
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from satmip_data.names import counted
from satmip_train.config import Settings
from satmip_train.data.dataset import Dataset
from satmip_train.data.decoder import Batch
from satmip_train.data.loader import loader_errors
from satmip_train.data.places import ONE_SPOT, read_places
from satmip_train.distributed import Job
from satmip_train.files import RUN_CONFIG, write_atomically
from satmip_train.runs import checkpoint
from satmip_train.runs.cost import write_summary
from satmip_train.runs.export import export_run
from satmip_train.runs.log import Line, keep_lines
from satmip_train.runs.page import write_run_page
from satmip_train.training import batches as batches_module
from satmip_train.training import online_knn, optim, speed
from satmip_train.training.announce import show_outline, show_run
from satmip_train.training.batches import DataPath
from satmip_train.training.meter import Clock, Meter
from satmip_train.training.plan import RunPlan, describe, plan_run
from satmip_train.training.reporter import Reporter
from satmip_train.training.spread import Embeddings
from satmip_train.training.state import State, build_state, restore, save
from satmip_train.training.step import Step, batch_keys
from satmip_train.training.step_memory import check_memory
from satmip_train.training.step_metrics import StepMetrics
from satmip_train.training.stop import Stopped, StopRequest
from satmip_train.training.trackers import open_trackers


def batches(plan: RunPlan, state: State, path: DataPath, console: Console, stop: StopRequest) -> Iterable[Batch]:
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

        return batches_module.batches(plan, batch_keys(state), range(state.step, plan.last_step), path, progress)


def train(
    settings: Settings,
    dataset: Dataset,
    run: Path,
    job: Job,
    console: Console,
    recipe: str | None = None,
    verbose: bool = False,
) -> int:
    """Train, or go on training, into the folder `run`; the same call after an interruption resumes where it stopped.

    Writes `config.json` (everything resolved), `log.jsonl`, `last.pt` with `summary.json` (time, memory, energy), `best.pt` where
    kNN is evaluated, and at the end `index.html` with `curves.png`, and what `export_run` writes.

    Args:
        recipe: the one that the settings come from, only to show what differs from it
        verbose: whether every setting is shown before the first step, and not an outline

    Returns:
        0, or the number of the signal that stopped the run before its end

    Raises:
        UsageError: settings, shards, captions or an earlier run in the folder do not fit, or the loss is no longer finite.
    """
    checkpoint.check_folder(run)
    with checkpoint.locked(run) if job.main else nullcontext():
        return _train(plan_run(settings, dataset, job), run, console, recipe, verbose)


def _train(plan: RunPlan, run: Path, console: Console, recipe: str | None, verbose: bool) -> int:
    job = plan.job
    state = build_state(plan)
    restore(plan, state, run, console)
    if state.step >= plan.last_step:
        console.print(f"{run} is finished: {state.step} of {counted(plan.last_step, 'step')} done.", soft_wrap=True)
    else:
        needed = check_memory(plan, restored=state.step > 0)
        path = batches_module.choose(plan, state.step, needed)
        step = Step(plan, state)
        description = {**describe(plan, state.objective), "data": str(path)}
        description["online_knn"] = _online(plan)
        if job.main:
            _announce(plan, state, run, console, description, recipe)
            show = show_run if verbose else show_outline
            show(console, plan.settings, description, recipe)
            _warn(plan, state, console)
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


def _online(plan: RunPlan) -> str:
    obstacle = online_knn.obstacle(plan)
    if obstacle is not None:
        return f"none: {obstacle}"
    samples = f"at most {counted(plan.settings.knn_samples, 'sample')} a split"
    return f"every {plan.settings.knn_every:g} epochs on {online_knn.TEST_SPLIT}, {samples}"


def _announce(plan: RunPlan, state: State, run: Path, console: Console, description: dict[str, Any], recipe: str | None) -> None:
    content = json.dumps({**description, "recipe": recipe}, indent=1).encode()
    write_atomically(run / RUN_CONFIG, lambda file: file.write(content))
    keep_lines(run, state.step)


def _warn(plan: RunPlan, state: State, console: Console) -> None:
    """Print what may surprise about a run before it starts."""
    if dropped := plan.order.dropped:
        console.print(
            f"Each epoch leaves out {dropped} sample{'s' if dropped > 1 else ''} that fill no batch, different ones each time."
        )
    for doubt in optim.doubts(plan.order.steps_per_epoch, plan.total_steps, plan.settings):
        console.print(f"Warning: {doubt}.", style="yellow", soft_wrap=True)
    if plan.empty_captions and "tokens" in state.objective.batch_keys:
        console.print(f"Warning: {plan.empty_captions} captions are empty: their samples know none of the fields.", style="yellow")
    if (odd := temporal_doubt(plan, state.objective.view_sources)) is not None:
        console.print(f"Warning: {odd}", style="yellow", soft_wrap=True)
    if state.step:
        console.print(f"Going on after step {state.step}.")


def temporal_doubt(plan: RunPlan, view_sources: Sequence[str]) -> str | None:
    """Return what is odd about temporal positives on these shards: that a place of theirs is not one spot on Earth."""
    if "partner" not in view_sources:
        return None
    spread = read_places(plan.dataset, plan.settings.split).spread()
    if not spread > ONE_SPOT:  # NaN: nothing is known
        return None
    return (
        f"the samples of a place lie {spread:,.3g} km from its middle (median), so temporal positives show other ground. Use an "
        "objective without tp, or shards whose places are single spots."
    )


class Loop:
    """The steps of a session, with what is reported, evaluated and saved between them."""

    def __init__(
        self, plan: RunPlan, state: State, step: Step, run: Path, console: Console, path: DataPath, description: dict[str, Any]
    ) -> None:
        self._plan, self._state, self._run, self._console, self._path = plan, state, run, console, path
        self._clock, self._step, self._recent = Clock(plan.job.device), step, StepMetrics(plan.job, run)
        self._embeddings = Embeddings(state.objective.backbone, plan.settings.batch_size // plan.job.ranks)
        self._meter = Meter(plan.job, state.step)
        self._knn = online_knn.obstacle(plan) is None
        self._description = description
        self._reporter: Reporter | None = None

    def go(self, stop: StopRequest) -> None:
        """Take steps until the run ends or is asked to stop, and save."""
        plan, state, run = self._plan, self._state, self._run
        state.parallel.train()
        source = iter(batches(plan, state, self._path, self._console, stop))
        trackers = open_trackers(plan.settings.report_to, run, self._description, state.step) if plan.job.main else []
        batch = plan.settings.batch_size
        reports = Reporter(run, self._console, state.step, plan.last_step, trackers, batch) if plan.job.main else nullcontext()
        self._clock.restart()
        with reports as self._reporter, speed.compiler_errors(), speed.memory_errors(), loader_errors():
            while state.step < plan.last_step and not stop.agreed():
                self._clock.waits()
                samples = next(source)
                self._clock.works()
                self._recent.add(state.step, samples["key"], self._step(samples))
                if self._reporter is not None:
                    self._reporter.advance(state.step)
                self._look()
        if state.step < plan.last_step:
            self._save()

    def _look(self) -> None:
        """Report, evaluate and save after a step, where that is due."""
        plan, state = self._plan, self._state
        last = state.step == plan.last_step
        due = self._knn and online_knn.is_due(plan, state.step)
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
            "embeddings": self._embeddings.spread(plan.job),
        }

    def _evaluate(self) -> dict[str, float]:
        """Evaluate kNN on the main rank, while the others wait; keep the networks if none were better."""
        plan, state = self._plan, self._state
        self._recent.check_weights(state.objective)
        scores: dict[str, float] = {}
        if plan.job.main:
            scores = online_knn.evaluate(plan, state.objective.backbone)
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
