"""Probes of few labels: what is drawn, that it follows from the seed, and that no table takes such a score for a full one."""

import json
from pathlib import Path

import numpy as np
import pytest
from helpers.eval_world import COMMON, call, write_run
from helpers.toy_shards import write_toy_shards
from hypothesis import given
from hypothesis import strategies as st

from satmip_train.data.dataset import open_dataset
from satmip_train.evaluation import probes
from satmip_train.evaluation.evaluate import Protocol, few_labels, split_features
from satmip_train.evaluation.models import load_model
from satmip_train.paper.scores import read_scores


@given(counts=st.lists(st.integers(0, 60), min_size=1, max_size=5), share=st.floats(0.001, 1.0), seed=st.integers(0, 9))
def test_each_class_gives_its_share_and_at_least_one(counts: list[int], share: float, seed: int) -> None:
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    if not len(labels):
        return
    drawn = few_labels(labels, share, seed)
    assert (np.diff(drawn) > 0).all()
    for name, count in enumerate(counts):
        assert (labels[drawn] == name).sum() == (max(1, round(share * count)) if count else 0)
    assert drawn.tolist() == few_labels(labels, share, seed).tolist()


def test_other_seeds_draw_others_and_several_labels_are_drawn_without_a_look_at_them() -> None:
    labels = np.repeat([0, 1], 100)
    assert few_labels(labels, 0.1, 0).tolist() != few_labels(labels, 0.1, 1).tolist()
    assert len(few_labels(np.ones((50, 3), np.uint8), 0.1, 0)) == 5


def test_a_probe_of_few_labels_learns_from_the_drawn_features_alone(tmp_path: Path) -> None:
    shards = write_toy_shards(tmp_path / "shards", {"train": 40, "val": 12})
    run = write_run(tmp_path / "run", shards, objective="simclr", seed=2)
    out = tmp_path / "eval"
    printed = call("linear", run, "--shards", shards, "--label-share", 0.2, "--random-seeds", "", "--out", out, *COMMON)
    assert printed.exit_code == 0, printed.output
    assert "20 %" in printed.output
    result = json.loads((out / "labels-0.2-linear.json").read_text())
    protocol = Protocol(open_dataset(shards), open_dataset(shards))
    train, test = split_features(load_model(run), protocol, lambda samples: None)
    kept = few_labels(train.labels, 0.2, 2)
    assert 0 < len(kept) < 12
    fit = probes.linear(train.vectors[kept], train.labels[kept], test.vectors)
    assert result["models"][0]["metrics"]["top1"] == pytest.approx(np.mean(fit.predictions == test.labels))
    # kNN of more neighbours than labels looks at all of them.
    assert call("knn", run, "--shards", shards, "--label-share", 0.1, "--random-seeds", "", "--out", out, *COMMON).exit_code == 0
    assert json.loads((out / "labels-0.1-knn.json").read_text())["settings"]["ks"] == [1, 4]
    assert read_scores(out, {str(shards): "eurosat"}) == []
