"""Features of metadata, against the networks run by hand, and their place in the linear probe."""

import json
import re
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
from helpers.eval_world import COMMON, as_multilabel, call, write_run
from helpers.toy_shards import write_toy_shards
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.preprocessing import StandardScaler

from satmip_train.data.captions import token_ids
from satmip_train.data.dataset import open_dataset
from satmip_train.data.tar import Readers
from satmip_train.evaluation import features, metadata_features, probes
from satmip_train.evaluation.evaluate import Protocol, protocol_models, split_features
from satmip_train.evaluation.features import Features
from satmip_train.evaluation.metadata_features import Running
from satmip_train.evaluation.models import image_features, load_model, metadata_features_of
from satmip_train.objectives import OBJECTIVES


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("world")
    shards = write_toy_shards(root / "shards", {"train": 60, "val": 20}, missing=0.1)
    write_run(root / "text", shards)
    write_run(root / "tabular", shards, metadata_encoder="tabular", fields=("gsd", "location", "country_code"))
    write_run(root / "simclr", shards, objective="simclr")
    return root


def physical(shards: Path, split: str) -> list[dict[str, object]]:
    readers = Readers(open_dataset(shards), split)
    return [
        json.loads(readers[number].read(i, "json"))["metadata"]
        for number, shard in enumerate(readers.shards)
        for i in range(shard.samples)
    ]


def test_features_of_captions_are_the_encoders(world: Path, tmp_path: Path) -> None:
    model, dataset = load_model(world / "text", "metadata"), open_dataset(world / "shards")
    got = metadata_features.cached(tmp_path, model.metadata, dataset, "val", Running(batch_size=7))
    readers = Readers(dataset, "val")
    for row, key in enumerate(got.keys):
        shard, index = divmod(row, 10)
        assert readers[shard].keys[index] == key
        tokens = torch.tensor([token_ids(readers[shard].read(index, "txt").decode())])
        with torch.inference_mode():
            expected = model.metadata.encoder({"tokens": tokens})[0].numpy()
        np.testing.assert_allclose(got.vectors[row], expected, atol=1e-5)


def test_an_objective_of_ones_own_may_have_learned_from_metadata(world: Path, tmp_path: Path) -> None:
    with patch.dict(OBJECTIVES, {"mine": OBJECTIVES["satmip"]}):
        run = write_run(tmp_path / "mine", world / "shards", objective="mine")
    assert load_model(run, "metadata").metadata.encoder.batch_keys == {"tokens"}


def test_numbers_and_codes_mean_the_same_in_other_shards(world: Path, tmp_path: Path) -> None:
    """Where another build standardizes anew and knows other countries, features follow from the physical values alone."""
    model = load_model(world / "tabular", "metadata").metadata
    other = write_toy_shards(tmp_path / "other", {"train": 30, "val": 12}, seed=3, classes=("lake", "port"))
    dataset = open_dataset(other)
    trained = open_dataset(world / "shards")
    assert dataset.numeric[0].mean != trained.numeric[0].mean
    got = metadata_features.cached(tmp_path / "cache", model, dataset, "val", Running())
    names = [column.name for column in model.columns.numeric]
    assert names == ["gsd_x", "gsd_y", "longitude", "latitude"]
    countries = next(column for column in model.columns.categorical if column.name == "country_code").values
    for row, sample in enumerate(physical(other, "val")):
        values = [*sample["gsd"], *sample["location"]]
        numeric = [(v - column.mean) / column.std for v, column in zip(values, model.columns.numeric, strict=True)]
        code = countries.index(sample["country_code"]) + 1
        batch = {
            "numeric": torch.tensor([numeric]),
            "mask": torch.ones(1, 4, dtype=torch.bool),
            "categorical": torch.tensor([[code]]),
        }
        with torch.inference_mode():
            np.testing.assert_allclose(got.vectors[row], model.encoder(batch)[0].numpy(), atol=1e-4)


def test_a_category_that_training_did_not_know_is_unknown(world: Path) -> None:
    columns = load_model(world / "tabular", "metadata").metadata.columns
    theirs = tuple(replace(column, values=("BRA", "ZWE", "USA"), cardinality=4) for column in columns.categorical)
    batch = {"categorical": torch.tensor([[0], [1], [2], [3]])}
    ours = columns.categorical[0].values
    got = metadata_features.recode(batch, replace(columns, categorical=theirs), columns)["categorical"]
    assert got.tolist() == [[0], [ours.index("BRA") + 1], [0], [ours.index("USA") + 1]]


def test_the_identity_is_the_tabular_features(world: Path) -> None:
    dataset = open_dataset(world / "shards")
    got = metadata_features.identity(dataset, "train", ("gsd", "country_code"), Running(batch_size=11))
    country = next(column for column in dataset.categorical if column.name == "country_code")
    for row, sample in enumerate(physical(world / "shards", "train")):
        if sample["gsd"] is None:
            expected = [0.0, 0.0, 1.0, *[0.0] * len(country.values)]
        else:
            numbers = [(v - c.mean) / c.std for v, c in zip(sample["gsd"], dataset.numeric[:2], strict=True)]
            expected = [*numbers, 0.0, *(float(value == sample["country_code"]) for value in country.values)]
        np.testing.assert_allclose(got.vectors[row], expected, atol=1e-5)


@pytest.mark.parametrize("run", ["tabular", "text"])
def test_the_identity_of_other_test_shards_is_in_the_terms_of_the_train_shards(world: Path, tmp_path: Path, run: str) -> None:
    """Equal physical values give equal features, though the test shards standardize anew and know two countries only."""
    train = open_dataset(world / "shards")
    test = open_dataset(write_toy_shards(tmp_path / "other", {"train": 2, "val": 12}, seed=3, missing=0.2))
    (country,) = (column for column in train.categorical if column.name == "country_code")
    assert len(next(c for c in test.categorical if c.name == "country_code").values) < len(country.values)
    protocol = Protocol(train, test, modality="metadata", random_seeds=())
    (model,) = (model for model in protocol_models([world / run], protocol) if model.kind == "identity")
    learned, tested = split_features(model, protocol, lambda samples: None)
    assert learned.vectors.shape[1] == tested.vectors.shape[1]
    statistics = {column.name: column for column in train.numeric}
    names = [column.name for column in train.numeric if column.field in model.metadata.fields]
    for row, sample in enumerate(physical(Path(test.root), "val")):
        known = [*(sample["gsd"] or [None] * 2), *(sample["location"] or [None] * 2)]
        for name, value in zip(("gsd_x", "gsd_y", "longitude", "latitude"), known, strict=True):
            expected = 0.0 if value is None else (value - statistics[name].mean) / statistics[name].std
            assert tested.vectors[row, names.index(name)] == pytest.approx(expected, abs=1e-4)
        if run == "tabular":
            hits = (sample["country_code"] == value for value in country.values)
            # Two of the four countries are unknown to the test shards.
            unknown = sample["country_code"] not in ("USA", "BRA")
            assert tested.vectors[row, len(names) :].tolist() == [unknown, *(hit and not unknown for hit in hits)]


def test_the_cache_notices_another_encoder_and_answers_the_second_time(world: Path, tmp_path: Path) -> None:
    model, dataset = load_model(world / "text", "metadata").metadata, open_dataset(world / "shards")
    first = metadata_features.cached(tmp_path, model, dataset, "val", Running())
    done: list[int] = []
    again = metadata_features.cached(tmp_path, model, dataset, "val", Running(batch_size=3, progress=done.append))
    assert done == []
    assert np.array_equal(first.vectors, again.vectors)
    other = metadata_features.with_random_weights(model, 0)
    changed = metadata_features.cached(tmp_path, other, dataset, "val", Running(progress=done.append))
    assert sum(done) == 20
    assert not np.allclose(first.vectors, changed.vectors)
    metadata_features.cached(tmp_path, model, dataset, "val", Running(precision="bf16", progress=done.append))
    assert sum(done) == 40


def test_the_cache_notices_what_the_numbers_of_the_shards_mean(world: Path, tmp_path: Path) -> None:
    model, dataset = load_model(world / "tabular", "metadata").metadata, open_dataset(world / "shards")
    one, other = (replace(column, std=column.std * factor) for factor in (1.0, 2.0) for column in dataset.numeric[:1])
    found = [
        metadata_features.cached(tmp_path, model, replace(dataset, numeric=(first, *dataset.numeric[1:])), "val", Running())
        for first in (one, other)
    ]
    assert not np.allclose(found[0].vectors, found[1].vectors)


@pytest.mark.parametrize("modality", ["metadata", "both"])
def test_the_linear_probe_of_metadata_is_scikit_learns(world: Path, tmp_path: Path, modality: str) -> None:
    arguments = [world / "tabular", "--shards", world / "shards", "--modality", modality, "--random-seeds", "0,1"]
    got = call("linear", *arguments, "--out", tmp_path, *COMMON)
    assert got.exit_code == 0, got.output
    result = json.loads((tmp_path / f"linear-{modality}.json").read_text())
    kinds = ["run", "identity", "random", "random"] if modality == "metadata" else ["run", "random", "random"]
    assert [model["kind"] for model in result["models"]] == kinds
    assert (result["modality"], result["settings"]["standardize"]) == (modality, True)
    model, dataset = load_model(world / "tabular", "both"), open_dataset(world / "shards")

    def vectors(split: str) -> Features:
        image, metadata = image_features(model, dataset, split, Running()), metadata_features_of(model, dataset, split, Running())
        chosen = [metadata.vectors] if modality == "metadata" else [image.vectors, metadata.vectors]
        return replace(image, vectors=np.concatenate(chosen, axis=1))

    train, test = vectors("train"), vectors("val")
    scaler = StandardScaler().fit(train.vectors.astype(np.float64))
    x, z = (scaler.transform(part.vectors).astype(np.float64) for part in (train, test))
    oracle = LogisticRegression(C=np.inf, max_iter=200).fit(x, train.labels)
    assert result["models"][0]["metrics"]["top1"] == pytest.approx(oracle.score(z, test.labels))
    assert result["models"][0]["features"] == x.shape[1]


def test_a_multi_label_set_is_scored_by_average_precision(world: Path, tmp_path: Path) -> None:
    shards = as_multilabel(write_toy_shards(tmp_path / "shards", {"train": 60, "val": 20}))
    run = world / "text"
    for command in (["knn", "--k", "1,5"], ["linear", "--per-class", "--standardize"]):
        got = call(command[0], run, "--shards", shards, *command[1:], "--out", tmp_path, "--random-seeds", "", *COMMON)
        assert got.exit_code == 0, got.output
        assert "mAP, macro" in got.output
    assert "Average precision of each class" in " ".join(got.output.split())
    result = json.loads((tmp_path / "linear.json").read_text())
    dataset, model = open_dataset(shards), load_model(run)
    how = features.Input(32, dataset.mean, dataset.std)
    train, test = (features.extract(model.backbone, dataset, split, how) for split in ("train", "val"))
    assert train.labels.shape == (60, 4)
    # Held against scikit-learn in test_probes: features this alike converge in no 200 iterations, and not to the same last digits.
    x, z = probes.standardize(train.vectors, test.vectors)
    fit = probes.linear_multilabel(x, train.labels, z)
    found = {
        name: average_precision_score(test.labels[:, index], fit.scores[:, index]) for index, name in enumerate(dataset.classes[:3])
    }
    assert result["metric"] == "macro_map"
    assert result["models"][0]["ap_per_class"] == {**{n: pytest.approx(v) for n, v in found.items()}, dataset.classes[3]: None}
    assert result["models"][0]["metrics"]["macro_map"] == pytest.approx(np.mean(list(found.values())))


def test_a_run_that_learned_nothing_from_metadata_has_no_features_of_them(world: Path, tmp_path: Path) -> None:
    got = call("linear", world / "simclr", "--shards", world / "shards", "--modality", "both", "--out", tmp_path, *COMMON)
    assert got.exit_code == 1
    assert re.search(r"nothing from metadata: simclr .*Use runs of satmip", got.output.replace("\n", " "))


def test_captions_of_another_style_are_written_as_the_encoder_learned_them(world: Path, tmp_path: Path) -> None:
    """Shards hold the metadata that captions are of, so the style of the stored ones does not matter."""
    other = open_dataset(write_toy_shards(tmp_path / "sentences", {"train": 60, "val": 20}, missing=0.1, style="sentence"))
    model = load_model(world / "text", "metadata").metadata
    one, two = (
        metadata_features.cached(tmp_path / str(number), model, dataset, "val", Running())
        for number, dataset in enumerate((other, open_dataset(world / "shards")))
    )
    np.testing.assert_array_equal(one.vectors, two.vectors)


def test_raw_pixels_have_no_metadata(world: Path, tmp_path: Path) -> None:
    chosen = ["--backbone", "pixels", "--modality", "both", "--out", tmp_path]
    got = call("linear", world / "text", *chosen, "--shards", world / "shards", *COMMON)
    assert got.exit_code == 1
    assert "features of images only" in got.output
