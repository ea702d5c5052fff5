"""Charts of lines as numbers that a template draws as SVG: ticks, paths, dots. Opens no file."""

import math
import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import fmean

WIDTH, HEIGHT = 340, 190
"""Size of a chart in its own units, which are about pixels on a telephone."""
_LEFT, _TOP, _BOTTOM = 52, 8, 22
_COLOURS = 6
_ROWS, _COLUMNS = 4, 4
"""Ticks at most, about."""


@dataclass(frozen=True)
class Series:
    """Values drawn as one line; a value that is no finite number leaves a gap."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    chance: float | None = None
    """Chance level, drawn as a dotted line."""
    dots: bool = False


@dataclass(frozen=True)
class Chart:
    """Lines over one axis."""

    title: str
    x_name: str
    series: tuple[Series, ...]
    from_zero: bool = False
    """Whether the axis begins at 0, however large the values are."""
    within: tuple[float, float] = (-math.inf, math.inf)
    """Bound that no value, and so no tick, passes."""


@dataclass(frozen=True)
class Line:
    """A line as SVG draws it."""

    name: str
    colour: int
    path: str
    """Of many values in one place their mean."""
    band: str = ""
    """From the lowest to the highest of them."""
    dots: tuple[tuple[float, float], ...] = ()
    label: str = ""
    """Text of it in the key."""


@dataclass(frozen=True)
class Drawn:
    """A chart as a template draws it, see `parts.html`."""

    title: str
    summary: str
    """For who does not see it."""
    lines: tuple[Line, ...]
    references: tuple[Line, ...]
    rows: tuple[tuple[float, str], ...]
    """Height and label of each tick."""
    columns: tuple[tuple[float, str], ...]
    width: int = WIDTH
    height: int = HEIGHT
    left: int = _LEFT


def draw(chart: Chart) -> Drawn | None:
    """Return a chart to be drawn; None where there is no finite value."""
    points = [list(_finite(series)) for series in chart.series]
    known = [point for one in points for point in one]
    if not known:
        return None
    heights = [y for _, y in known] + [series.chance for series in chart.series if series.chance is not None]
    bottom = min([0.0, *heights] if chart.from_zero else heights)
    rows = [tick for tick in ticks(bottom, max(heights), _ROWS) if chart.within[0] <= tick <= chart.within[1]]
    down = _Scale(min([bottom, *rows]), max([*heights, *rows]), HEIGHT - _BOTTOM, _TOP)
    along = _Scale(min(x for x, _ in known), max(x for x, _ in known), _LEFT, WIDTH - 6)
    columns = ticks(along.low, along.high, _COLUMNS)
    lines, references = [], []
    for number, (series, mine) in enumerate(zip(chart.series, points, strict=True)):
        places = _places(mine, along)
        dots = tuple((along(place.x), down(place.mean)) for place in places) if series.dots or len(places) == 1 else ()
        label = series.name if series.chance is None else f"{series.name}, chance {series.chance:.4g}"
        parts = _parts(places, series)
        path = "".join(_path((along(place.x), down(place.mean)) for place in part) for part in parts)
        spread = [
            [*((along(p.x), down(p.high)) for p in part), *((along(p.x), down(p.low)) for p in reversed(part))] for part in parts
        ]
        band = "".join(f"{_path(edge)}Z" for edge in spread) if len(places) < len(mine) else ""
        lines.append(Line(series.name, number % _COLOURS, path, band, dots, label))
        if series.chance is not None:
            level = down(series.chance)
            path = f"M{_LEFT} {level:g}H{WIDTH - 6}"
            references.append(Line(label, number % _COLOURS, path))
    inside = [tick for tick in columns if along.low <= tick <= along.high]
    return Drawn(
        chart.title,
        _summary(chart, points),
        tuple(lines),
        tuple(references),
        tuple(zip(map(down, rows), _labels(rows), strict=True)),
        tuple(zip(map(along, inside), _labels(inside), strict=True)),
    )


def ticks(low: float, high: float, most: int) -> list[float]:
    """Return round numbers, about `most` and at least two, from at most `low` to at least `high`."""
    if high - low <= 1e-12 * max(abs(low), abs(high)):
        low, high = low - (abs(low) or 1) / 2, high + (abs(high) or 1) / 2
    rough = (high - low) / most
    power = 10 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [number * step for number in range(first, last + 1)]


@dataclass(frozen=True)
class _Scale:
    """From values to places."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        share = 0.5 if self.high == self.low else (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 1)


def _finite(series: Series) -> Iterator[tuple[float, float]]:
    yield from ((x, y) for x, y in zip(series.x, series.y, strict=True) if math.isfinite(y))


@dataclass(frozen=True)
class _Place:
    """Points that stand in one place of the axis: where, and their lowest, mean and highest value."""

    x: float
    low: float
    mean: float
    high: float


def _places(points: Sequence[tuple[float, float]], along: _Scale) -> list[_Place]:
    """Return the points, or the places of a pixel in which they stand where these are fewer than half of them."""
    groups = [list(group) for _, group in groupby(points, key=lambda point: round(along(point[0])))]
    if len(points) <= 2 * len(groups):
        return [_Place(x, y, y, y) for x, y in points]
    values = [([x for x, _ in group], [y for _, y in group]) for group in groups]
    return [_Place(fmean(xs), min(ys), fmean(ys), max(ys)) for xs, ys in values]


def _parts(places: Sequence[_Place], series: Series) -> list[list[_Place]]:
    """Return the places, parted where values in between are not finite."""
    gaps = [x for x, y in zip(series.x, series.y, strict=True) if not math.isfinite(y)]
    parts: list[list[_Place]] = []
    before = -math.inf
    for place in places:
        if not parts or bisect_left(gaps, before) < bisect_right(gaps, place.x):
            parts.append([])
        parts[-1].append(place)
        before = place.x
    return parts


def _path(points: Iterable[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:g} {y:g}" for x, y in points)


def _labels(values: Sequence[float]) -> list[str]:
    """Return ticks in few letters, all alike: 12k, 0.05 and 0.10, 1e-4 and 1.5e-4."""
    largest = max(map(abs, values), default=0.0)
    if largest >= 1e4:
        return [f"{value / 1e3:g}k" if value else "0" for value in values]
    if largest < 1e-2:
        return [re.sub(r"e-0?", "e-", f"{value:.1e}".replace(".0e", "e")) if value else "0" for value in values]
    digits = max((len(f"{round(value, 6):.6f}".rstrip("0").partition(".")[2]) for value in values), default=0)
    return [f"{value:.{digits}f}" for value in values]


def _summary(chart: Chart, points: Sequence[Sequence[tuple[float, float]]]) -> str:
    pairs = [(series.name, mine) for series, mine in zip(chart.series, points, strict=True) if mine]
    ends = "; ".join(f"{name} from {mine[0][1]:.4g} to {mine[-1][1]:.4g}" for name, mine in pairs)
    return f"{chart.title} by {chart.x_name}: {ends}"


@dataclass(frozen=True)
class Dots:
    """Points of one colour."""

    name: str
    kind: str
    """CSS class of the colour."""
    path: str
    """Each point as a line of no length, which round ends make a dot."""


@dataclass(frozen=True)
class Scatter:
    """Points in two dimensions as a template draws them, see `parts.html`."""

    title: str
    summary: str
    """For who does not see it."""
    groups: tuple[Dots, ...]
    side: int = WIDTH


def scatter(title: str, points: Sequence[tuple[float, float]], groups: Sequence[tuple[str, str, Sequence[int]]]) -> Scatter:
    """Return points to be drawn in a square, whatever their units are.

    Args:
        title: what their colours mean.
        points: x to the right and y upwards.
        groups: name, CSS class and the numbers of the points of each.
    """
    across, down = (
        _Scale(min(values), max(values), start, end)
        for values, start, end in zip(zip(*points, strict=True), (6, WIDTH - 6), (WIDTH - 6, 6), strict=True)
    )
    dots = tuple(
        Dots(name, kind, "".join(f"M{across(points[i][0]):g} {down(points[i][1]):g}h0" for i in numbers))
        for name, kind, numbers in groups
        if len(numbers)
    )
    counts = ", ".join(f"{name}: {len(numbers):,}" for name, _, numbers in groups if len(numbers))
    return Scatter(title, f"{title}. {counts}", dots)
