"""Fine-tuning on toy shards."""

import json
import re
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from helpers.eval_world import COMMON, as_multilabel, call, unlabel, write_run
from helpers.toy_shards import write_dataset_json, write_toy_shards
from safetensors.torch import load_file

from satmip_train import policies
from satmip_train.data.dataset import open_dataset
from satmip_train.data.loader import ordered_batches
from satmip_train.errors import UsageError
from satmip_train.evaluation import features, finetune
from satmip_train.evaluation.classifiers import Knn
from satmip_train.evaluation.evaluate import Protocol, evaluate
from satmip_train.evaluation.finetune import FinetuneSettings
from satmip_train.evaluation.models import load_model
from satmip_train.views import draws

RECIPE = FinetuneSettings(epochs=3, batch_size=16, lr=1e-3)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("world")
    write_run(root / "run", write_toy_shards(root / "shards", {"train": 48, "val": 16}), objective="simclr")
    return root


def tune(
    world: Path, out: Path, recipe: FinetuneSettings = RECIPE, progress: object = None, shards: Path | None = None
) -> dict[str, object]:
    dataset = open_dataset(shards or world / "shards")
    protocol = Protocol(dataset, dataset, random_seeds=(), folder=out)
    return finetune.finetune([world / "run"], protocol, recipe, out, progress or (lambda name, samples: None))


def test_labels_are_learned_end_to_end(world: Path, tmp_path: Path) -> None:
    arguments = ["--shards", world / "shards", "--epochs", "12", "--batch-size", "16", "--lr", "1e-3", "--out", tmp_path]
    got = call("finetune", world / "run", *arguments, "--per-class", *COMMON)
    assert got.exit_code == 0, got.output
    result = json.loads((tmp_path / "finetune.json").read_text())
    (model,) = result["models"]
    assert model["metrics"]["top1"] >= 0.9
    assert model["losses"][-1] < model["losses"][0] / 2
    assert result["settings"] == {**asdict(FinetuneSettings(12, 16, 1e-3)), "precision": "fp32", "larger_images": "resize"}
    start = load_file(world / "run" / "backbone.safetensors")
    end = load_file(model["weights"])
    assert not torch.equal(start["blocks.0.attn.qkv.weight"], end["backbone.blocks.0.attn.qkv.weight"])
    assert end["classifier.weight"].shape == (4, 48)


def test_an_interrupted_run_goes_on_as_if_it_had_not_been(world: Path, tmp_path: Path) -> None:
    seen = 0

    def stop(name: str, samples: int) -> None:
        nonlocal seen
        seen += samples
        if seen > 16 * 3 + 16:  # in the second epoch
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tune(world, tmp_path / "stopped", progress=stop)
    rest: list[int] = []
    resumed = tune(world, tmp_path / "stopped", progress=lambda name, samples: rest.append(samples))
    assert sum(rest) == 2 * 48
    whole = tune(world, tmp_path / "whole")
    assert resumed["models"][0]["losses"] == whole["models"][0]["losses"]
    first, second = (load_file(result["models"][0]["weights"]) for result in (resumed, whole))
    assert all(torch.equal(first[name], second[name]) for name in second)


def test_a_state_is_read_onto_the_cpu(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """AdamW's counts of steps stay where they are read to; out of a GPU, each step would fetch each of them twice."""
    tune(world, tmp_path)
    load, onto = torch.load, {}

    def noted(path: Path, **options: object) -> object:
        onto[path.parent.name] = options["map_location"]
        return load(path, **options)

    monkeypatch.setattr(torch, "load", noted)
    tune(world, tmp_path)
    assert onto["finetuned"] == "cpu"


def test_without_weight_decay_all_weights_learn(world: Path, tmp_path: Path) -> None:
    """Once `--weight-decay 0` was a traceback: a parameter in two groups, and the matrices in none."""
    (model,) = tune(world, tmp_path, replace(RECIPE, epochs=1, weight_decay=0.0))["models"]
    start, end = load_file(world / "run" / "backbone.safetensors"), load_file(model["weights"])
    assert not any(torch.equal(value, end[f"backbone.{name}"]) for name, value in start.items())


def test_a_damaged_state_is_named(world: Path, tmp_path: Path) -> None:
    tune(world, tmp_path, replace(RECIPE, epochs=1))
    (path,) = (tmp_path / "finetuned").glob("*.pt")
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UsageError, match=rf"{path.name} is no state of a fine-tuning .*Delete it to begin again"):
        tune(world, tmp_path, replace(RECIPE, epochs=1))


def test_another_recipe_is_another_run(world: Path, tmp_path: Path) -> None:
    one, other = tune(world, tmp_path), tune(world, tmp_path, FinetuneSettings(epochs=1, batch_size=16, lr=1e-3, seed=1))
    assert one["models"][0]["weights"] != other["models"][0]["weights"]
    assert len(other["models"][0]["losses"]) == 1


def test_runs_with_dots_in_their_names_do_not_share_a_state(world: Path, tmp_path: Path) -> None:
    """Once `lambda-0.25` and `lambda-0.5` had one file, so that the second run was given the network of the first."""
    names = ["lambda-0.25", "lambda-0.5"]
    for seed, name in enumerate(names):
        write_run(tmp_path / name, world / "shards", objective="simclr", seed=seed)
    dataset = open_dataset(world / "shards")
    out = tmp_path / "out"
    protocol = Protocol(dataset, dataset, random_seeds=(), folder=out)
    runs = [tmp_path / name for name in names]
    models = finetune.finetune(runs, protocol, replace(RECIPE, epochs=1), out, lambda name, samples: None)["models"]
    assert [Path(model["weights"]).name.rpartition("-")[0] for model in models] == names
    assert models[0]["losses"] != models[1]["losses"]


def test_a_multi_label_set_is_scored_by_average_precision(world: Path, tmp_path: Path) -> None:
    shards = as_multilabel(write_toy_shards(tmp_path / "shards", {"train": 48, "val": 16}))
    result = tune(world, tmp_path, shards=shards)
    assert set(result["models"][0]["metrics"]) == {"macro_map", "micro_map"}
    assert result["metric"] == "macro_map"


@pytest.mark.parametrize(("split", "keys"), [("train", {"train_000003"}), ("val", {"val_000001", "val_000008"})])
def test_samples_without_a_label_are_refused_before_training_as_by_knn(
    world: Path, tmp_path: Path, split: str, keys: set[str]
) -> None:
    shards = unlabel(write_toy_shards(tmp_path / "shards", {"train": 48, "val": 16}), keys)
    learned: list[int] = []
    with pytest.raises(UsageError, match=rf"needs labels, and {len(keys)} of .*.{split}.") as one:
        tune(world, tmp_path, shards=shards, progress=lambda name, samples: learned.append(samples))
    assert learned == []
    dataset = open_dataset(shards)
    with pytest.raises(UsageError) as other:
        evaluate([world / "run"], Protocol(dataset, dataset, random_seeds=()), Knn())
    assert str(one.value) == str(other.value)


def test_splits_of_one_and_of_several_labels_are_refused(world: Path, tmp_path: Path) -> None:
    train = open_dataset(write_toy_shards(tmp_path / "train", {"train": 16}))
    test = open_dataset(as_multilabel(write_toy_shards(tmp_path / "test", {"val": 8})))
    with pytest.raises(UsageError, match="one label a sample, and the other several"):
        finetune.finetune([world / "run"], Protocol(train, test), RECIPE, tmp_path, lambda name, samples: None)


def test_the_result_tells_the_weights_that_tuning_started_from(world: Path, tmp_path: Path) -> None:
    (model,) = tune(world, tmp_path)["models"]
    assert model["fingerprint"] == load_model(world / "run").fingerprint


def test_the_rate_rises_and_falls() -> None:
    rates = [finetune.learning_rate(step, 10, FinetuneSettings(epochs=4, lr=0.2)) for step in range(40)]
    assert rates[:10] == pytest.approx([0.02 * (step + 1) for step in range(10)])
    assert rates[10] == pytest.approx(0.2)
    assert rates[25] == pytest.approx(0.1)
    assert all(a >= b for a, b in pairwise(rates[10:]))


def tuning_of(run: Path, protocol: Protocol, out: Path, recipe: FinetuneSettings = RECIPE) -> finetune._Tuning:
    return finetune._Tuning(load_model(run), protocol, recipe, out, lambda name, samples: None)


def test_the_classifier_learns_ten_times_as_fast_and_vectors_and_tokens_do_not_decay(world: Path, tmp_path: Path) -> None:
    dataset = open_dataset(world / "shards")
    tuning = tuning_of(world / "run", Protocol(dataset, dataset), tmp_path)
    tuning._step(20, next(ordered_batches(dataset, "train", {"image", "label"}, 16)), 10)
    rate, names = finetune.learning_rate(20, 10, RECIPE), {id(p): name for name, p in tuning._network.named_parameters()}
    for group in tuning._optimizer.param_groups:
        for parameter in group["params"]:
            name = names.pop(id(parameter))
            assert group["lr"] == pytest.approx(rate * (10 if name.startswith("classifier.") else 1)), name
            decays = parameter.ndim > 1 and not name.endswith(("pos_embed", "cls_token"))
            assert group["weight_decay"] == (0.05 if decays else 0.0), name
    assert not names


def test_each_step_and_each_seed_has_views_of_its_own(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset, draw, drawn = open_dataset(world / "shards"), draws.draw, []

    def noted(policy: policies.Policy, count: int, generator: torch.Generator, size: tuple[int, int]) -> draws.Params:
        drawn.append(generator.initial_seed())
        return draw(policy, count, generator, size)

    monkeypatch.setattr(draws, "draw", noted)
    batch, weights = next(ordered_batches(dataset, "train", {"image", "label"}, 8)), []
    for seed in (0, 1):
        tuning = tuning_of(world / "run", Protocol(dataset, dataset), tmp_path, replace(RECIPE, seed=seed))
        weights.append(tuning._network["classifier"].weight.detach().clone())
        for step in (0, 1):
            tuning._step(step, batch, 3)
    assert len(set(drawn)) == 4
    assert not torch.equal(*weights)


def test_the_test_is_in_evaluation_mode_with_the_statistics_of_the_train_chips(tmp_path: Path) -> None:
    """Of a network with batch norms: their statistics are learned while it is tuned, and used when it is tested."""
    shards = write_toy_shards(tmp_path / "other", {"val": 12}, seed=3)
    described = json.loads((shards / "dataset.json").read_text())
    described["channels"].update(mean=[0.1, 0.2, 0.3], std=[0.5, 0.6, 0.7])
    write_dataset_json(shards, described)
    learned = write_toy_shards(tmp_path / "learned", {"train": 16})
    run = write_run(tmp_path / "run", learned, objective="simclr", backbone="test_resnet", backbone_args={})
    train, test = open_dataset(learned), open_dataset(shards)
    tuning = tuning_of(run, Protocol(train, test), tmp_path, replace(RECIPE, epochs=1))
    tuning.run()
    labels, scores = tuning.test()
    network = tuning._network.eval()
    first = next(iter(load_model(run).backbone.buffers()))
    assert not torch.equal(first, next(iter(network.buffers())))
    batch = next(ordered_batches(test, "val", {"image", "label"}, 12))
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (train.mean, train.std))
    with torch.inference_mode():
        expected = network["classifier"](network["backbone"]((features.resize(batch["image"], 32) - mean) / std))
    assert labels.tolist() == batch["label"].tolist()
    torch.testing.assert_close(torch.from_numpy(scores).float(), expected, atol=1e-5, rtol=1e-5)


def test_there_must_be_weights_to_tune(world: Path, tmp_path: Path) -> None:
    common = ["--shards", world / "shards", "--out", tmp_path, "--batch-size", "16", *COMMON]
    got = call("finetune", "--backbone", "pixels", *common)
    assert "--backbone pixels has nothing to train" in got.output
    got = call("finetune", "--backbone", "tiny", *common)
    assert got.exit_code == 1
    assert "Use --random-seeds 0,1,2" in " ".join(got.output.split())


def test_a_batch_larger_than_the_split_is_refused(world: Path, tmp_path: Path) -> None:
    got = call("finetune", world / "run", "--shards", world / "shards", "--out", tmp_path, "--batch-size", "64", *COMMON)
    assert got.exit_code == 1
    assert re.search(r"batch of 64 .* 48 chips. Use --batch-size 48", got.output.replace("\n", " "))
