"""helpers.damaging"""

import json
import tarfile
from pathlib import Path

import pandas as pd

from satmip_data.records import Reject
from satmip_data.shards.index_table import rejects_table
from satmip_data.storage.parquet import parquet_bytes


def damage(built: Path, how: str) -> str:
    """Damage a shard directory in one way; return the check that must notice."""
    shard = built / "train/000000.tar"
    data = bytearray(shard.read_bytes())
    if how == "flipped byte":
        data[len(data) // 2] ^= 1
        shard.write_bytes(data)
        return "sha256"
    if how == "cut between members":
        with tarfile.open(shard) as tar:
            cut = tar.getmembers()[7].offset
        shard.write_bytes(data[:cut])
        return "archive"
    if how == "missing shard":
        shard.unlink()
        return "shards"
    if how == "foreign shard":
        (built / "train/000099.tar").write_bytes(data)
        return "shards"
    if how == "other sizes.json":
        (built / "train/sizes.json").write_text("{}")
        return "counts"
    if how == "sizes.json cut short":
        (built / "train/sizes.json").write_text("{")
        return "counts"
    if how in ("index cut short", "rejects cut short"):
        table = built / f"{how.split()[0]}.parquet"
        table.write_bytes(table.read_bytes()[:-20])
        return "index"
    if how in ("no rejects.parquet", "no train/sizes.json"):
        (built / how.removeprefix("no ")).unlink()
        return "index" if "rejects" in how else "counts"
    if how == "index of another form":
        pd.DataFrame({"key": ["a"]}).to_parquet(built / "index.parquet")
        return "index"
    if how == "other rejects":
        (built / "rejects.parquet").write_bytes(parquet_bytes(rejects_table([Reject("a", "scan", "no_aoi", "none")])))
        return "counts"
    if how == "other statistics":
        dataset = json.loads((built / "dataset.json").read_text())
        dataset["numeric"][0]["mean"] += 0.1
        (built / "dataset.json").write_text(json.dumps(dataset))
        return "features"
    raise AssertionError(how)
