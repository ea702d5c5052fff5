"""The memory that a step will take: as much as its tensors then take, and a run that does not fit is refused before it begins."""

import re
from dataclasses import replace

import pytest
import torch
from helpers.training_runs import TINY
from rich.console import Console

from satmip_train.config import Settings
from satmip_train.data.dataset import open_dataset
from satmip_train.distributed import Job
from satmip_train.errors import UsageError
from satmip_train.objectives import OBJECTIVES
from satmip_train.training import step_memory
from satmip_train.training.batches import DataPath, batches
from satmip_train.training.dry_run import dry_run
from satmip_train.training.plan import plan_run
from satmip_train.training.state import build_state
from satmip_train.training.step import Step, batch_keys
from satmip_train.training.step_memory import check_memory
from satmip_train.training.train import train

CPU = Job(torch.device("cpu"))
SMALL = {"geo_clusters": 3, "queue_length": 20, "batch_size": 16, "trim_tokens": False}


def plan_of(toy, job=CPU, **changes):
    return plan_run(Settings(**{**TINY, **SMALL, **changes}), open_dataset(toy), job)


def walked(plan):
    return step_memory._Estimate(plan, restored=False)._walk(plan.settings, plan.settings.batch_size)


CASES = [
    *({"objective": objective} for objective in sorted(OBJECTIVES)),
    {"metadata_encoder": "tabular"},
    {"micro_batch": 3},
    {"grad_checkpointing": True, "precision": "bf16"},
    {"objective": "simclr", "backbone": "resnet18", "backbone_args": {}, "view_size": 32, "optimizer": "sgd", "attention": "math"},
]


@pytest.mark.parametrize("changes", CASES, ids=str)
def test_tensors_without_numbers_take_what_those_with_numbers_do(toy, changes):
    plan = plan_of(toy, **changes)
    told = walked(plan)
    state = build_state(plan)
    keys = batch_keys(state)
    batch = next(iter(batches(plan, keys, range(1), DataPath(False, ""), lambda _: None)))
    live = step_memory._Live([tensor.untyped_storage() for tensor in (*state.objective.parameters(), *state.objective.buffers())])
    state.optimizer.register_step_pre_hook(lambda *_: live.__exit__(None, None, None))
    live.__enter__()
    Step(plan, state)(batch)
    read_only = sum(batch[key].nbytes for key in keys - {"key", "image", "partner"})
    assert told.step == pytest.approx(live.peak + read_only, rel=0.03)
    averages = (tensor for kept in state.optimizer.state.values() for name, tensor in kept.items() if name != "step")
    assert told.optimizer == sum(average.nbytes for average in averages)


def test_many_parts_are_told_from_few(toy):
    """Of six parts four are walked through."""
    plan = plan_of(toy, batch_size=12, micro_batch=2)
    assert check_memory(plan) == pytest.approx(walked(plan).total, rel=0.02)


def test_a_run_that_does_not_fit_is_refused_with_what_fits(toy, tmp_path, monkeypatch):
    """Once it filled the machine until the kernel killed it; `--dry-run` too."""
    wide = {"objective": "simclr", "view_size": 64, "backbone_args": {**TINY["backbone_args"], "img_size": 64}}
    monkeypatch.setattr(step_memory, "_LIBRARIES", 0)
    plan = plan_of(toy, **wide)
    whole, least = check_memory(plan), check_memory(plan_of(toy, **wide, micro_batch=4))
    monkeypatch.setattr(step_memory, "free_memory", lambda job: least)
    monkeypatch.setattr(Step, "__call__", None)
    with pytest.raises(UsageError, match="GB are free") as refused:
        dry_run(plan)
    fitting = {name: int(value) for name, value in re.findall(r"--([a-z]+-[a-z]+) (\d+)", str(refused.value))}
    assert fitting.keys() == {"batch-size", "micro-batch"}
    for name, value in fitting.items():
        assert check_memory(plan_of(toy, **{**wide, name.replace("-", "_"): value})) < whole
    with pytest.raises(UsageError, match="GB are free"):
        train(plan.settings, plan.dataset, tmp_path / "run", CPU, Console(quiet=True))
    norms = plan_of(toy, objective="simclr", backbone="resnet18", backbone_args={}, view_size=32)
    monkeypatch.setattr(step_memory, "free_memory", lambda job: 2 * 10**9)
    needed = check_memory(norms)
    monkeypatch.setattr(step_memory, "free_memory", lambda job: needed - 1)
    with pytest.raises(UsageError, match="Use --batch-size") as refused:
        check_memory(norms)
    assert "--micro-batch" not in str(refused.value)


@pytest.mark.parametrize("free", [0, 10**12])
def test_a_gpu_is_asked_what_is_free(toy, monkeypatch, free):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 10**12))
    plan = replace(plan_of(toy), job=Job(torch.device("cuda")))
    assert check_memory(replace(plan, compiled=True)) == 0
    if free:
        assert check_memory(plan) > 0
    else:
        with pytest.raises(UsageError, match="0 GB are free"):
            check_memory(plan)


def test_what_cannot_be_told_beforehand_refuses_nothing(toy, monkeypatch):
    monkeypatch.setattr(step_memory, "_networks", lambda *_: 1 / 0)
    assert check_memory(plan_of(toy)) == 0
