"""The explorer as one file, which opens without a network: rows as compact columns, chips, and the scripts that draw them."""

import base64
import gzip
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from satmip_data.errors import BuildError
from satmip_data.explorer.charts import COLUMNS, CONTENT, PLACE, RECORD, TIME, VIEW, Chart, charts_of
from satmip_data.explorer.columns import Codes
from satmip_data.explorer.gallery import draw_pictures
from satmip_data.metadata.checks import FLAGS
from satmip_data.names import without_secrets
from satmip_data.pages import Grid, render, script, vendored
from satmip_data.pages.coastlines import land_path
from satmip_data.records import REASONS
from satmip_data.shards.dataset import read_dataset, read_table
from satmip_data.storage.store import Store

PICTURES = 96
"""Chips of a page, besides some of suspect records."""
_EXAMPLES = 3
"""Of each kind of reject."""
_MOST_CHARTS = 32
"""The page's script keeps a bit a chart."""


def write_page(shards: str, out: Path, split: str | None = None, pictures: int = PICTURES) -> None:
    """Write the explorer of a shard directory.

    Args:
        shards: a folder of this machine or an fsspec URL.
        out: the file.
        split: whose rows are shown; all where it is None.
        pictures: chips that are shown.

    Raises:
        BuildError: there is no finished build, its tables are damaged, or there is no such split.
        ShardError: a shard is damaged.
    """
    store = Store(shards)
    dataset = read_dataset(store)
    if split not in (None, *dataset["splits"]):
        raise BuildError(f'There is no split "{split}" in {shards}. Use --split with one of: {", ".join(dataset["splits"])}')
    index = read_table(store, dataset, "index.parquet", COLUMNS)
    rejects = read_table(store, dataset, "rejects.parquet")
    try:
        index = index if split is None else index.filter(pc.equal(index["split"], split))
        charts = charts_of(index, dataset)
        reasons = list(_reasons(rejects))
    except (KeyError, ValueError, pa.ArrowException) as error:
        problem = f"{type(error).__name__}: {error}"
        raise BuildError(f"A table of {shards} is damaged: {problem}. Run: satmip-data validate {quote(shards)}") from error
    page = render(
        "explorer.html",
        name=without_secrets(shards),
        dataset=dataset,
        total=len(index),
        groups=[
            (group, mine) for group in (PLACE, CONTENT, TIME, VIEW, RECORD) if (mine := [c for c in charts if c.group == group])
        ],
        charts=charts,
        rows={"rows": len(index), "charts": [_packed(chart) for chart in charts]},
        pictures=draw_pictures(store, index, pictures),
        reasons=reasons,
        flags=Grid.of(("check", "meaning"), FLAGS.items(), text=True),
        land=land_path(),
        scripts=(vendored("d3.min.js"), script("explorer.js")),
        notice=vendored("NOTICE"),
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(page, encoding="utf-8")


@dataclass(frozen=True)
class Reason:
    """Why scenes or boxes gave no sample."""

    code: str
    meaning: str
    count: int
    examples: tuple[tuple[str, str], ...]
    """Path and message of each example."""


def _reasons(rejects: pa.Table) -> Iterator[Reason]:
    """Yield every kind of reject with examples, the most frequent first."""
    codes = rejects["reason"].to_pylist()
    for code, count in Counter(codes).most_common():
        first = rejects.take([number for number, found in enumerate(codes) if found == code][:_EXAMPLES]).to_pylist()
        yield Reason(code, REASONS.get(code, ""), count, tuple((row["key"] or row["path"], row["message"]) for row in first))


def _packed(chart: Chart) -> Mapping[str, Any]:
    """Return a chart as the script reads it: what its codes mean, and the codes of all rows."""
    codes = chart.column.codes
    data = _packed_codes(codes)
    own = {"name": chart.name, "title": chart.title, "by": chart.by, "bytes": codes.itemsize, "data": data}
    return own | chart.column.meaning()


def _packed_codes(codes: Codes) -> str:
    data = np.ascontiguousarray(codes, codes.dtype.newbyteorder("<")).tobytes()
    return base64.b64encode(gzip.compress(data, 6, mtime=0)).decode()
