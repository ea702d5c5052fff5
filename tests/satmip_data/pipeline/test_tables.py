"""Reading of Parquet files: no thread of Arrow's that could outlive the interpreter."""

import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from satmip_data.records import Metadata, Sample, Window
from satmip_data.shards.index_table import index_table
from satmip_data.storage.parquet import parquet_bytes, read_parquet

ROOT = Path(__file__).parents[3]
TABLE = pa.table({"a": [1, 2], "b": ["x", None]})


def test_a_table_comes_back() -> None:
    data = parquet_bytes(TABLE)
    assert read_parquet(data).equals(TABLE)
    with pytest.raises(pa.ArrowException):
        read_parquet(data[:-20])


def test_an_index_has_no_column_that_arrow_cannot_read() -> None:
    """Before version 26, Arrow writes a missing list of fixed length and then refuses the file."""
    nothing = Metadata()
    sample = Sample("key", "train", "place", None, "path", 8, 8, Window(0, 0, 8, 8), nothing, nothing, None)
    table = index_table([("train/000000.tar", sample)])
    assert not [field.name for field in table.schema if pa.types.is_fixed_size_list(field.type)]
    assert read_parquet(parquet_bytes(table)).equals(table)


def test_reading_starts_no_thread() -> None:
    """A thread of Arrow's that still runs when the interpreter ends aborts it: "terminate called without an active exception"."""
    code = (
        "import os, sys\n"
        "from satmip_data.storage.parquet import read_parquet\n"
        "data = sys.stdin.buffer.read()\n"
        "before = len(os.listdir('/proc/self/task'))\n"
        "read_parquet(data).to_pandas(use_threads=False)\n"
        "print(len(os.listdir('/proc/self/task')) - before)\n"
    )
    if not Path("/proc/self/task").exists():
        pytest.skip("this system does not list the threads of a process")
    run = subprocess.run([sys.executable, "-c", code], input=parquet_bytes(TABLE), capture_output=True, check=True)
    assert run.stdout.strip() == b"0"


def test_no_other_reader_of_parquet_is_used() -> None:
    sources = [path for package in ("satmip_data", "satmip_train") for path in (ROOT / package).rglob("*.py")]
    offending = [
        path.name for path in sources for word in ("pq.read_table(", "pd.read_parquet(") if word in path.read_text("utf-8")
    ]
    assert not offending
