"""Parquet files as bytes."""

import io
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq


def parquet_bytes(table: pa.Table) -> bytes:
    """Return a table as a Parquet file."""
    stream = io.BytesIO()
    pq.write_table(table, stream, compression="zstd")
    return stream.getvalue()


def read_parquet(data: bytes, columns: Sequence[str] | None = None) -> pa.Table:
    """Return the table of a Parquet file, or some of its columns.

    Raises:
        pyarrow.ArrowException: it is no Parquet file, or damaged.
    """
    # From a buffer and by this thread alone: threads of Arrow that still run when the interpreter ends abort it.
    return pq.ParquetFile(pa.BufferReader(data)).read(columns and [*columns], use_threads=False)
