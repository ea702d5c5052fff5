"""The paper's figures: what is drawn are the numbers, and the files are pictures."""

import datetime as dt
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from matplotlib.figure import Figure
from PIL import Image

from satmip_train.cli.evaluate import main
from satmip_train.errors import UsageError
from satmip_train.paper import figures
from satmip_train.paper.fill import Cell, Filled
from satmip_train.paper.layout import FIGURE_3, table_layout

GSD = [[0.3, 0.4], [0.5, 0.6], [20.0, 22.0], None]
PLACES = [[-179.9, -54.9], [7.0, 38.0], None, [179.0, 71.6]]
TIMES = [
    dt.datetime(year, month, day, tzinfo=dt.UTC) for year, month, day in ((2002, 1, 28), (2015, 8, 6), (2017, 7, 12), (2017, 7, 12))
]


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    folder = tmp_path / "shards"
    folder.mkdir()
    columns: dict[str, Any] = {"split": ["train"] * 4, "gsd": GSD, "location": PLACES, "timestamp": TIMES}
    pq.write_table(pa.table(columns), folder / "index.parquet")
    return folder


def points() -> Filled:
    """Ours at every number of epochs on two sets; SatMIP's time at 50 epochs is missing."""
    layout, cells = table_layout(FIGURE_3), {}
    for number, row in enumerate(layout.rows):
        epochs = int(row.labels[1])
        if row.labels != ("SatMIP", "50"):
            cells[number, "time"] = Cell(epochs / 25, None, (0,), ())
        for name in ("fmow", "eurosat"):
            cells[number, name] = Cell(40 + epochs / 10, 1.5, (0, 1), ())
    return Filled(layout, cells, ())


def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Collect the figures that are saved."""
    saved: list[Figure] = []
    save = Figure.savefig

    def keep(figure: Figure, *arguments: Any, **options: Any) -> None:
        saved.append(figure)
        save(figure, *arguments, **options)

    monkeypatch.setattr(Figure, "savefig", keep)
    return saved


def check_files(paths: list[Path]) -> None:
    assert [path.suffix for path in paths] == [".png", ".svg"]
    with Image.open(paths[0]) as image:
        assert min(image.size) > 400
        assert len(set(image.convert("L").resize((64, 64)).tobytes())) > 8
    assert paths[1].read_text().count("<svg") == 1


@pytest.mark.parametrize("sets", [1, 2, 3, 4, 7])
def test_the_legend_lies_within_the_figure(sets: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved, filled = drawn(monkeypatch), points()
    names = [column.id for column in filled.layout.columns if column.kind == "score"][:sets]
    cells = {(row, id): cell for (row, _), cell in filled.cells.items() for id in ("time", *names)}
    figures.draw_convergence(Filled(filled.layout, cells, ()), tmp_path)
    (figure, *_) = saved
    assert sum(axis.get_visible() for axis in figure.axes) == sets
    box = figure.legends[0].get_window_extent()
    assert box.x0 >= 0
    assert box.x1 <= figure.bbox.width


def test_convergence_shows_ours_and_the_papers_points(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved = drawn(monkeypatch)
    check_files(figures.draw_convergence(points(), tmp_path))
    shown = [axis for axis in saved[0].axes if axis.get_visible()]
    assert [axis.get_title() for axis in shown] == ["fMoW", "Euro"]
    lines = {container.get_label(): container.lines[0] for container in shown[0].containers}
    assert set(lines) == {f"{model}, {whose}" for model in ("SimCLR", "SatMIP", "SatMIPS") for whose in ("ours", "paper")}
    assert lines["SimCLR, ours"].get_xydata().tolist() == [[1, 42.5], [2, 45], [4, 50], [8, 60]]
    assert lines["SatMIP, ours"].get_xdata().tolist() == [1, 4, 8]
    printed = [(0.56, 45.6), (1.12, 50.4), (2.24, 53.8), (4.48, 55.2)]
    assert lines["SatMIP, paper"].get_xydata() == pytest.approx(np.array(printed))
    bars = next(c for c in shown[0].containers if c.get_label() == "SimCLR, ours").lines[2][0].get_segments()
    assert bars[0] == pytest.approx(np.array([[1, 41], [1, 44]]))
    assert all(axis.get_xlim()[1] > 8.4 for axis in shown)


def test_without_ours_the_papers_points_stand_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved = drawn(monkeypatch)
    check_files(figures.draw_convergence(Filled(table_layout(FIGURE_3), {}, ()), tmp_path))
    assert len([axis for axis in saved[0].axes if axis.get_visible()]) == 7
    assert saved[0].legends[0].get_texts()[0].get_text() == "SimCLR, paper"


def test_gsd_counts_every_known_sample_in_both_directions(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved = drawn(monkeypatch)
    check_files(figures.draw_metadata("s1", str(shards), "train", tmp_path))
    (axis,) = saved[0].axes
    assert (axis.get_xscale(), axis.get_yscale()) == ("log", "log")
    assert axis.get_xlim()[0] < 0.3
    assert axis.get_xlim()[1] > 22
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["width", "height"]
    assert axis.get_title(loc="right") == "3 samples of train"


def test_locations_are_drawn_where_they_are(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved = drawn(monkeypatch)
    check_files(figures.draw_metadata("s2", str(shards), "train", tmp_path))
    (axis,) = saved[0].axes
    assert axis.collections[0].get_offsets().tolist() == [place for place in PLACES if place is not None]
    assert (axis.get_xlim(), axis.get_ylim(), axis.get_aspect()) == ((-180, 180), (-90, 90), 1.0)
    assert [figures._degrees(value, "WE") for value in (-180, -30, 0, 120)] == ["180°", "30°W", "0°", "120°E"]


def test_times_are_shares_of_years_months_and_weekdays(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved = drawn(monkeypatch)
    check_files(figures.draw_metadata("s3", str(shards), "train", tmp_path))
    heights = [[bar.get_height() for bar in axis.patches] for axis in saved[0].axes]
    assert [len(bars) for bars in heights] == [16, 12, 7]
    assert [sum(bars) for bars in heights] == pytest.approx([100] * 3)
    assert heights[0][0] == 25
    assert heights[0][-1] == 50
    # 28 January 2002 was a Monday, 6 August 2015 a Thursday, 12 July 2017 a Wednesday.
    assert heights[2] == [25, 0, 50, 25, 0, 0, 0]


def test_the_same_numbers_give_the_same_files(shards: Path, tmp_path: Path) -> None:
    one, two = (figures.draw_metadata("s3", str(shards), "train", tmp_path / name) for name in ("one", "two"))
    assert [a.read_bytes() == b.read_bytes() for a, b in zip(one, two, strict=True)] == [True, True]


@pytest.mark.parametrize(("split", "message"), [("val", r'"val" .* knows its gsd.*--split, of train')])
def test_a_split_without_values_is_refused(shards: Path, tmp_path: Path, split: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        figures.draw_metadata("s1", str(shards), split, tmp_path)


def test_a_folder_without_index_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="gsd from the index"):
        figures.draw_metadata("s1", str(tmp_path), "train", tmp_path)


def test_shards_that_cannot_be_reached_are_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nothing://x/index.parquet"):
        figures.draw_metadata("s1", "nothing://x", "train", tmp_path)


def test_the_command_writes_png_and_svg(shards: Path, tmp_path: Path) -> None:
    for arguments in (["s2", "--shards", str(shards)], ["3", "--runs", str(shards)]):
        got = CliRunner().invoke(main, ["figure", *arguments, "--out", str(tmp_path / "made")])
        assert got.exit_code == 0, got.output
        assert re.findall(r"figure-\S+", got.stdout) == [f"figure-{arguments[0]}.png", f"figure-{arguments[0]}.svg"]


def test_the_command_asks_for_shards() -> None:
    got = CliRunner().invoke(main, ["figure", "s1"])
    assert got.exit_code == 2
    assert "Missing option --shards" in got.output
