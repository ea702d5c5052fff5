"""Results of evaluations as tables, whole: what is in percent, in which column, and what the notes say."""

from typing import Any

import pytest

from satmip_train.evaluation.tables import Table, per_class, retrieval_tables, table

SPLITS = {
    "train": {"samples": 1234, "split": "train", "shards": "out/a"},
    "test": {"samples": 567, "split": "val", "shards": "out/b"},
    "classes": 3,
    "modality": "image",
}
LEARNED = "Learned from 1,234 samples of train (out/a), tested on 567 of val (out/b), 3 classes; in percent."
SEEDS = "±: standard deviation over seeds (n - 1); the interval is Student's, for the mean of runs with other seeds."
PER_CLASS = {"lake": 0.25, "port": None}


def model(name: str, objective: str | None = "simclr", seed: int = 0, **more: Any) -> dict[str, Any]:
    return {"name": name, "objective": objective, "seed": seed, **more}


def knn_model(name: str, objective: str | None, by: float, seed: int = 0) -> dict[str, Any]:
    metrics = {"top1": 0.5 + by, "macro_f1": 0.4 + by, "best_top1": 0.7 + by, "best_macro_f1": 0.6 + by}
    best = {"top1": 5, "macro_f1": 20}
    return model(name, objective, seed, metrics=metrics, best_k=best, f1_per_class=PER_CLASS)


def knn(metric: str = "top1", **changes: Any) -> dict[str, Any]:
    models = [
        knn_model("[a]", "simclr", 0.01),
        knn_model("b", "simclr", 0.02, 1),
        knn_model("random", None, 0.0),
    ]
    models += [
        knn_model("alone", None, 0.03),
    ]
    names = ("top1", "macro_f1", "best_top1", "best_macro_f1")
    summaries = [
        {
            "name": name, "models": of, "seeds": [0] * len(of), "mean": {n: 0.5 + i / 10 for i, n in enumerate(names)},
            "std": {n: 0.01 + i / 100 for i, n in enumerate(names)}, "interval": {n: 0.05 + i / 100 for i, n in enumerate(names)},
        }
        for name, of in (("both", ["[a]", "b"]), ("random weights", ["random", "random", "random"]))
    ]  # fmt: skip
    settings = {"fixed_k": 5, "ks": [1, 5, 20], "temperature": 0.07}
    return {
        **SPLITS, "probe": "knn", "metric": metric, "settings": settings, "models": models, "summaries": summaries,
        "notes": ["Told by the result."], **changes,
    }  # fmt: skip


def test_a_table_of_knn() -> None:
    spread = ("50.0 ± 1.0", "60.0 ± 2.0", "70.0 ± 3.0", "80.0 ± 4.0")
    interval = ("  95% interval", "45.0 to 55.0", "54.0 to 66.0", "63.0 to 77.0", "72.0 to 88.0")
    assert table(knn()) == Table(
        "kNN on val",
        ("model", "top-1, k=5", "macro-F1, k=5", "top-1, best k", "macro-F1, best k"),
        (
            ("[a]", "51.0", "41.0", "71.0 (k=5)", "61.0 (k=20)"),
            ("b", "52.0", "42.0", "72.0 (k=5)", "62.0 (k=20)"),
            ("alone", "53.0", "43.0", "73.0 (k=5)", "63.0 (k=20)"),
        ),
        (("both, 2 seeds", *spread), interval, ("random weights, 3 seeds", *spread), interval),
        (
            LEARNED,
            "Vote of the k nearest by cosine similarity, weighted by exp(similarity / 0.07). Best k: of 1, 5, 20, chosen on the "
            "test split, as the paper does.",
            SEEDS,
            "Told by the result.",
        ),
    )
    assert table(knn("macro_f1")).header[1:3] == ("macro-F1, k=5", "top-1, k=5")


@pytest.mark.parametrize(
    ("modality", "larger", "title", "told"),
    [
        ("image", "keep", "kNN on val", True),
        ("metadata", "keep", "kNN of metadata on val", False),
        ("both", "keep", "kNN of image and metadata on val", True),
        ("image", "resize", "kNN on val", False),
    ],
)
def test_what_was_seen_is_told(modality: str, larger: str, title: str, told: bool) -> None:
    found = table(knn(modality=modality, settings={**knn()["settings"], "larger_images": larger}, summaries=[]))
    assert found.title == title
    kept = "Images larger than a view keep their size, as in the paper, where all have one square size."
    assert (kept in found.notes, SEEDS in found.notes) == (told, False)


@pytest.mark.parametrize("standardize", [True, False])
def test_a_table_of_the_linear_probe(standardize: bool) -> None:
    fitted = model("a", metrics={"macro_f1": 0.5, "top1": 0.25}, iterations=77, gradient_norm=2.34e-5)
    summary = {"name": "s", "models": ["a"], "seeds": [0, 1], **{part: {"macro_f1": 0.5, "top1": 0.25} for part in ("mean", "std")}}
    settings = {"standardize": standardize, "max_iterations": 3000, "tolerance": 1e-6}
    found = table(
        {
            **SPLITS,
            "probe": "linear",
            "metric": "macro_f1",
            "settings": settings,
            "models": [fitted],
            "notes": [],
            "summaries": [{**summary, "interval": summary["mean"]}],
        }
    )
    assert (found.title, found.header) == ("Linear probe on val", ("model", "macro-F1", "top-1", "iterations", "gradient"))
    assert found.models == (("a", "50.0", "25.0", "77", "2.3e-05"),)
    assert found.summaries == (
        ("s, 2 seeds", "50.0 ± 50.0", "25.0 ± 25.0", "", ""),
        ("  95% interval", "0.0 to 100.0", "0.0 to 50.0", "", ""),
    )
    scaled = " of standardized features" if standardize else ""
    assert found.notes[1] == (
        f"Logistic regression{scaled} without regularisation, at most 3000 iterations of L-BFGS; a gradient above 1e-06 means that "
        "the fit was stopped before it converged."
    )


@pytest.mark.parametrize(
    ("probe", "metrics", "title", "header", "note"),
    [
        (
            "finetune", {"macro_map": 0.5, "micro_map": 0.25}, "Fine-tuning on val", ("mAP, macro", "mAP, micro"),
            "Our recipe, not the paper's: AdamW, 30 epochs, batches of 64, rate 0.0005, crops, flips and rotations; the last epoch "
            "is tested.",
        ),
        (
            "segment", {"miou": 0.5, "pixel_accuracy": 0.25}, "Segmentation, linear on val", ("mIoU", "pixel accuracy"),
            "Our protocol, not the paper's: one linear layer on frozen patch features, AdamW, 30 epochs.",
        ),
    ],
)  # fmt: skip
def test_tables_of_what_is_trained(probe: str, metrics: dict[str, float], title: str, header: tuple[str, ...], note: str) -> None:
    settings = {"epochs": 30, "batch_size": 64, "lr": 5e-4}
    found = table(
        {
            **SPLITS,
            "probe": probe,
            "metric": next(iter(metrics)),
            "settings": settings,
            "models": [model("a", metrics=metrics)],
            "summaries": [],
            "notes": [],
        }
    )
    assert found == Table(title, ("model", *header), (("a", "50.0", "25.0"),), (), (LEARNED, note))


def test_a_table_of_single_classes() -> None:
    assert per_class(knn()) == Table(
        "F1 of each class",
        ("class", "[a]", "b", "alone"),
        (("lake", "25.0", "25.0", "25.0"), ("port", "", "", "")),
        (),
        ("F1 at k=5, in percent; empty where there is nothing to score.",),
    )
    # Where every model is summarised, each has a column.
    only = [knn_model("random", None, 0.0, seed) for seed in (3, 4)]
    assert per_class(knn(models=only)).header == ("class", "random, seed 3", "random, seed 4")
    for kind, name in (("ap_per_class", "Average precision"), ("iou_per_class", "IoU")):
        found = per_class({**knn(), "probe": "linear", "models": [{**model("a"), kind: PER_CLASS}]})
        assert (found.title, found.notes) == (
            f"{name} of each class", (f"{name}, in percent; empty where there is nothing to score.",)
        )  # fmt: skip


def test_tables_of_retrieval() -> None:
    def found(by: float) -> dict[str, Any]:
        metrics = {"recall_1": 0.1 + by, "recall_10": 0.5 + by, "median_rank": 7.5 + 100 * by}
        return {"metrics": metrics, "errors": {"kilometres": 1234.56 + by, "gsd_ratio": None, "days": 0.25}}

    result = {
        "settings": {"depths": [1, 10]}, "test": SPLITS["test"], "chance": found(-0.1),
        "models": [{"name": "a", "image_to_metadata": found(0.0), "metadata_to_image": found(0.2)}],
        "units": {"kilometres": "between locations", "gsd_ratio": "larger over smaller", "days": "between times"},
        "best_constant": {"kilometres": 2000.0, "gsd_ratio": None, "days": 0.5},
    }  # fmt: skip
    ranks, errors = retrieval_tables(result)
    assert ranks == Table(
        "Retrieval",
        ("model", "direction", "R@1", "R@10", "median rank"),
        (("a", "image -> metadata", "10.0", "50.0", "7.5"), ("a", "metadata -> image", "30.0", "70.0", "27.5")),
        (("chance", "", "0.0", "40.0", "-2.5"),),
        ("Over 567 pairs of val (out/b). R@k in percent.",),
    )
    assert errors == Table(
        "Median error of the first result",
        ("model", "direction", "km", "GSD ratio", "days"),
        (("a", "image -> metadata", "1235", "", "0.25"), ("a", "metadata -> image", "1235", "", "0.25")),
        (("best constant", "", "2000", "", "0.5"), ("chance", "", "1234", "", "0.25")),
        (
            "The error is 0 where the first result is the right one. km: between locations; GSD ratio: larger over smaller; days: "
            "between times.",
            "Best constant: the single answer to all that errs least.",
            "Chance level: the expected result if a random sample were retrieved.",
        ),
    )
