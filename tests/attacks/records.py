"""Records of every kind of archive with odd values and damaged bytes: each one gives a sample, or a reject with its reason."""

import csv
import io
import json
import os
import random
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from helpers.fmow_tree import record as fmow_record
from PIL import Image

from attacks.mutations import BYTES, ODD, RECORDS
from attacks.outcome import NotHeld, Tally
from satmip_data.errors import DataError
from satmip_data.pipeline.build import build
from satmip_data.pipeline.request import BuildRequest
from satmip_data.pipeline.settings import BuildSettings
from satmip_data.sources import SOURCES
from satmip_data.sources.base import LayoutError
from satmip_data.validation.validate import validate
from tests.data.archives.make import pixels, stac_item, table_rows, write_raster, write_table_images
from tests.data.xbd.make import house
from tests.data.xbd.make import record as xbd_record

SETTINGS = BuildSettings(size=8, min_side=1)
CHUNK = 200
"""Records of one build."""
LIMITS = "A value that is another one, and as likely, is taken: no record says what is true."
SCALARS = {"cloud_cover": "cloud_cover", "off_nadir_angle": "off_nadir_angle_dbl", "sun_elevation_angle": "sun_elevation_dbl"}
"""Columns of the index that say what fMoW's record says, unchanged."""


@dataclass(frozen=True, slots=True)
class Archive:
    """One archive of records, all of which are damaged."""

    source: str
    root: Path
    records: Mapping[str, bytes]
    """Path of each record -> what it holds; none where samples do not name their record."""
    options: Mapping[str, Any]


def records(seed: int, tries: int, folder: Path) -> Tally:
    """Build archives of damaged records; each must come out as samples or rejects, and what comes out must be valid."""
    tally = Tally("odd and damaged records of fMoW, xBD, STAC and tables", LIMITS)
    for number, (kind, count) in enumerate(_chunks(tries)):
        draw = random.Random(f"{seed}/{number}")
        root = folder / str(number)
        archive = KINDS[kind](root, count, draw)
        tried = Tally("")
        tried.attempt(number, f"{count} records of {kind}", partial(_hold, archive, count, root / "out"))
        tally.failures += tried.failures
        tally.seconds += tried.seconds
        for ended, times in _ended(archive, root / "out", count, tried).items():
            tally.outcomes[ended] += times
        shutil.rmtree(root)
    return tally


def _chunks(tries: int) -> Iterator[tuple[str, int]]:
    shares = {"fmow": 0.4, "stac": 0.3, "table.csv": 0.1, "table.parquet": 0.1, "xbd": 0.1}
    for kind, share in shares.items():
        left = max(1, round(tries * share))
        while left:
            yield kind, min(left, CHUNK)
            left -= min(left, CHUNK)


def _hold(archive: Archive, count: int, out: Path) -> str:
    request = BuildRequest(SOURCES[archive.source](**archive.options), str(archive.root), str(out), SETTINGS)
    try:
        dataset = build(request)
    except (DataError, LayoutError) as error:
        if not any(path.name in str(error) for path in (archive.root, *archive.root.rglob("*"))):
            raise NotHeld(f"The error names no file: {error}") from error
        return "refused"
    if unexpected := dataset["rejects"].get("unexpected", 0):
        raise NotHeld(f"{unexpected} rejects of no known reason: {(out / 'rejects.log').read_text()}")
    if problems := validate(str(out)).problems:
        raise NotHeld(f"validate finds {problems[:3]}")
    samples, rejects = (pq.read_table(out / f"{name}.parquet").to_pylist() for name in ("index", "rejects"))
    if len(samples) + len(rejects) < count:
        raise NotHeld(f"{count} records gave {len(samples)} samples and {len(rejects)} rejects.")
    named = {Path(row["path"]).stem for row in (*samples, *rejects)}
    if lost := [name for name in archive.records if Path(name).stem not in named]:
        raise NotHeld(f"{len(lost)} records are neither samples nor rejects: {lost[:3]}, {archive.records[lost[0]]!r}")
    _compare(archive, out)
    return "built"


def _compare(archive: Archive, out: Path) -> None:
    """What the index tells of numbers must stand in the record."""
    if archive.source != "fmow":
        return
    for row in pq.read_table(out / "index.parquet").to_pylist():
        record = json.loads(archive.records[row["path"].replace(".jpg", ".json")])
        for column, key in SCALARS.items():
            found, told = row[f"scene_{column}"], record.get(key)
            if found != told:
                raise NotHeld(f"{column} is {found!r} and stands as {told!r} in the record of {row['path']}")


def _ended(archive: Archive, out: Path, count: int, tried: Tally) -> dict[str, int]:
    """Return how many of the records ended how."""
    if tried.failures:
        return {"in a build that did not hold": 0}
    if tried.outcomes["refused"]:
        return {"refused": count}
    rows = pq.read_table(out / "index.parquet").to_pylist()
    samples = len({row["path"] for row in rows}) if archive.records else len(rows)  # of a record there may be several
    return {"samples": samples, "rejected": count - samples}


def _changed(record: Any, draw: random.Random) -> bytes:
    return draw.choice(RECORDS)(json.dumps(record).encode(), draw)


def _picture(path: Path, width: int, height: int, draw: random.Random) -> Path:
    rng = np.random.default_rng(draw.randrange(2**32))
    path.parent.mkdir(parents=True)
    Image.fromarray(pixels(rng, height, width, 3, 1, 255).astype(np.uint8).transpose(1, 2, 0)).save(path)
    return path


def _fmow(root: Path, count: int, draw: random.Random) -> Archive:
    picture, written = _picture(root / "picture/one.jpg", 64, 48, draw), {}
    rng = np.random.default_rng(draw.randrange(2**32))
    for number in range(count):
        name = f"train/airport/airport_{number}/airport_{number}_0_rgb"
        folder = root / "tree" / Path(name).parent
        folder.mkdir(parents=True)
        os.link(picture, folder / f"{Path(name).name}.jpg")
        record = fmow_record(rng, "airport", 64, 48, 1 + number % 12)
        if number % 4 == 0:  # the form of the challenge, which knows no place
            record = {name: value for name, value in record.items() if name not in ("raw_location", "mean_pixel_width", "utm")}
        written[f"{name}.json"] = _changed(record, draw)
        (root / "tree" / f"{name}.json").write_bytes(written[f"{name}.json"])
    return Archive("fmow", root / "tree", written, {"boxes": draw.choice(("one", "all"))})


def _xbd(root: Path, count: int, draw: random.Random) -> Archive:
    picture, written = _picture(root / "picture/one.png", 128, 128, draw), {}
    rng = np.random.default_rng(draw.randrange(2**32))
    for folder in ("images", "labels"):
        (root / "tree" / folder).mkdir(parents=True)
    for number in range(count):
        name = f"made-up-fire_{number:08d}_pre_disaster"
        os.link(picture, root / "tree/images" / f"{name}.png")
        written[f"labels/{name}.json"] = _changed(xbd_record([house(rng) for _ in range(4)], f"{name}.png"), draw)
        (root / "tree/labels" / f"{name}.json").write_bytes(written[f"labels/{name}.json"])
    return Archive("xbd", root / "tree", written, {})


def _stac(root: Path, count: int, draw: random.Random) -> Archive:
    rng = np.random.default_rng(draw.randrange(2**32))
    write_raster(root / "tree/images/scene.tif", pixels(rng, 40, 60, 3, 1, 255).astype(np.uint8))
    _picture(root / "tree/pictures/scene.png", 60, 40, draw)
    place = {"proj:code": "EPSG:32632", "proj:transform": [20, 0, 500000, 0, -20, 5000000], "proj:shape": [40, 60]}
    for number in range(count):
        asset = {"href": "images/scene.tif", "roles": ["data"]} if number % 2 else {"href": "pictures/scene.png", **place}
        item = stac_item(number % 100, asset) | {"id": f"scene-{number}"}
        (root / "tree" / f"item-{number}.json").write_bytes(_changed(item, draw))
    return Archive("stac", root / "tree", {}, {})


def _rows(root: Path, count: int, draw: random.Random) -> list[dict[str, Any]]:
    """Write images, and return rows of a table with odd cells."""
    write_table_images(root / "tree")
    frame = table_rows().drop(columns="split")
    whole = json.loads(frame.to_json(orient="records"))
    rows = [dict(whole[number % len(whole)]) | {"lon": None, "lat": 46.0, "labels": "sea|port"} for number in range(count)]
    for row in rows:
        for name in draw.sample(sorted(row), draw.choice((0, 1, 1, 2))):
            row[name] = draw.choice(ODD)
    return rows


def _csv(root: Path, count: int, draw: random.Random) -> Archive:
    rows, text = _rows(root, count, draw), io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    for row in rows:
        writer.writerow({name: "" if value is None else str(value) for name, value in row.items()})
    content = text.getvalue().encode("utf-8", "backslashreplace")
    if draw.random() < 0.3:
        content = draw.choice(BYTES)(content, draw)
    (root / "tree/table.csv").write_bytes(content)
    return Archive("table", root / "tree/table.csv", {}, {})


def _parquet(root: Path, count: int, draw: random.Random) -> Archive:
    rows = _rows(root, count, draw)
    columns = {}
    for name in rows[0]:
        values = [row[name] for row in rows]
        if any(isinstance(value, str) for value in values):
            columns[name] = pa.array([v.encode("utf-8", "replace").decode() if isinstance(v, str) else None for v in values])
        else:
            numbers = [float(v) if isinstance(v, int | float) and not v > 1e308 else None for v in values]
            columns[name] = pa.array(numbers, pa.float64())
    pq.write_table(pa.table(columns), root / "tree/table.parquet")
    if draw.random() < 0.5:
        path = root / "tree/table.parquet"
        path.write_bytes(draw.choice(BYTES)(path.read_bytes(), draw))
    return Archive("table", root / "tree/table.parquet", {}, {})


KINDS: dict[str, Callable[[Path, int, random.Random], Archive]] = {
    "fmow": _fmow, "stac": _stac, "table.csv": _csv, "table.parquet": _parquet, "xbd": _xbd,
}  # fmt: skip
