"""Charts of an index against its rows."""

import datetime as dt
from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from satmip_data.explorer import captions
from satmip_data.explorer.captions import caption_lengths
from satmip_data.explorer.charts import COLUMNS, Chart, charts_of
from satmip_data.explorer.columns import Bars, Histogram
from satmip_data.metadata.captions import caption
from satmip_data.metadata.clip_tokens import token_counter
from satmip_data.metadata.fields import FIELDS
from satmip_data.records import Metadata, Sample, Window
from satmip_data.shards.index_table import index_table

CAPTION = {"fields": ["gsd", "timestamp", "location"], "style": "key-value"}


def made_up(rng: np.random.Generator, missing: float) -> Metadata:
    """Metadata of which each field is unknown with a chance."""
    number = lambda low, high: float(rng.choice([rng.uniform(low, high), low, 0.0]))  # noqa: E731
    values: dict[str, Any] = {
        "gsd": (number(0.1, 30), number(9.99, 10)),
        "multispectral_gsd": number(0.1, 99),
        "pixel_size": (number(1e-6, 1e-3), number(1e-6, 1e-3)),
        "datetime": dt.datetime(2001, 1, 1, tzinfo=dt.UTC) + dt.timedelta(minutes=int(rng.integers(10_000_000))),
        "location": (number(-180, 179), number(-90, 90)),
        "utm_zone": str(rng.choice(["1C", "32T"])),
        "country_code": str(rng.choice(["CHE", "PER"])),
        "cloud_cover": float(rng.integers(101)),
        "scan_direction": "Forward",
        "wavelengths": (661, 545, 477),
        "target_azimuth": number(0, 360),
        "sun_azimuth": number(0, 360),
        "sun_elevation": number(-10, 90),
        "off_nadir": number(0, 45),
        "platform": "GEOEYE01",
    }
    return Metadata(**{name: value for name, value in values.items() if rng.random() >= missing})


def index_of(rows: list[Metadata], **changes: list[Any]) -> pa.Table:
    """An index of samples with these metadata, and other values of attributes where they are named."""
    samples = []
    for number, metadata in enumerate(rows):
        own = {name: values[number] for name, values in changes.items()}
        plain = {"split": "train", "category": "lake", "labels": (), "flags": ()} | own
        samples.append(
            Sample(
                f"s{number}", plain["split"], "p", plain["category"], "a.jpg", 9, 9, Window(0, 0, 4, 2), metadata, metadata,
                None, plain["labels"], plain["flags"],
            )
        )  # fmt: skip
    return index_table(("train/000000.tar", sample) for sample in samples).select(COLUMNS)


def by_name(index: pa.Table) -> dict[str, Chart]:
    return {chart.name: chart for chart in charts_of(index, {"caption": CAPTION})}


def counted(column: Any) -> Counter[str]:
    """How often each word of a chart stands in its rows."""
    assert isinstance(column, Bars)
    sets = column.sets or tuple((i,) for i in range(len(column.values)))
    return Counter(column.values[i] for code in column.codes for i in sets[code])


@pytest.mark.parametrize("style", ["key-value", "sentence"])
@pytest.mark.parametrize("missing", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("fields", [("gsd", "timestamp", "location"), tuple(field.name for field in FIELDS), ("utm_zone",)])
def test_lengths_of_captions_are_those_of_the_captions(style: str, missing: float, fields: tuple[str, ...]) -> None:
    rng = np.random.default_rng(0)
    rows = [made_up(rng, missing) for _ in range(80)]
    count = token_counter() or len
    expected = [count(caption(row, fields, style)) for row in rows]
    assert caption_lengths(index_of(rows), fields, style).tolist() == expected


def test_without_a_tokenizer_captions_have_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(captions, "token_counter", lambda: None)
    rows = [made_up(np.random.default_rng(1), 0.3) for _ in range(20)]
    for style in ("key-value", "sentence"):
        found = caption_lengths(index_of(rows), CAPTION["fields"], style)
        assert found.tolist() == [len(caption(row, CAPTION["fields"], style)) for row in rows]


def test_charts_count_what_the_rows_hold() -> None:
    rng = np.random.default_rng(2)
    rows = [made_up(rng, 0.2) for _ in range(200)]
    flags = [("sun_position", "utm_zone") if i % 10 == 0 else ("country_code",) if i % 10 == 1 else () for i in range(200)]
    splits = ["val" if i % 3 == 0 else "train" for i in range(200)]
    found = by_name(index_of(rows, flags=flags, split=splits, category=[None if i % 7 == 0 else "lake" for i in range(200)]))
    assert counted(found["split"].column) == Counter(splits)
    assert counted(found["class"].column) == {"lake": 171, "none": 29}
    assert counted(found["check"].column) == {"nothing odd": 160, "sun_position": 20, "utm_zone": 20, "country_code": 20}
    lacking = Counter(field.name for row in rows for field in FIELDS if field.value(row) is None)
    complete = sum(all(field.value(row) is not None for field in FIELDS) for row in rows)
    assert counted(found["missing"].column) == lacking | ({"none is missing": complete} if complete else {})
    assert counted(found["country_code"].column) == Counter(row.country_code or "unknown" for row in rows)
    for name, expected in {
        "month": [row.datetime and row.datetime.month for row in rows],
        "year": [row.datetime and row.datetime.year for row in rows],
        "cloud_cover": [row.cloud_cover for row in rows],
        "solar_hour": [
            (row.datetime.hour + row.datetime.minute / 60 + row.location[0] / 15) % 24 if row.datetime and row.location else None
            for row in rows
        ],
        "gsd": [row.gsd and sum(row.gsd) / 2 for row in rows],
    }.items():
        column = found[name].column
        assert isinstance(column, Histogram)
        for code, value in zip(column.codes.tolist(), expected, strict=True):
            if value is None:
                assert code == len(column.edges) - 1
            else:
                low, high = column.edges[code : code + 2]
                assert low - 1e-9 <= value <= high + 1e-9


def test_labels_of_a_set_are_its_classes() -> None:
    labels = [("a", "b"), (), ("b",), ("a", "b")]
    found = by_name(index_of([Metadata()] * 4, labels=labels, category=[None] * 4))
    assert counted(found["class"].column) == {"b": 3, "a": 2, "none": 1}


def test_what_no_row_knows_has_no_chart() -> None:
    found = by_name(index_of([Metadata()] * 3, category=[None] * 3))
    assert {*found} == {"split", "missing", "check", "window", "caption"}
    assert counted(found["missing"].column) == {field.name: 3 for field in FIELDS}
