"""The paper's tables: printed numbers against the paper's text, and cells of ours against plain arithmetic."""

import csv
import io
import json
import math
import re
import shutil
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pytest
from click.testing import CliRunner

from satmip_train.cli.evaluate import main
from satmip_train.errors import UsageError
from satmip_train.evaluation_sets import evaluation_sets
from satmip_train.paper import layout as layout_module
from satmip_train.paper.fill import Budget, Cell, Filled, fill, identity
from satmip_train.paper.formats import FORMATS, MISSING, as_text, lines, trace
from satmip_train.paper.layout import recipe_settings, table_layout
from satmip_train.paper.scores import Samples, Score, Training, read_scores, read_trainings

BASE = {
    "objective": "simclr",
    "epochs": 200,
    "seed": 0,
    "max_steps": None,
    "init": "random",
    "policy": "simclr-sat",
    "lr_base": 1e-3,
}
TEXT = {"metadata_encoder": "text", "fields": None}


def score(dataset: str = "fmow", value: float = 0.5, *, probe: Any = "knn", modality: str = "image", **settings: Any) -> Score:
    chosen = {**BASE, **(TEXT if settings.get("objective", "simclr") != "simclr" else {}), **settings}
    kind = chosen.pop("kind", "run")
    metrics = {"macro_f1": value, "top1": value / 2}
    by_k = {1: {"macro_f1": 0.0, "top1": 0.0}, 5: {"macro_f1": value / 4, "top1": value / 2}, 100: metrics}
    name = f"{chosen['objective']}-{chosen['seed']}"
    return Score(
        file=Path(f"eval/{name}/{dataset}/{probe}.json"), run=f"runs/{name}" if kind == "run" else None, kind=kind,
        seed=chosen["seed"], settings=chosen, shards="abc", dataset=dataset, samples=Samples("out/shards", 10, 5, 2),
        probe=probe, modality=modality, metrics=metrics, by_k=by_k if probe == "knn" else {}, modified=1.0,
    )  # fmt: skip


def training(seconds: float, memory: int, **settings: Any) -> Training:
    from satmip_train.runs.cost import Cost

    chosen = {**BASE, **(TEXT if settings.get("objective", "simclr") != "simclr" else {}), **settings}
    return Training(Path(f"runs/{chosen['objective']}-{chosen['seed']}"), chosen, "abc", Cost(seconds, 2 * seconds, memory, 3.6e6))


def filled(number: str, scores: Any = (), trainings: Any = (), **budget: Any) -> Filled:
    return fill(table_layout(number), list(scores), list(trainings), Budget(**budget))


def row_of(number: str, *labels: str) -> int:
    return next(i for i, row in enumerate(table_layout(number).rows) if row.labels[: len(labels)] == labels)


@pytest.mark.parametrize("number", [*layout_module.TABLES, layout_module.FIGURE_3])
def test_a_layout_is_consistent(number: str) -> None:
    layout = table_layout(number)
    columns = {column.id for column in layout.columns}
    assert len(columns) == len(layout.columns)
    for row in layout.rows:
        assert len(row.labels) == len(layout.labels)
        assert row.published.keys() <= columns
        assert (row.recipe is not None) + (row.external is not None) + (row.control is not None) == 1
        assert row.gain_over is None or layout.rows[row.gain_over].recipe is not None
    for column in layout.columns:
        assert set(column.of) <= columns
        assert set(column.sets) <= evaluation_sets().keys()
        if column.kind == "score":
            for row in layout.rows:
                assert {"probe", "dataset", *(["epochs"] if row.recipe else [])} <= layout.cell_of(row, column).keys()
    trained = [(row, recipe_settings(row.recipe)) for row in layout.rows if row.recipe]
    told = [json.dumps([identity(settings), settings["epochs"], row.cell], default=str) for row, settings in trained]
    assert len(set(told)) == len(told)


def test_printed_averages_follow_from_printed_cells() -> None:
    """Table 4 prints the mean gain of HPT over the seven sets, Table 3 the gain of metadata: a wrong digit would show."""
    layout = table_layout("4")
    for row in layout.rows:
        if row.gain_over is not None:
            before = layout.rows[row.gain_over].published
            gains = [row.published[name].mean - before[name].mean for name in layout.columns[-1].of]
            assert fmean(gains) == pytest.approx(row.published["gain"].mean, abs=0.06)
    for row in table_layout("3").rows:
        for name in ("fmow", "eurosat"):
            delta = row.published[f"{name}_both"].mean - row.published[f"{name}_image"].mean
            assert delta == pytest.approx(row.published[f"{name}_delta"].mean, abs=0.051)


def test_the_posters_averages_follow_from_table_4() -> None:
    """Poster: average transfer 79.7, 79.3, 80.9 of SimCLR, SatMIP, SatMIPS without HPT."""
    transfer = [name for name in evaluation_sets() if name != "fmow"]
    for model, average in (("SimCLR", 79.7), ("SatMIP", 79.3), ("SatMIPS", 80.9)):
        row = table_layout("4").rows[row_of("4", model, "")]
        assert fmean(row.published[name].mean for name in transfer) == pytest.approx(average, abs=0.06)
        assert table_layout("2").rows[row_of("2", model)].published["transfer"].mean == average
    assert {*next(column.sets for column in table_layout("2").columns if column.id == "transfer")} == {*transfer}


def test_metadata_alone_stand_beside_the_posters_controls_on_both_sets() -> None:
    """Poster: identity, random encoder, SatMIP; F1 on fMoW, accuracy on EuroSAT."""
    rows = {labels: row_of("s6", "tabular", *labels) for labels in (("Identity", "meta"), ("Random", "meta"), ("SatMIP", "meta"))}
    printed = [table_layout("s6").rows[row].published for row in rows.values()]
    assert [(numbers["e200"].mean, numbers["eurosat"].mean) for numbers in printed] == [(8.1, 22.0), (13.9, 29.7), (27.8, 48.4)]
    encoder = {"metadata": {"metadata_encoder": "tabular"}}
    measured = [
        replace(score("eurosat", value, probe="linear", modality="metadata", objective="satmip"), kind=kind, settings=settings)
        for kind, settings, value in (("identity", encoder, 0.25), ("random", encoder, 0.5))
    ]
    cells = filled("s6", measured).cells
    assert [cells[row, "eurosat"].mean for row in rows.values() if (row, "eurosat") in cells] == [12.5, 25.0]


def test_a_number_that_stands_in_two_tables_is_the_same() -> None:
    tabular = table_layout("s6").rows[row_of("s6", "tabular", "SatMIP", "image")].published
    both = table_layout("s6").rows[row_of("s6", "tabular", "SatMIP", "image+meta")].published
    five = table_layout("5").rows[row_of("5", "✓", "✓", "✓", "")].published
    assert (tabular["e25"].mean, both["e25"].mean) == (five["fmow_image"].mean, five["fmow_both"].mean)
    three = table_layout("3").rows[0].published
    assert (tabular["e200"].mean, both["e200"].mean) == (three["fmow_image"].mean, three["fmow_both"].mean)
    assert (tabular["eurosat"], both["eurosat"]) == (three["eurosat_image"], three["eurosat_both"])
    for name in evaluation_sets():
        assert table_layout("2").rows[row_of("2", "SatMIP")].published[name].mean == table_layout("s5").rows[0].published[name].mean


def test_what_was_read_off_the_poster_says_so() -> None:
    """Figure 3 is printed at 200 epochs alone; a number of the poster's figure is one with its error."""
    layout = table_layout("figure3")
    for row in layout.rows:
        scores = {name: number for name, number in row.published.items() if name != "time"}
        assert {"± 0.1" in number.source for number in scores.values()} == {row.labels[1] != "200"}
        assert row.published.keys() >= {column.id for column in layout.columns} - {"ucmerced", "fgsc23"}
    by_model = [[row.published["fmow"].mean for row in layout.rows if row.labels[0] == m] for m in ("SimCLR", "SatMIP", "SatMIPS")]
    assert all(values == sorted(values) and len(values) == 4 for values in by_model)  # longer is better, in the figure


def test_lost_tables_have_no_numbers_of_their_own() -> None:
    for number in ("2", "6", "s4", "s8"):
        sources = {value.source for row in table_layout(number).rows for value in row.published.values()}
        assert not any(source.startswith((f"Table {number}", f"Table {number.upper()}")) for source in sources)


def test_without_results_every_cell_of_ours_is_missing() -> None:
    for number in layout_module.TABLES:
        assert all(set(line.cells) == {MISSING} for line in lines(filled(number)) if line.whose == "ours")
        assert all(line.endswith(": missing") for line in trace(filled(number)))


def test_a_cell_is_mean_and_deviation_over_seeds() -> None:
    values = {0: 0.61, 1: 0.64, 3: 0.6}
    table = filled("2", [score(value=value, seed=seed) for seed, value in values.items()])
    cell = table.cells[row_of("2", "SimCLR"), "fmow"]
    assert cell.mean == pytest.approx(100 * fmean(values.values()))
    assert cell.std == pytest.approx(100 * stdev(values.values()))
    assert cell.seeds == (0, 1, 3)
    assert "runs/simclr-3" in cell.files
    assert len(table.cells) == 1
    assert "61.7 ± 2.1" in as_text(table)


def test_a_single_seed_has_no_deviation() -> None:
    cell = filled("2", [score()]).cells[row_of("2", "SimCLR"), "fmow"]
    assert cell.std is None


def test_timms_weights_are_those_of_no_row() -> None:
    assert {init: identity({"objective": "simclr", "init": init})["hpt"] for init in ("random", "slip.pt", "timm")} == {
        "random": False, "slip.pt": True, "timm": "timm",
    }  # fmt: skip


@pytest.mark.parametrize("order", [1, -1])
def test_of_two_files_of_one_run_the_newer_one_counts(order: int) -> None:
    both = [replace(score(value=value), modified=time) for value, time in ((0.4, 1.0), (0.7, 2.0))]
    assert filled("2", both[::order]).cells[row_of("2", "SimCLR"), "fmow"].mean == pytest.approx(70.0)


@pytest.mark.parametrize(("dataset", "expected"), [("fmow", 50.0), ("fgsc23", 12.5), ("eurosat", 25.0)])
def test_metric_and_neighbours_are_the_papers(dataset: str, expected: float) -> None:
    """Macro-F1 at k = 100 on fMoW, macro-F1 at k = 5 on FGSC-23, top-1 at k = 5 elsewhere."""
    assert filled("2", [score(dataset)]).cells[row_of("2", "SimCLR"), dataset].mean == pytest.approx(expected)


def test_the_best_k_is_taken_where_asked_and_told_where_the_papers_is_missing() -> None:
    best = filled("2", [score("fgsc23")], neighbours="best").cells[row_of("2", "SimCLR"), "fgsc23"]
    assert (best.mean, best.note) == (pytest.approx(50.0), "")
    few = score("fmow")
    del few.by_k[100]
    cell = filled("2", [few]).cells[row_of("2", "SimCLR"), "fmow"]
    assert (cell.mean, cell.note) == (pytest.approx(12.5), "best of k = 1, 5, not k = 100")
    assert "12.5*" in as_text(filled("2", [few]))


def test_masked_autoencoders_have_their_own_k() -> None:
    mae = score("fmow", objective="satmae")
    mae.by_k[20] = {"macro_f1": 0.33, "top1": 0.0}
    assert filled("2", [mae]).cells[row_of("2", "SatMAE"), "fmow"].mean == pytest.approx(33.0)


@pytest.mark.parametrize(
    ("changes", "labels"),
    [
        ({"objective": "satmip"}, ("SatMIP",)),
        ({"objective": "satmip", "fields": ("loc", "gsd", "time")}, ("SatMIP",)),
        ({"objective": "simclr-geo-tp"}, ("SimCLR-Geo-TP",)),
        ({"objective": "satmip", "metadata_encoder": "tabular"}, None),
        ({"objective": "satmip", "fields": ("gsd",)}, None),
        ({"objective": "satmips", "coupled": False}, None),
        ({"objective": "satmips", "simclr_weight": 0.5}, None),
        ({"objective": "satmips", "metadata_weight": 0.5}, None),
        ({"objective": "satmip+simclr+tp"}, None),
        ({"policy": "crop"}, None),
        ({"init": "slip.pt"}, None),
        ({"init": "timm"}, None),
        ({"epochs": 100}, None),
        ({"max_steps": 7}, None),
        ({"kind": "random"}, ("Random",)),
        ({"kind": "pixels"}, None),
    ],
)
def test_a_run_belongs_into_the_row_of_its_settings(changes: dict[str, Any], labels: tuple[str, ...] | None) -> None:
    cells = filled("2", [score(**changes)]).cells
    assert [number for number, _ in cells] == ([] if labels is None else [row_of("2", *labels)])


def test_hierarchical_pretraining_and_its_gain() -> None:
    scores = [score(name, 0.4) for name in ("fmow", "eurosat")]
    scores += [score("fmow", 0.5, init="slip.pt"), score("eurosat", 0.48, init="slip.pt")]
    table = filled("4", scores)
    gain = table.cells[row_of("4", "SimCLR", "✓"), "gain"]
    assert gain.mean == pytest.approx((10 + 4) / 2)
    assert gain.note == "mean over 2 of 7 sets"
    assert (row_of("4", "SimCLR", ""), "gain") not in table.cells


def test_a_shorter_budget_shortens_all_epochs_alike() -> None:
    scores = [
        score("fmow", 0.5, probe="linear", objective="satmip", metadata_encoder="tabular", epochs=epochs) for epochs in (1, 8)
    ]
    table = filled("s6", scores, full_epochs=8)
    number = row_of("s6", "tabular", "SatMIP", "image")
    assert sorted(column for row, column in table.cells if row == number) == ["e200", "e25"]
    assert any("8 epochs stand for the paper's 200" in note for note in table.notes)


def test_differences_are_taken_seed_by_seed() -> None:
    tabular = {"probe": "linear", "objective": "satmip", "metadata_encoder": "tabular"}
    image = [score("fmow", value, seed=seed, **tabular) for seed, value in ((0, 0.5), (1, 0.6), (2, 0.1))]
    both = [score("fmow", value, seed=seed, modality="both", **tabular) for seed, value in ((0, 0.55), (1, 0.63))]
    cell = filled("3", [*image, *both]).cells[0, "fmow_delta"]
    assert cell.seeds == (0, 1)
    assert (cell.mean, cell.std) == (pytest.approx(4.0), pytest.approx(100 * stdev([0.05, 0.03])))


def test_the_mean_over_sets_says_how_many() -> None:
    gsd = {"probe": "linear", "objective": "satmip", "metadata_encoder": "tabular", "fields": ("gsd",), "epochs": 25}
    table = filled("5", [score("resisc45", 0.8, **gsd), score("eurosat", 0.4, **gsd), score("fmow", 0.9, **gsd)])
    cell = table.cells[0, "transfer"]
    assert cell.mean == pytest.approx((40 + 20) / 2)
    assert cell.note == "mean over 2 of 6 sets"
    more = [score("resisc45", 0.8, **gsd), score("resisc45", 0.6, seed=1, **gsd), score("eurosat", 0.4, **gsd)]
    assert filled("5", more).cells[0, "transfer"].seeds == (0,)  # that were measured on all of these


def test_costs_are_relative_to_the_baseline_of_as_many_epochs() -> None:
    runs = [training(100, 10, seed=seed, epochs=25) for seed in (0, 1)]
    runs += [training(999, 99, epochs=200), training(55, 6, objective="satmip", epochs=25)]
    cells = filled("6", [], runs).cells
    number = row_of("6", "SatMIP", "SimCLR-Sat")
    assert cells[number, "time"].mean == pytest.approx(0.55)
    assert cells[number, "memory"].mean == pytest.approx(0.6)
    assert filled("6", [], runs[-1:]).cells == {}


def test_costs_are_relative_to_a_baseline_of_the_same_network_and_settings() -> None:
    """Once the mean over every SimCLR run of the folder, whatever its network and shards, was the unit."""
    runs = [training(100, 10, seed=seed, epochs=25) for seed in (0, 1)]
    runs += [training(7, 1, seed=2, epochs=25, view_size=64), replace(training(9, 1, seed=3, epochs=25), shards="other")]
    runs += [training(300, 10, seed=4, epochs=25, lr_base=5.0), training(55, 6, objective="satmip", epochs=25)]
    table = filled("6", [], runs)
    cell = table.cells[row_of("6", "SatMIP", "SimCLR-Sat"), "time"]
    assert cell.mean == pytest.approx(0.55)
    assert cell.files == ("runs/satmip-0", "runs/simclr-0", "runs/simclr-1")
    assert "The baseline of costs: left out, as they have other settings: runs/simclr-4" in table.notes
    assert filled("6", [], runs[2:3] + runs[-1:]).cells == {}


def test_absolute_costs() -> None:
    cells = filled("s8", [], [training(7200, 3 * 2**30)]).cells
    assert [cells[0, name].mean for name in ("hours", "device_hours", "memory", "energy")] == pytest.approx([2, 4, 3, 1])


def test_a_cost_that_is_not_known_is_missing_with_a_note() -> None:
    unknown = replace(training(7200, 3 * 2**30), cost=None)
    table = filled("s8", [], [unknown])
    assert table.cells == {}
    note = "The cost of runs/simclr-0 is missing: its summary.json does not account for all of its steps."
    assert note in table.notes
    ratios = filled("6", [], [replace(training(100, 10, epochs=25), cost=None), training(55, 6, objective="satmip", epochs=25)])
    assert (ratios.cells, ratios.notes.count(note)) == ({}, 1)


def test_of_runs_with_other_settings_the_most_fill_the_row_and_the_rest_is_named() -> None:
    scores = [score(value=0.5, seed=seed) for seed in (0, 1)] + [score(value=0.9, seed=7, lr_base=5.0)]
    table = filled("2", scores)
    assert table.cells[row_of("2", "SimCLR"), "fmow"].seeds == (0, 1)
    assert any("left out, as they have other settings: runs/simclr-7" in note for note in table.notes)


def test_runs_from_before_there_was_a_setting_stand_beside_those_after() -> None:
    """Once a new setting parted the seeds of a row into two groups, of which one was left out."""
    old = [score(value=0.5, seed=seed, no_more="packed") for seed in (0, 1)]
    new = score(value=0.6, seed=2, metadata_weight=1.0, moco_weight=1.0, jitter=1.0)
    table = filled("2", [*old, new])
    assert table.cells[row_of("2", "SimCLR"), "fmow"].seeds == (0, 1, 2)
    assert not any("left out" in note for note in table.notes)


def test_seeds_that_were_measured_on_different_shards_are_told() -> None:
    """Once the note named the last shards only, and none if both had the paper's counts."""
    paper = evaluation_sets()["fmow"]
    here = [Samples(root, paper.train, paper.test, paper.classes) for root in ("out/old", "out/new")]
    scores = [replace(score(seed=seed), samples=samples) for seed, samples in enumerate(here)]
    (note,) = (note for note in filled("2", scores).notes if note.startswith("fMoW here is"))
    assert "out/old: 363,572 + 53,043 samples, 62 classes; and also out/new: 363,572 + 53,043 samples" in note
    again = replace(scores[0], samples=here[1], modified=2.0)
    assert not any(note.startswith("fMoW here is") for note in filled("2", [*scores, again]).notes)


def test_other_samples_than_the_papers_are_told() -> None:
    (note,) = filled("2", [score("eurosat")]).notes
    assert note.startswith("Euro here is out/shards: 10 + 5 samples, 2 classes. The paper's: 16,200 + 5,400, 10.")


def test_another_network_than_the_papers_is_told() -> None:
    (note,) = [note for note in filled("2", [score("eurosat", batch_size=64)]).notes if note.startswith("Ours: ")]
    assert note == (
        "Ours: vit_small_patch16_224 (num_heads 12), views of 224 pixels, batch 64. "
        "The paper's: vit_small_patch16_224 (num_heads 12), views of 224 pixels, batch 1024."
    )
    assert any("batch 32" in note for note in filled("s8", [], [training(1, 1, batch_size=32)]).notes)


def test_csv_holds_every_cell_once() -> None:
    table = filled("s5", [score("fmow", 0.5, objective="satmips", seed=seed) for seed in (0, 1)])
    rows = list(csv.DictReader(io.StringIO(FORMATS["csv"](table))))
    layout = table.layout
    assert len(rows) == len(layout.rows) * len(layout.columns)
    printed = {(row["Model"], row["Encoder"], row["column"]): row for row in rows}
    mine = printed["SatMIPS", "text", "fMoW F1"]
    assert (float(mine["mean"]), mine["seeds"], float(mine["paper_mean"])) == (50.0, "0 1", 62.4)
    assert "runs/satmips-1" in mine["files"]
    assert printed["SatMIP", "text", "fMoW F1"]["mean"] == ""


def test_markdown_and_latex_have_as_many_cells_in_every_line() -> None:
    table = filled("2", [score()])
    grid = [line for line in FORMATS["markdown"](table).splitlines() if line.startswith("|")]
    assert {line.count("|") for line in grid} == {len(table.layout.columns) + 3}
    latex = FORMATS["latex"](table)
    body = latex[latex.index("\\midrule") :]
    assert {line.count(" & ") for line in body.splitlines() if line.endswith("\\\\")} == {len(table.layout.columns) + 1}
    assert not re.search(f"[±{MISSING}✓Δλ]", body)


def write_result(path: Path, *, source: str = "fmow", **changes: Any) -> None:
    model = {
        "name": "simclr-seed0", "kind": "run", "run": "runs/simclr-seed0", "seed": 0, "settings": BASE,
        "trained": {"shards": "abc"},
        "metrics": {"macro_f1": 0.5, "top1": 0.6}, "by_k": {"5": {"macro_f1": 0.4, "top1": 0.45}},
    }  # fmt: skip
    split = {"shards": "out/shards", "source": source, "samples": 9}
    result = {"probe": "knn", "settings": {}, "train": split, "test": split, "classes": 3, "models": [{**model, **changes}]}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result))


def test_the_set_of_a_result_is_that_of_its_folder_else_as_named_else_its_source(tmp_path: Path) -> None:
    write_result(tmp_path / "eval" / "x" / "r45" / "deep" / "knn.json")
    write_result(tmp_path / "eval" / "plain" / "knn.json", source="eurosat")
    write_result(tmp_path / "eval" / "nobody" / "knn.json", source="mine")
    write_result(tmp_path / "fmow" / "ucmerced" / "deep" / "knn.json", source="mine")  # the nearest of two
    assert [found.dataset for found in read_scores(tmp_path / "eval")] == ["eurosat", "resisc45"]
    assert [found.dataset for found in read_scores(tmp_path / "fmow")] == ["ucmerced"]
    shutil.rmtree(tmp_path / "fmow")
    named = read_scores(tmp_path, {"out/shards": "ucmerced"})
    assert sorted(found.dataset for found in named) == ["resisc45", "ucmerced", "ucmerced"]


def test_a_score_says_of_which_model_and_seed_it_is(tmp_path: Path) -> None:
    models: list[dict[str, Any]] = [
        {"kind": "identity", "run": None, "seed": 3, "trained": None},
        {"kind": None, "run": None, "seed": None, "trained": None},
        {"kind": None, "seed": 2},
    ]
    for i, model in enumerate(models):
        write_result(tmp_path / "fmow" / f"knn{i}.json", **model)
    found = [(score.kind, score.seed, score.run, score.shards, score.whole) for score in read_scores(tmp_path)]
    assert found == [
        ("identity", 3, None, None, True),
        ("random", 0, None, None, True),
        ("run", 2, "runs/simclr-seed0", "abc", True),
    ]


def test_what_was_measured_before_the_last_step_fills_no_cell(tmp_path: Path) -> None:
    """Once a run that was exported and evaluated half way stood in the table as one of 200 epochs, with half its cost."""
    run = tmp_path / "simclr"
    run.mkdir()
    (run / "config.json").write_text('{"last_step": 7}')
    sessions = [{"steps": 5, "wall_seconds": 10.0, "ranks": 1}]
    (run / "summary.json").write_text(json.dumps({"step": 5, "wall_seconds": 10.0, "sessions": sessions}))
    for step, whole in ((5, False), (7, True)):
        (run / "backbone.json").write_text(json.dumps({"settings": BASE, "dataset": {"fingerprint": "abc"}, "step": step}))
        write_result(tmp_path / "fmow" / "knn.json", run=str(run), trained={"shards": "abc", "step": step})
        scores, trainings = read_scores(tmp_path), read_trainings(tmp_path)
        table = filled("2", scores)
        assert (len(trainings), len(table.cells)) == ((1, 1) if whole else (0, 0))
        note = f"Left out, as it was measured before the run's last step: {run} in {tmp_path}/fmow/knn.json"
        assert (note in table.notes) == (not whole)
    (run / "backbone-best.safetensors").touch()
    write_result(tmp_path / "fmow" / "knn.json", run=str(run / "backbone-best.safetensors"), trained={"shards": "abc", "step": 5})
    assert filled("2", read_scores(tmp_path)).cells == {}


def test_a_damaged_result_is_named(tmp_path: Path) -> None:
    (tmp_path / "fmow").mkdir()
    (tmp_path / "fmow" / "knn.json").write_text('{"probe": "knn"}')
    with pytest.raises(UsageError, match=r"knn.json is no result .*'test' is missing"):
        read_scores(tmp_path)


@pytest.mark.parametrize("content", ['{"full_ep', "[]", "{}", "null"])
def test_a_damaged_file_of_a_reproduction_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "reproduce.json").write_text(content)
    got = CliRunner().invoke(main, ["table", "2", "--runs", str(tmp_path)], catch_exceptions=False)
    assert got.exit_code == 1
    assert "reproduce.json does not say how a reproduction began" in got.output
    assert "Delete it" in got.output


def test_a_damaged_export_is_named(tmp_path: Path) -> None:
    (tmp_path / "backbone.json").write_text("null")
    with pytest.raises(UsageError, match=r"backbone.json describes no backbone"):
        read_trainings(tmp_path)


def test_a_table_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    arguments = ["table", "2", "--runs", str(tmp_path), "--out", str(tmp_path / "file" / "table.txt")]
    got = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert got.exit_code == 1
    assert "table.txt: " in got.output


def test_trainings_are_read_with_their_cost_and_others_backbones_are_none(tmp_path: Path) -> None:
    for name, shards in (("run", "abc"), ("satmae", None)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "backbone.json").write_text(json.dumps({"settings": BASE, "dataset": {"fingerprint": shards}}))
    sessions = [{"steps": 3, "wall_seconds": 10.0, "ranks": 1}, {"steps": 4, "wall_seconds": 5.0, "ranks": 4}]
    summary = {"step": 7, "wall_seconds": 15.0, "peak_memory_bytes": 7, "energy_joules": None, "sessions": sessions}
    (tmp_path / "run" / "summary.json").write_text(json.dumps(summary))
    (found,) = read_trainings(tmp_path)
    assert found.cost is not None
    assert (found.cost.seconds, found.cost.device_seconds, found.cost.peak_bytes) == (15.0, 30.0, 7)
    assert found.cost.energy_joules is None


def test_no_number_is_cut_off_in_text() -> None:
    """Once Table S5 was cut at 160 characters where deviations had two digits: `95.2* ± 10…`."""
    layout = table_layout("s5")
    cell = Cell(95.2, 10.8, (0, 1), ("file",), "best of k = 1, 5, not k = 100")
    text = as_text(Filled(layout, {(n, c.id): cell for n in range(len(layout.rows)) for c in layout.columns}, ()))
    assert "…" not in text
    assert text.count("95.2* ± 10.8 ") == 7 * len(layout.rows)


@pytest.mark.parametrize("form", list(FORMATS))
def test_the_command_writes_every_format(tmp_path: Path, form: str) -> None:
    write_result(tmp_path / "runs" / "eurosat" / "knn.json")
    out = tmp_path / "made" / "table"
    got = CliRunner().invoke(main, ["table", "2", "--runs", str(tmp_path / "runs"), "--format", form, "--out", str(out)])
    assert got.exit_code == 0, got.output
    assert "45.0" in out.read_text() or "45," in out.read_text()


def test_the_command_traces_cells(tmp_path: Path) -> None:
    write_result(tmp_path / "eurosat" / "knn.json")
    got = CliRunner().invoke(main, ["table", "2", "--runs", str(tmp_path), "--trace"])
    assert f"Table 2 | SimCLR | Euro Acc.: 45.0, seed 0\n    {tmp_path}/eurosat/knn.json\n    runs/simclr-seed0\n" in got.output
    assert math.isclose(got.output.count(": missing"), 10 * 8 - 2)


def test_the_budget_of_a_reproduction_is_found_in_its_folder(tmp_path: Path) -> None:
    write_result(tmp_path / "eurosat" / "knn.json", settings={**BASE, "epochs": 8.0})
    assert "45.0" not in CliRunner().invoke(main, ["table", "2", "--runs", str(tmp_path)]).output
    (tmp_path / "reproduce.json").write_text('{"full_epochs": 8}')
    assert "45.0" in CliRunner().invoke(main, ["table", "2", "--runs", str(tmp_path)]).output


def test_an_unknown_set_is_refused(tmp_path: Path) -> None:
    got = CliRunner().invoke(main, ["table", "2", "--runs", str(tmp_path), "--dataset", "mars=out/shards"])
    assert got.exit_code == 2
    assert "Sets: fmow, resisc45" in got.output
