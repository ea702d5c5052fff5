"""Charts against their numbers, and templates that let no value become markup."""

import math
import random
import re
from itertools import pairwise

import pytest
from jinja2 import UndefinedError

from satmip_data.pages import render
from satmip_data.pages.charts import HEIGHT, WIDTH, Chart, Series, draw, ticks


@pytest.mark.parametrize("seed", range(20))
def test_ticks_are_round_and_cover_what_they_are_for(seed: int) -> None:
    rng = random.Random(seed)
    low = rng.uniform(-1, 1) * 10 ** rng.randint(-3, 4)
    high = low + rng.random() * 10 ** rng.randint(-3, 4)
    for found in (ticks(low, high, 4), ticks(low, low, 4)):
        assert 2 <= len(found) <= 7
        assert found[0] <= low + 1e-9 * abs(low)
        assert found[-1] >= low - 1e-9 * abs(low)
        step = found[1] - found[0]
        assert all(math.isclose(b - a, step, rel_tol=1e-6) for a, b in pairwise(found))
        assert f"{step:.0e}"[0] in "125"
    assert ticks(low, high, 4)[-1] >= high - 1e-9 * abs(high)


def points(path: str) -> list[list[tuple[float, float]]]:
    """The lines that a path draws, each as its points."""
    return [[tuple(map(float, pair.split())) for pair in part.split("L")] for part in path.split("M")[1:]]  # type: ignore[misc]


def test_a_line_keeps_its_extremes_and_its_gaps() -> None:
    x = [i / 100 for i in range(10_000)]
    y = [math.sin(value) for value in x]
    y[5000], y[7000] = 9.0, -9.0
    for gap in range(2000, 3000):
        y[gap] = math.nan
    drawn = draw(Chart("loss", "epoch", (Series("loss", x, y, chance=2.0),)))
    assert drawn is not None
    parts = points(drawn.lines[0].path)
    assert len(parts) == 2
    assert sum(map(len, parts)) <= WIDTH
    bands = points(drawn.lines[0].band.replace("Z", ""))
    assert len(bands) == 2
    shown = [point for part in bands for point in part]
    assert all(0 <= across <= WIDTH and 0 <= down <= HEIGHT for across, down in shown)
    heights = dict(zip((label for _, label in drawn.rows), (place for place, _ in drawn.rows), strict=True))
    per_unit = (heights["-10"] - heights["10"]) / 20
    assert min(down for _, down in shown) == pytest.approx(heights["0"] - 9 * per_unit, abs=0.1)
    assert max(down for _, down in shown) == pytest.approx(heights["0"] + 9 * per_unit, abs=0.1)
    assert float(re.findall(r"M\d+ ([\d.]+)H", drawn.references[0].path)[0]) == pytest.approx(heights["0"] - 2 * per_unit, abs=0.1)


def test_a_single_value_is_a_dot_and_none_is_no_chart() -> None:
    one = draw(Chart("kNN", "epoch", (Series("top-1", [4.0], [100.0]),), within=(0, 100)))
    assert one is not None
    assert len(one.lines[0].dots) == 1
    assert [label for _, label in one.rows][-1] == "100"
    assert draw(Chart("kNN", "epoch", (Series("top-1", [1.0], [math.nan]), Series("none", [], [])))) is None


@pytest.mark.parametrize(
    ("values", "labels"),
    [((0.0, 2e-4), ["0", "5e-5", "1e-4", "1.5e-4", "2e-4"]), ((0.0, 20_000.0), ["0", "5k", "10k", "15k", "20k"]),
     ((0.07, 0.0704), ["0.0700", "0.0701", "0.0702", "0.0703", "0.0704"])],
)  # fmt: skip
def test_ticks_are_written_alike(values: tuple[float, float], labels: list[str]) -> None:
    drawn = draw(Chart("", "epoch", (Series("", [0.0, 1.0], values),)))
    assert drawn is not None
    assert [label for _, label in drawn.rows] == labels


def test_a_card_keeps_hostile_values_in_their_cells_and_tells_of_missing_ones() -> None:
    source = {"name": "a|b <script>\n# c", "licence": "CC `x`"}
    values = {
        "front": "", "version": "1", "size": "8", "coverage": ["<img>"], "first": "train", "braces": "t", "fields": (),
        "splits": {"train": {"samples": 1, "shards": 1}},
    }  # fmt: skip
    card = render("dataset.md", source=source, **values)
    assert "# Chips of a\\|b &lt;script> # c with" in card
    assert "<script" not in card
    assert "<img" not in card
    with pytest.raises(UndefinedError, match="source"):
        render("dataset.md", **values)
