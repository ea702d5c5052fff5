"""kNN while a run goes, and the best networks of a run."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.eval_world import as_multilabel, unlabel
from helpers.toy_shards import write_toy_shards
from helpers.training_runs import TINY
from rich.console import Console

from satmip_train.config import Settings
from satmip_train.data.dataset import open_dataset
from satmip_train.data.tar import Readers
from satmip_train.distributed import Job
from satmip_train.evaluation import features, probes
from satmip_train.runs import checkpoint
from satmip_train.runs.cost import read_summary
from satmip_train.runs.export import load_backbone
from satmip_train.runs.log import read_log
from satmip_train.training import online_knn
from satmip_train.training import state as state_module
from satmip_train.training.plan import plan_run
from satmip_train.training.state import build_state
from satmip_train.training.train import train

CPU = Job(torch.device("cpu"))


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    return open_dataset(write_toy_shards(tmp_path_factory.mktemp("toy"), {"train": 37, "val": 21}, shards=3, size=(24, 24)))


def plan_of(toy, **changes):
    return plan_run(Settings(**{**TINY, "objective": "simclr", "knn_every": 1, **changes}), toy, CPU)


@pytest.mark.parametrize(("samples", "at_most"), [(10, 10), (10, 100), (10, 3), (1, 1), (363571, 10000)])
def test_chosen_samples_are_spread_evenly(samples, at_most):
    numbers = online_knn.chosen(samples, at_most)
    assert len(numbers) == len(set(numbers.tolist())) == min(samples, at_most)
    assert 0 == numbers[0] <= numbers[-1] < samples
    gaps = np.diff([*numbers, samples])
    assert gaps.max() - gaps.min() <= 1


def test_all_samples_give_what_an_evaluation_of_whole_splits_gives(toy):
    plan = plan_of(toy, backbone_args={**TINY["backbone_args"], "pos_drop_rate": 0.5})
    backbone = build_state(plan).objective.backbone.train()
    how = features.Input(plan.settings.view_size, toy.mean, toy.std)
    train_features, test = (features.extract(backbone, toy, split, how) for split in ("train", "val"))
    predictions = probes.knn(train_features.vectors, train_features.labels, test.vectors, [20], classes=4)[20]
    expected = probes.score(test.labels, predictions, 4)
    got = online_knn.evaluate(plan, backbone)
    assert got == pytest.approx({"macro_f1": expected.macro_f1, "top1": expected.top1})
    assert backbone.training
    assert online_knn.evaluate(plan, backbone.eval()) == got
    assert not backbone.training
    few = online_knn.evaluate(plan_of(toy, knn_samples=5), backbone)
    assert set(few) == {"macro_f1", "top1"}
    assert [len(online_knn._features(plan_of(toy, knn_samples=5), backbone, split)[0]) for split in ("train", "val")] == [5, 5]
    exact, rounded = (online_knn._features(plan_of(toy, precision=name), backbone, "val")[0] for name in ("fp32", "bf16"))
    assert not np.array_equal(exact, rounded)
    np.testing.assert_allclose(rounded, exact, atol=0.1)


def test_it_is_due_every_so_many_epochs_and_at_the_end(toy):
    assert [step for step in range(1, 13) if online_knn.is_due(plan_of(toy), step)] == [4, 8, 12]
    assert [step for step in range(1, 13) if online_knn.is_due(plan_of(toy, knn_every=2), step)] == [8, 12]
    assert [step for step in range(1, 8) if online_knn.is_due(plan_of(toy, knn_every=0.5, max_steps=7), step)] == [2, 4, 6, 7]
    assert [step for step in range(1, 8) if online_knn.is_due(plan_of(toy, knn_every=0.4, max_steps=7), step)] == [2, 4, 6, 7]
    assert all(online_knn.is_due(plan_of(toy, knn_every=1e-9, max_steps=7), step) for step in range(1, 8))


def test_why_there_is_none_is_said(toy, tmp_path):
    assert online_knn.obstacle(plan_of(toy)) is None
    assert online_knn.obstacle(plan_of(toy, knn_every=0)) == "knn_every is 0"
    assert "no other split" in online_knn.obstacle(plan_of(toy, split="val"))
    assert "no other split" in online_knn.obstacle(plan_of(replace(toy, splits={**toy.splits, "val": 0})))
    unlabelled = open_dataset(write_toy_shards(tmp_path, {"train": 16, "val": 4}, size=(24, 24), classes=()))
    assert "no class" in online_knn.obstacle(plan_of(unlabelled))
    several = as_multilabel(write_toy_shards(tmp_path / "several", {"train": 16, "val": 4}, size=(24, 24)))
    assert "no class" in online_knn.obstacle(plan_of(open_dataset(several)))


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_split_without_a_class_is_no_ground_for_it(tmp_path, split):
    folder = write_toy_shards(tmp_path, {"train": 16, "val": 8}, size=(24, 24))
    before = open_dataset(folder)
    assert online_knn.obstacle(plan_of(before)) is None
    shards = Readers(before, split)
    unlabel(folder, {key for number in range(len(shards.shards)) for key in shards[number].keys})
    plan = plan_of(open_dataset(folder))
    assert online_knn.obstacle(plan) == f"none of the chips of {split!r} that it would take has a class"
    # It trains without.
    train(plan.settings.model_copy(update={"max_steps": 1}), plan.dataset, tmp_path / "run", CPU, Console(quiet=True))


def test_some_chips_with_a_class_are_ground_enough(tmp_path):
    folder = write_toy_shards(tmp_path, {"train": 16, "val": 8}, shards=2, size=(24, 24))
    keys = [key for number in range(2) for key in Readers(open_dataset(folder), "val")[number].keys]
    unlabel(folder, set(keys[:-1]))
    plan = plan_of(open_dataset(folder))
    assert online_knn.obstacle(plan) is None
    backbone = build_state(plan).objective.backbone
    vectors, labels = online_knn._features(plan, backbone, "val")
    assert (len(vectors), labels.min() >= 0, len(labels)) == (1, True, 1)
    assert online_knn.evaluate(plan, backbone)["top1"] in (0.0, 1.0)


def test_a_run_logs_its_scores_and_keeps_its_best(toy, tmp_path, monkeypatch):
    drawn = iter([0.5, 0.8, 0.6])
    monkeypatch.setattr(online_knn, "evaluate", lambda plan, backbone: {"macro_f1": next(drawn), "top1": 0.1})
    steps = {}
    save = state_module.save

    def save_and_note(plan, state, run, name=checkpoint.NAME):
        save(plan, state, run, name)
        if name == checkpoint.BEST:
            steps[state.step] = {key: value.clone() for key, value in state.objective.backbone.state_dict().items()}

    monkeypatch.setattr("satmip_train.training.train.save", save_and_note)
    plan = plan_of(toy, log_every=3)
    train(plan.settings, toy, tmp_path, CPU, Console(quiet=True))
    lines = read_log(tmp_path)
    assert [line["step"] + 1 for line in lines] == [3, 4, 6, 8, 9, 12]
    assert {line["step"] + 1: line["knn"]["macro_f1"] for line in lines if "knn" in line} == {4: 0.5, 8: 0.8, 12: 0.6}
    assert list(steps) == [4, 8]
    best = {"macro_f1": 0.8, "top1": 0.1, "step": 8}
    assert checkpoint.load(tmp_path)["best"] == checkpoint.load(tmp_path, checkpoint.BEST)["best"] == best
    assert read_summary(tmp_path)["best"] == best
    backbone, config = load_backbone(tmp_path / "backbone-best.safetensors")
    assert config["step"] == 8
    assert all(torch.equal(value, steps[8][name]) for name, value in backbone.state_dict().items())
    assert load_backbone(tmp_path)[1]["step"] == 12
    page = (tmp_path / "index.html").read_text()
    assert "0.8000" in page
    assert "macro-F1" in (tmp_path / "README.md").read_text()


def test_evaluating_changes_nothing_that_is_learned_and_a_resumed_run_remembers_the_best(toy, tmp_path):
    quiet = Console(quiet=True)
    common = {**TINY, "objective": "simclr", "epochs": 2, "data": "stream"}
    train(Settings(**common), toy, tmp_path / "without", CPU, quiet)
    train(Settings(**common, knn_every=1, max_steps=5), toy, tmp_path / "with", CPU, quiet)
    first = checkpoint.load(tmp_path / "with")["best"]
    train(Settings(**common, knn_every=1), toy, tmp_path / "with", CPU, quiet)
    one, two = checkpoint.load(tmp_path / "without"), checkpoint.load(tmp_path / "with")
    assert all(torch.equal(value, two["model"][name]) for name, value in one["model"].items())
    assert two["best"]["macro_f1"] >= first["macro_f1"]
    assert json.loads((tmp_path / "with/config.json").read_text())["online_knn"].startswith("every 1 epochs on val")
