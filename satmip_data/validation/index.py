"""Checks of `index.parquet` and `rejects.parquet` against the shards. Each failed check is yielded as its message."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
from shapely import equals_exact, from_wkb, normalize

from satmip_data.records import Sample
from satmip_data.shards.index_table import index_table

TOLERANCE = 1e-9
"""Degrees by which corners of footprints may differ: where one is cut at the antimeridian, the last digits are a library's own."""


def rows_by_shard(index: pa.Table) -> dict[str, pa.Table]:
    """Return the rows of each shard, copied, so that a worker is sent its own and no others."""
    numbers: dict[str, list[int]] = {}
    for number, shard in enumerate(index["shard"].to_pylist()):
        numbers.setdefault(shard, []).append(number)
    return {shard: index.take(chosen) for shard, chosen in numbers.items()}


def check_rows(shard: str, rows: pa.Table, samples: Sequence[Sample]) -> Iterator[str]:
    """Yield each column in which the rows of a shard say something else than its samples; the first of them is the evidence.

    Flags are not compared: samples do not hold them.
    """
    numbers = {key: number for number, key in enumerate(rows["key"].to_pylist())}
    samples = [sample for sample in samples if sample.key in numbers]
    if not samples:
        return
    rows, expected = rows.take([numbers[sample.key] for sample in samples]), index_table((shard, sample) for sample in samples)
    for name in expected.column_names:
        if name == "flags":
            continue
        if name not in rows.column_names:
            yield f"The index has no column {name}"
            continue
        for sample, wanted, found in zip(samples, expected[name].to_pylist(), rows[name].to_pylist(), strict=True):
            if not _same(name, wanted, found):
                yield f"{name} of {sample.key} {_differs(found, wanted)}"
                break


def _differs(found: Any, wanted: Any) -> str:
    """Say how a cell differs from its sample's JSON; shapes are too long to be written."""
    if isinstance(found, bytes) and isinstance(wanted, bytes):
        return "is another shape than in its JSON"
    found, wanted = (
        "missing" if value is None else ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        for value in (found, wanted)
    )
    return f"is {found}; its JSON says {wanted}"


def _same(name: str, wanted: Any, found: Any) -> bool:
    if name != "geometry" or wanted == found:
        return bool(wanted == found)
    shapes = [normalize(from_wkb(data, on_invalid="ignore")) for data in (wanted, found)]
    return bool(equals_exact(*shapes, tolerance=TOLERANCE))


def check_counts(name: str, codes: Sequence[str], recorded: dict[str, int]) -> Iterator[str]:
    """Yield where the codes of a table (reasons, flags) are others than `dataset.json` counts."""
    counted = dict(sorted(Counter(codes).items()))
    if counted != recorded:
        code = next(code for code in sorted({*counted, *recorded}) if counted.get(code, 0) != recorded.get(code, 0))
        yield f"{name}: {code} stands {counted.get(code, 0)} times; dataset.json says {recorded.get(code, 0)}"
