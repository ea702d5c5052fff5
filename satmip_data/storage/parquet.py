"""Parquet files as bytes."""

import io
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from satmip_data.storage.limits import check_unpacked


def parquet_bytes(table: pa.Table) -> bytes:
    """Return a table as a Parquet file."""
    stream = io.BytesIO()
    pq.write_table(table, stream, compression="zstd")
    return stream.getvalue()


BATCH = 4096
"""Rows of a foreign table that are unpacked at a time."""


def read_foreign_parquet(name: str, data: bytes) -> pa.Table:
    """Return the table of a Parquet file that may come from anywhere: a few bytes may stand for gigabytes.

    Raises:
        OSError: it unpacks to more than the limit.
        pyarrow.ArrowException: it is no Parquet file, or damaged.
    """
    file = pq.ParquetFile(pa.BufferReader(data))
    batches, size = [], 0
    for batch in file.iter_batches(BATCH, use_threads=False):
        # As they are read out: a dictionary holds each value once.
        size += sum((cells.dictionary_decode() if pa.types.is_dictionary(cells.type) else cells).nbytes for cells in batch.columns)
        check_unpacked(name, size)
        batches.append(batch)
    return pa.Table.from_batches(batches, file.schema_arrow)


def read_parquet(data: bytes, columns: Sequence[str] | None = None) -> pa.Table:
    """Return the table of a Parquet file, or some of its columns.

    Raises:
        pyarrow.ArrowException: it is no Parquet file, or damaged.
    """
    # From a buffer and by this thread alone: threads of Arrow that still run when the interpreter ends abort it.
    return pq.ParquetFile(pa.BufferReader(data)).read(columns and [*columns], use_threads=False)
