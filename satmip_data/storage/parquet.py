"""Parquet files as bytes."""

import io

import pyarrow as pa
import pyarrow.parquet as pq


def parquet_bytes(table: pa.Table) -> bytes:
    """Return a table as a Parquet file."""
    stream = io.BytesIO()
    pq.write_table(table, stream, compression="zstd")
    return stream.getvalue()


def read_parquet(data: bytes) -> pa.Table:
    """Return the table of a Parquet file.

    Raises:
        pyarrow.ArrowException: it is no Parquet file, or damaged.
    """
    # From a buffer and by this thread alone: threads of Arrow that still run when the interpreter ends abort it.
    return pq.ParquetFile(pa.BufferReader(data)).read(use_threads=False)
