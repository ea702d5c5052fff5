"""Columns of the explorer against what their codes say, row by row."""

from collections import Counter

import numpy as np
import pytest

from satmip_data.explorer.columns import Histogram, bar_sets, bars, histogram, narrow, whole_numbers, world_map


def check_bins(column: Histogram, values: np.ndarray) -> None:
    assert list(column.edges) == sorted(set(column.edges))
    last = len(column.edges) - 1
    for code, value in zip(column.codes.tolist(), values.tolist(), strict=True):
        if np.isnan(value):
            assert code == last
        else:
            low, high = column.edges[code], column.edges[code + 1]
            assert low <= value < high or np.isclose(value, (low, high)).any()


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("size", [False, True])
def test_every_number_lies_in_its_bin(seed: int, size: bool) -> None:
    rng = np.random.default_rng(seed)
    values = 10 ** rng.uniform(-3, 3) * rng.lognormal(0, rng.uniform(0, 2), 500)
    values[rng.random(500) < 0.1] = np.nan
    column = histogram(values, size=size)
    check_bins(column, values)
    assert 3 <= len(column.edges) <= 64
    assert column.log == (size and np.nanmax(values) / np.nanmin(values) > 4)
    assert column.edges[0] <= np.nanmin(values) * (1 + 1e-9)
    assert column.edges[-1] >= np.nanmax(values) * (1 - 1e-9)


@pytest.mark.parametrize(
    "values", [[], [np.nan, np.nan], [5.0], [0.0, 0.0], [-3.0, 0.0], [0.0, 7.0], [1e-9, 1e9], [5.0, 5.0, np.nan]]
)
def test_few_and_equal_numbers_have_bins_too(values: list[float]) -> None:
    array = np.array(values, np.float64)
    for column in (histogram(array), histogram(array, size=True), histogram(array, [0.0, 1.0])):
        check_bins(column, array)


def test_given_edges_hold_unless_a_value_lies_outside() -> None:
    edges = [0.0, 50.0, 100.0]
    assert histogram(np.array([0.0, 100.0]), edges).edges == tuple(edges)
    assert histogram(np.array([0.0, 101.0]), edges).edges != tuple(edges)
    column = whole_numbers(np.array([1.0, 12.0, np.nan]), 1, 12)
    assert column.codes.tolist() == [0, 11, 12]
    assert column.meaning()["size"] == 13


@pytest.mark.parametrize("seed", range(10))
def test_sets_of_words_are_those_of_the_rows(seed: int) -> None:
    rng = np.random.default_rng(seed)
    words = [f"w{i}" for i in range(6)]
    sets = [sorted(rng.choice(6, rng.integers(0, 4), replace=False).tolist()) for _ in range(8)]
    codes = rng.integers(-1, 8, 300)
    column = bar_sets(codes, sets, words, "none")
    expected = [{words[i] for i in sets[code]} if code >= 0 else set() for code in codes]
    table = column.sets or tuple((i,) for i in range(len(column.values)))
    found = [{column.values[i] for i in table[code] if i != column.absent} for code in column.codes]
    assert found == expected
    totals = Counter(word for row in expected for word in row)
    known = [value for i, value in enumerate(column.values) if i != column.absent]
    assert [totals[value] for value in known] == sorted(totals.values(), reverse=True)
    assert (column.absent is not None) == any(not row for row in expected)


def test_single_words_need_no_sets_and_a_word_may_be_called_unknown() -> None:
    column = bars(np.array([0, 1, 1, -1, 2]), ["a", "b", "unknown"])
    assert column.values == ("b", "a", "unknown", "unknown")
    assert column.absent == 3
    assert column.codes.tolist() == [1, 0, 0, 3, 2]
    assert column.sets == ()


@pytest.mark.parametrize(
    ("west", "south", "width", "height"),
    [
        (-180, -55, 359, 125),
        (5.9, 45.8, 4.6, 2.0),
        (7.0, 47.0, 0.01, 0.01),
        (-180, -90, 0, 0),
        (179.99, 89, 0, 0.99),
        (-70, -80, 3, 100),
    ],
)
def test_every_place_lies_in_its_cell(west: float, south: float, width: float, height: float) -> None:
    rng = np.random.default_rng(0)
    lon, lat = west + width * rng.random(200), south + height * rng.random(200)
    lon[::7] = np.nan
    grid = world_map(lon, lat)
    for code, x, y in zip(grid.codes.tolist(), lon.tolist(), lat.tolist(), strict=True):
        if np.isnan(x):
            assert code == grid.columns * grid.rows
            continue
        row, column = divmod(code, grid.columns)
        assert grid.west + column * grid.step - 1e-9 <= x <= grid.west + (column + 1) * grid.step + 1e-9
        assert grid.north - (row + 1) * grid.step - 1e-9 <= y <= grid.north - row * grid.step + 1e-9
    assert grid.columns <= 181
    assert grid.columns * grid.rows < 1 << 16


def test_codes_take_as_few_bytes_as_hold_them() -> None:
    for size, width in ((256, 1), (257, 2), (1 << 16, 2), ((1 << 16) + 1, 4)):
        assert narrow(np.array([size - 1]), size).itemsize == width
        assert narrow(np.array([size - 1]), size)[0] == size - 1
