"""satmip-eval from the command line to its files, on toy shards and small exported runs."""

import base64
import io
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from helpers.browser import look_at
from helpers.eval_world import COMMON, SMALL, as_multilabel, call, rewrite, write_run
from helpers.toy_shards import write_toy_shards
from PIL import Image
from safetensors.numpy import load_file, save_file
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score
from sklearn.neighbors import KNeighborsClassifier
from torch import nn

from satmip_train.cli import options as cli_options
from satmip_train.data.dataset import open_dataset
from satmip_train.evaluation import features, models
from satmip_train.runs import checkpoint


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("world")
    shards = write_toy_shards(root / "shards", {"train": 60, "val": 20})
    for seed in (0, 1):
        write_run(root / "runs" / f"satmips-seed{seed}", shards, seed=seed)
    run = write_run(root / "runs" / "simclr-seed0", shards, objective="simclr")
    line = {"epoch": 0.0, "lr": 1e-3, "samples_per_second": 9.0, "data_wait": 0.5, "chance": {"loss": 3.0}, "loss": 4.0}
    lines = [{**line, "step": step, "epoch": step + 1.0, "loss": 4.0 - step} for step in range(3)]
    (run / "log.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return root


def runs(world: Path) -> list[Path]:
    return sorted((world / "runs").iterdir())


def direct_features(run: Path, shards: Path, split: str) -> features.Features:
    model, dataset = models.load_model(run), open_dataset(shards)
    return features.extract(model.backbone, dataset, split, features.Input(32, dataset.mean, dataset.std))


def test_knn_prints_and_writes_what_scikit_learn_finds(world: Path, tmp_path: Path) -> None:
    got = call("knn", *runs(world), "--shards", world / "shards", "--k", "1,5,20", "--out", tmp_path, *COMMON)
    assert got.exit_code == 0, got.output
    assert got.stdout.strip().endswith("knn.json")
    assert "macro-F1, k=5" in got.output
    result = json.loads((tmp_path / "knn.json").read_text())
    assert result["probe"] == "knn"
    assert result["settings"] == {
        "ks": [1, 5, 20],
        "fixed_k": 5,
        "temperature": 0.07,
        "precision": "fp32",
        "larger_images": "resize",
    }
    assert (result["train"]["samples"], result["test"]["samples"], result["classes"]) == (60, 20, 4)
    assert result["versions"] == checkpoint.versions()
    assert [model["name"] for model in result["models"]] == [run.name for run in runs(world)] + ["random weights"] * 3
    assert len({model["fingerprint"] for model in result["models"]}) == 6
    for model, run in zip(result["models"], runs(world), strict=False):
        train, test = (direct_features(run, world / "shards", split) for split in ("train", "val"))
        for k in (1, 5, 20):
            neighbours = KNeighborsClassifier(k, weights=lambda d: np.exp((1 - d) / 0.07), metric="cosine", algorithm="brute")
            predictions = neighbours.fit(train.vectors, train.labels).predict(test.vectors)
            assert model["by_k"][str(k)]["macro_f1"] == pytest.approx(f1_score(test.labels, predictions, average="macro"))
            assert model["by_k"][str(k)]["top1"] == pytest.approx(accuracy_score(test.labels, predictions))
        assert model["metrics"]["macro_f1"] == model["by_k"]["5"]["macro_f1"]
        assert model["metrics"]["best_top1"] == max(scores["top1"] for scores in model["by_k"].values())
        assert list(model["f1_per_class"]) == list(open_dataset(world / "shards").classes)


def test_a_k_above_the_train_samples_becomes_their_number(world: Path, tmp_path: Path) -> None:
    run = runs(world)[0]
    got = call("knn", run, "--shards", world / "shards", "--k", "1,60,70,100", "--fixed-k", "61", "--out", tmp_path, *COMMON)
    assert got.exit_code == 0, got.output
    assert "k=100 was asked for; the train split has 60 samples" in " ".join(got.output.split())
    result = json.loads((tmp_path / "knn.json").read_text())
    assert (result["settings"]["ks"], result["settings"]["fixed_k"]) == ([1, 60], 60)
    assert list(result["models"][0]["by_k"]) == ["1", "60"]


def test_controls_need_no_run(world: Path, tmp_path: Path) -> None:
    chosen = ["--backbone", "pixels", "--backbone", "tiny", "--random-seeds", "4"]
    got = call("knn", *chosen, "--shards", world / "shards", "--k", "1", "--out", tmp_path, *COMMON)
    assert got.exit_code == 0, got.output
    pixels, network = json.loads((tmp_path / "knn.json").read_text())["models"]
    assert (pixels["kind"], pixels["features"], network["kind"], network["seed"]) == ("pixels", 3 * 32 * 32, "random", 4)
    dataset = open_dataset(world / "shards")
    train, test = (
        features.extract(nn.Flatten(), dataset, split, features.Input(32, dataset.mean, dataset.std)) for split in ("train", "val")
    )
    neighbours = KNeighborsClassifier(1, metric="cosine", algorithm="brute").fit(train.vectors, train.labels)
    assert pixels["by_k"]["1"]["top1"] == pytest.approx(neighbours.score(test.vectors, test.labels))


def test_single_classes_are_a_table(world: Path, tmp_path: Path) -> None:
    got = call("linear", runs(world)[0], "--shards", world / "shards", "--per-class", "--out", tmp_path, *COMMON)
    rows = got.output[got.output.index("F1 of each class") :]
    result = json.loads((tmp_path / "linear.json").read_text())
    for label, value in result["models"][0]["f1_per_class"].items():
        assert re.search(rf"{label} .*{100 * value:.1f}", rows)


def test_single_classes_of_random_weights_are_a_column_a_seed(world: Path, tmp_path: Path) -> None:
    chosen = ["--backbone", "tiny", "--random-seeds", "0,5", "--per-class"]
    got = call("knn", *chosen, "--shards", world / "shards", "--k", "1", "--fixed-k", "1", "--out", tmp_path, *COMMON)
    assert got.exit_code == 0, got.output
    assert re.search(r"seed 0 .*seed 5", " ".join(got.output.split()))


def test_long_names_are_whole_where_the_terminal_is_narrow(world: Path, tmp_path: Path) -> None:
    """Once both of two runs were called `decoupled-sim…` in a file or a terminal of 80 columns."""
    names = [f"decoupled-simclr-weight-0.25-[crop]-seed{seed}" for seed in (0, 1)]
    for seed, name in enumerate(names):
        write_run(tmp_path / name, world / "shards", objective="simclr", seed=seed)
    arguments = ["knn", *(tmp_path / name for name in names), "--shards", world / "shards", "--random-seeds", "", "--per-class"]
    got = call(*arguments, "--out", tmp_path / "out", *COMMON)
    table, single = got.output.split("F1 of each class")
    assert all(any(line.startswith(name) for line in table.splitlines()) for name in names)
    assert "…" not in got.output
    assert "crop]-seed1" in single


def test_the_best_backbone_of_a_run_is_evaluated_by_its_file(world: Path, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", world / "shards")
    for ending in ("safetensors", "json"):
        (run / f"backbone.{ending}").rename(run / f"backbone-best.{ending}")
    best = run / "backbone-best.safetensors"
    common = ["--shards", world / "shards", "--random-seeds", "", "--out", tmp_path, *COMMON]
    got = call("linear", best, *common)
    assert got.exit_code == 0, got.output
    (model,) = json.loads((tmp_path / "linear.json").read_text())["models"]
    assert (model["name"], model["run"]) == ("run/backbone-best", str(best))
    assert len(list((run / "features").iterdir())) == 2
    got = call("linear", best, "--modality", "both", *common)
    assert got.exit_code == 1
    assert f"{best} is a file. Use {run}" in got.output.replace("\n", "")


def test_runs_that_differ_only_in_seed_are_summarised(world: Path, tmp_path: Path) -> None:
    call("knn", *runs(world), "--shards", world / "shards", "--k", "1", "--out", tmp_path, *COMMON)
    result = json.loads((tmp_path / "knn.json").read_text())
    assert [(summary["name"], summary["seeds"]) for summary in result["summaries"]] == [
        ("satmips", [0, 1]),
        ("random weights", [0, 1, 2]),
    ]
    a, b = (model["metrics"]["top1"] for model in result["models"][:2])
    assert result["summaries"][0]["mean"]["top1"] == pytest.approx((a + b) / 2)
    assert result["summaries"][0]["std"]["top1"] == pytest.approx(abs(a - b) / 2**0.5)
    # Student's 97.5% point for one degree of freedom is 12.706.
    assert result["summaries"][0]["interval"]["top1"] == pytest.approx(12.7062 * abs(a - b) / 2, rel=1e-4)


def test_another_setting_is_another_summary(world: Path, tmp_path: Path) -> None:
    for seed in (0, 1):
        write_run(tmp_path / f"weak{seed}", world / "shards", seed=seed, simclr_weight=0.5, workers=seed)
    weak = [tmp_path / "weak0", tmp_path / "weak1"]
    call("knn", *runs(world), *weak, "--shards", world / "shards", "--out", tmp_path, "--k", "1", "--random-seeds", "", *COMMON)
    result = json.loads((tmp_path / "knn.json").read_text())
    assert [summary["models"] for summary in result["summaries"]] == [["satmips-seed0", "satmips-seed1"], ["weak0", "weak1"]]
    assert not any(model["objective"] is None for model in result["models"])


def test_a_second_evaluation_uses_the_cache_and_says_the_same(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["knn", runs(world)[0], "--shards", world / "shards", "--k", "1", "--out", tmp_path, *COMMON]
    call(*arguments)
    first = (tmp_path / "knn.json").read_text()

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("features were computed again")

    monkeypatch.setattr(features, "extract", fail)
    call(*arguments)
    assert (tmp_path / "knn.json").read_text() == first


def test_linear_is_scikit_learns(world: Path, tmp_path: Path) -> None:
    run = runs(world)[2]
    got = call("linear", run, "--shards", world / "shards", "--out", tmp_path, "--random-seeds", "3", *COMMON)
    assert got.exit_code == 0, got.output
    result = json.loads((tmp_path / "linear.json").read_text())
    train, test = (direct_features(run, world / "shards", split) for split in ("train", "val"))
    model = LogisticRegression(C=np.inf, max_iter=200).fit(train.vectors.astype(np.float64), train.labels)
    predictions = model.predict(test.vectors.astype(np.float64))
    mine = result["models"][0]
    assert mine["metrics"]["macro_f1"] == pytest.approx(f1_score(test.labels, predictions, average="macro"))
    assert mine["iterations"] == model.n_iter_[0]
    assert mine["gradient_norm"] <= 1e-4
    assert (result["models"][1]["objective"], result["models"][1]["seed"]) == (None, 3)
    assert "random weights" in got.output


def test_other_shards_can_be_tested_on(world: Path, tmp_path: Path) -> None:
    other = write_toy_shards(tmp_path / "other", {"test": 12}, seed=5)
    tested_on = ["--test-shards", other, "--test-split", "test", "--out", tmp_path]
    got = call("knn", runs(world)[0], "--shards", world / "shards", "--k", "1", *tested_on, *COMMON)
    assert got.exit_code == 0, got.output
    assert json.loads((tmp_path / "knn.json").read_text())["test"]["samples"] == 12


def test_random_weights_of_several_architectures_are_named_after_their_runs(world: Path, tmp_path: Path) -> None:
    other = write_run(tmp_path / "deeper", world / "shards", objective="simclr", backbone_args={**SMALL, "depth": 2})
    asked = ["--k", "1", "--random-seeds", "0,1", "--backbone", "tiny", "--out", tmp_path]
    call("knn", *runs(world), other, "--shards", world / "shards", *asked, *COMMON)
    result = json.loads((tmp_path / "knn.json").read_text())
    names = [f"random weights of {name}" for name in (runs(world)[0].name, "deeper", "tiny")]
    assert [model["name"] for model in result["models"] if model["kind"] == "random"] == [n for n in names for _ in range(2)]
    assert [summary["name"] for summary in result["summaries"] if "random" in summary["name"]] == names


def test_random_weights_have_the_runs_architecture_and_the_seed(world: Path) -> None:
    run = models.load_model(runs(world)[0])
    first, again, other = (models.random_model(run, seed) for seed in (0, 0, 1))
    assert first.architecture == run.architecture
    assert first.fingerprint == again.fingerprint
    assert len({first.fingerprint, other.fingerprint, run.fingerprint}) == 3


def unlabelled(world: Path, tmp_path: Path) -> list[object]:
    return [runs(world)[0], "--shards", write_toy_shards(tmp_path / "unlabelled", classes=())]


def not_exported(world: Path, tmp_path: Path) -> list[object]:
    (tmp_path / "run").mkdir()
    return [tmp_path / "run", "--shards", world / "shards", "--k", "1"]


def same_split(world: Path, tmp_path: Path) -> list[object]:
    return [runs(world)[0], "--shards", world / "shards", "--test-split", "train"]


def no_such_split(world: Path, tmp_path: Path) -> list[object]:
    return [runs(world)[0], "--shards", world / "shards", "--test-split", "test"]


def other_classes(world: Path, tmp_path: Path) -> list[object]:
    other = write_toy_shards(tmp_path / "other", classes=("lake", "port"))
    return [runs(world)[0], "--shards", world / "shards", "--test-shards", other]


def nothing_to_evaluate(world: Path, tmp_path: Path) -> list[object]:
    return ["--shards", world / "shards"]


def no_such_backbone(world: Path, tmp_path: Path) -> list[object]:
    return ["--backbone", "resnet", "--shards", world / "shards"]


def not_finite(world: Path, tmp_path: Path) -> list[object]:
    run = write_run(tmp_path / "spoiled", world / "shards", objective="simclr")
    weights = load_file(run / "backbone.safetensors")
    weights["norm.bias"][0] = np.nan
    save_file(weights, run / "backbone.safetensors")
    described = json.loads((run / "backbone.json").read_text())
    del described["sha256"], described["own_sha256"]  # as earlier versions wrote it
    (run / "backbone.json").write_text(json.dumps(described))
    return [run, "--shards", world / "shards", "--random-seeds", ""]


def no_shards(world: Path, tmp_path: Path) -> list[object]:
    return [runs(world)[0], "--shards", tmp_path]


@pytest.mark.parametrize(
    ("case", "message"),
    [
        (unlabelled, r"needs labels.*have no classes.*--shards"),
        (not_exported, r"no backbone.safetensors.*Run: satmip-train export"),
        (same_split, r"share 2 shards.*another --test-split"),
        (no_such_split, 'Unknown split "test".*train, val'),
        (other_classes, r"different classes: 4 in .*, 2 in .*; only one has .airport..*other --test-shards"),
        (nothing_to_evaluate, r"nothing to evaluate.*--backbone"),
        (no_such_backbone, r"--backbone: Unknown recipe .resnet"),
        (no_shards, r"holds no dataset.json"),
        (not_finite, r"60 of 60 train features.*--precision fp32"),
    ],
)
def test_errors_say_what_is_wrong_and_what_to_type(
    world: Path, tmp_path: Path, case: Callable[[Path, Path], list[object]], message: str
) -> None:
    got = call("knn", *case(world, tmp_path), "--out", tmp_path, *COMMON)
    assert got.exit_code == 1
    assert re.search(message, got.output.replace("\n", " ")), got.output
    assert not (tmp_path / "knn.json").exists()


def test_a_split_of_one_class_has_no_linear_probe(world: Path, tmp_path: Path) -> None:
    shards = rewrite(
        write_toy_shards(tmp_path / "shards", {"train": 60, "val": 20}),
        lambda name, content: (name, b"1" if name.endswith(".cls") and name.startswith("train") else content),
    )
    got = call("linear", runs(world)[0], "--shards", shards, "--random-seeds", "", "--out", tmp_path, *COMMON)
    assert got.exit_code == 1
    assert "two classes to learn from" in got.output


@pytest.mark.parametrize("value", ["0", "1,two", "", "²"])
def test_a_list_that_is_none_is_refused(world: Path, value: str) -> None:
    got = call("knn", runs(world)[0], "--shards", world / "shards", "--k", value)
    assert got.exit_code == 2
    assert "integers from 1 up" in got.output


@pytest.mark.parametrize("command", [[], ["knn"], ["linear"], ["report"]])
def test_help_shows_an_example(command: list[str]) -> None:
    got = call(*command, "-h")
    assert got.exit_code == 0
    assert "Example:\n" in got.output
    assert "satmip-eval" in got.output.split("Example:")[1]


class Page(HTMLParser):
    """Collects tags, text and pictures, and checks that tags are closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.pictures: list[Image.Image] = []
        self.links: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)
        values = dict(attributes)
        self.links += [value for name in ("src", "href") if (value := values.get(name)) and not value.startswith(("data:", "#"))]
        if tag == "img":
            self.pictures.append(Image.open(io.BytesIO(base64.b64decode(str(values["src"]).partition("base64,")[2]))))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_report_is_one_whole_page(world: Path, tmp_path: Path) -> None:
    got = call("report", "--shards", world / "shards", "--runs", *runs(world), "--out", tmp_path, "--k", "1,5", *COMMON)
    assert got.exit_code == 0, got.output
    assert got.stdout.strip().splitlines()[-1] == str(tmp_path / "index.html")
    assert (tmp_path / "knn.json").exists()
    html = (tmp_path / "index.html").read_text(encoding="utf-8")
    page = Page(html)
    assert page.open == []
    assert page.links == []
    assert "http" not in html
    for expected in (
        "gsd: [",
        "satmips-seed0",
        "simclr-seed0",
        "random weights, 3 seeds",
        "kNN on val",
        "lr_base",
        "CC0-1.0",
        "airport",
    ):
        assert expected in page.text
    # 12 chips, six that are read, six queries with six neighbours each; the charts of the run that has a log: loss, rate, speed,
    # waiting; a map and a year for each that is read; the features by class, GSD, latitude and season.
    assert len(page.pictures) == 12 + 6 + 6 * 7
    assert html.count('role="img"') == 4 + 6 * 2 + 4
    assert html.count('class="chart dots"') == 4
    assert "best constant" in page.text
    assert "loss from 4 to 2" in html
    assert {picture.format for picture in page.pictures} == {"PNG"}


def test_a_browser_shows_the_report_on_a_telephone_and_on_a_desk(world: Path, tmp_path: Path) -> None:
    long = write_toy_shards(
        tmp_path / "shards", {"train": 24, "val": 8}, classes=("a" * 90, "b " * 50, "<script>alert(1)</script>", "d")
    )
    run = write_run(tmp_path / f"a-run-with-a-name-that-does-not-end{'-' * 90}", long, objective="simclr")
    shutil.copy(world / "runs/simclr-seed0/log.jsonl", run)
    call("report", "--shards", long, "--runs", run, "--out", tmp_path, "--k", "1", "--random-seeds", "0,1", *COMMON)
    for width, shown in look_at(tmp_path / "index.html", tmp_path).items():
        assert shown["overflow"] <= 0, width
        assert (shown["lines"], shown["pictures"]) == (5, 12 + 6 * 7)  # four lines and a level of chance
        assert shown["letters"] > 10, width


def test_names_that_are_markup_stay_text(tmp_path: Path) -> None:
    hostile = ("<script>alert(1)</script>", "</style><img src=x onerror=alert(1)>", "\"&quot;'", "port")
    shards = write_toy_shards(tmp_path / "shards", {"train": 24, "val": 8}, classes=hostile)
    run = write_run(tmp_path / "<b>run<script>", shards, objective="simclr")
    got = call("report", "--shards", shards, "--runs", run, "--out", tmp_path / "out", "--k", "1", "--random-seeds", "", *COMMON)
    assert got.exit_code == 0, got.output
    html = (tmp_path / "out/index.html").read_text(encoding="utf-8")
    page = Page(html)
    assert (page.open, page.links) == ([], [])
    assert "<script" not in html
    assert "onerror" not in re.sub(r"&lt;/style&gt;&lt;img src=x onerror=alert\(1\)&gt;", "", html)
    assert all(name in page.text for name in (*hostile, "<b>run<script>"))


def test_the_report_shows_the_nearest_chips(world: Path, tmp_path: Path) -> None:
    run = runs(world)[0]
    call("report", "--shards", world / "shards", "--runs", run, "--out", tmp_path, "--k", "1", *COMMON)
    html = (tmp_path / "index.html").read_text(encoding="utf-8")
    shown = re.findall(r'alt="((?:train|val)_\d+)"', html)[18:]
    train, test = (direct_features(run, world / "shards", split) for split in ("train", "val"))
    unit = [part.vectors / np.linalg.norm(part.vectors, axis=1, keepdims=True) for part in (train, test)]
    for row in range(6):
        nearest = np.argsort(-(unit[1][row] @ unit[0].T), kind="stable")[:6]
        assert shown[7 * row : 7 * row + 7] == [test.keys[row], *train.keys[nearest]]


def test_the_report_of_a_multi_label_set_is_whole_too(tmp_path: Path) -> None:
    """Once it ended with a traceback after everything was computed."""
    shards = as_multilabel(write_toy_shards(tmp_path / "shards", {"train": 24, "val": 8}))
    run = write_run(tmp_path / "run", shards, objective="simclr")
    got = call("report", "--shards", shards, "--runs", run, "--out", tmp_path, "--k", "1", "--random-seeds", "", *COMMON)
    assert got.exit_code == 0, got.output
    page = Page((tmp_path / "index.html").read_text(encoding="utf-8"))
    assert "the run of the best mAP, macro" in page.text
    assert len(page.pictures) == 12 + 6 * 7


def test_a_report_needs_neither_runs_nor_labels(world: Path, tmp_path: Path) -> None:
    shards = write_toy_shards(tmp_path / "unlabelled", classes=())
    assert call("report", "--shards", shards, "--out", tmp_path / "data").exit_code == 0
    assert "Nearest" not in (tmp_path / "data" / "index.html").read_text()
    assert call("report", "--shards", shards, "--runs", runs(world)[2], "--out", tmp_path / "run", *COMMON).exit_code == 0
    text = Page((tmp_path / "run" / "index.html").read_text()).text
    assert "no labels" in text
    assert "lr_base" in text


def test_where_there_is_no_val_the_split_test_is_tested_on(world: Path) -> None:
    data = open_dataset(world / "shards")
    assert cli_options.tested_split(data, None) == "val"
    assert cli_options.tested_split(replace(data, splits={"train": 9, "test": 3}), None) == "test"
    assert cli_options.tested_split(replace(data, splits={"train": 9, "test": 3}), "val") == "val"
