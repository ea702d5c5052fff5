"""Coastlines: what is land, the path that draws it, and the files of others as they were published."""

import hashlib
import re
from importlib.resources import files
from itertools import accumulate, pairwise

import pytest

from satmip_data.pages.coastlines import coastlines, land_path

Point = tuple[float, float]


def drawn_outlines() -> list[list[Point]]:
    """The outlines of the path, upside down as SVG has them, as longitudes and latitudes."""
    outlines = []
    for part in re.findall(r"M([^MZ]*)Z", land_path()):
        start, steps = ([float(word) for word in words.split()] for words in part.split("l"))
        columns = (accumulate(steps[i::2], initial=start[i]) for i in (0, 1))
        outlines.append([(x, -y) for x, y in zip(*columns, strict=True)])
    return outlines


def inside(point: Point, outlines: list[list[Point]]) -> bool:
    """Whether the rule even-odd fills a point."""
    x, y = point
    odd = False
    for outline in outlines:
        for (x0, y0), (x1, y1) in pairwise([*outline, outline[0]]):
            if (y0 > y) != (y1 > y) and x < x0 + (x1 - x0) * (y - y0) / (y1 - y0):
                odd = not odd
    return odd


LAND = {
    "Bern": (7.4, 46.9), "Nairobi": (36.8, -1.3), "Denver": (-105.0, 39.7), "Alice Springs": (133.9, -23.7), "Lima": (-76.5, -12.0),
    "Chukotka, west of 180": (178.0, 66.5), "Chukotka, east of 180": (-176.0, 67.0), "the South Pole": (10.0, -88.0),
}  # fmt: skip
SEA = {
    "the Atlantic": (-30.0, 0.0), "the Pacific": (-150.0, 20.0), "the Caspian Sea": (50.5, 42.0), "the North Pole": (0.0, 88.0),
    "south of Chukotka": (179.0, 55.0), "north of Fiji": (-170.0, -10.0),
}  # fmt: skip


@pytest.mark.parametrize(("name", "filled"), [*((name, True) for name in LAND), *((name, False) for name in SEA)])
def test_the_path_fills_land_and_no_sea(name: str, filled: bool) -> None:
    assert inside({**LAND, **SEA}[name], drawn_outlines()) == filled


def test_the_path_has_every_corner_of_the_outlines() -> None:
    corners = {(round(x, 1) % 360, round(y, 1)) for outline in drawn_outlines() for x, y in outline}
    known = {(round(x * 10), round(y * 10)) for x, y in corners}
    for outline in coastlines():
        assert outline[0] == outline[-1] or abs(outline[0][0] - outline[-1][0]) == 360
        for lon, lat in outline:
            x, y = round(lon * 10) % 3600, round(lat * 10)
            assert {(x + i, y + j) for i in (-1, 0, 1) for j in (-1, 0, 1)} & known


def test_outlines_jump_nowhere_but_at_the_antimeridian() -> None:
    for outline in drawn_outlines():
        for (x0, y0), (x1, y1) in pairwise(outline):
            assert abs(x1 - x0) < 40 or max(y0, y1) < -89.9
            assert abs(y1 - y0) < 20


def test_files_of_others_are_as_the_notice_says() -> None:
    folder = files("satmip_data.pages").joinpath("vendor")
    notice = folder.joinpath("NOTICE").read_text(encoding="utf-8")
    said = re.findall(r"^(\S+):.*?^sha256 (\w{64})$", notice, re.M | re.S)
    found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir() if path.name != "NOTICE"}
    assert dict(said) == found
