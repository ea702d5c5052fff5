"""What the main process of a build does for each sample, whatever the number of workers: where a single plan ends.

    python tests/benchmarks/main_process.py --records 20000    # about a minute
    python tests/benchmarks/main_process.py --toy

The rest of a build, indexing and packing, is shared by all workers; see `index_100k.py` and `pack.py`.
"""

import argparse
import pickle
import statistics
import tempfile
from pathlib import Path

import timing
from index_100k import write_tree

from satmip_data.metadata import tabular
from satmip_data.pipeline import build
from satmip_data.pipeline import request as request_module
from satmip_data.pipeline.index import ITEMS_A_TASK, build_index
from satmip_data.pipeline.settings import BuildSettings
from satmip_data.pipeline.shard_plan import plan_shards
from satmip_data.shards.index_table import index_table
from satmip_data.sources import SOURCES
from satmip_data.storage.parquet import parquet_bytes


def main() -> None:
    """Index made-up records, then do the main process's part of it several times and print microseconds a sample."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--toy", action="store_true", help="small and short")
    options = parser.parse_args()
    records, rounds = (200, 2) if options.toy else (options.records, options.rounds)
    report = timing.Report("main_process", ("numpy",))
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_tree(root, records)
        request = request_module.BuildRequest(SOURCES["fmow"](), folder, str(root / "out"), BuildSettings())
        samples = build_index(request.source, folder, request.settings, request.engine).samples
        count, settings = len(samples), request.settings
        results = [pickle.dumps(samples[i : i + ITEMS_A_TASK]) for i in range(0, count, ITEMS_A_TASK)]
        shards = plan_shards(samples, settings.seed, settings.samples_per_shard)
        works = {
            "list files": lambda: request.source.list_items(folder),
            "take in what workers indexed": lambda: [pickle.loads(result) for result in results],
            "plan shards": lambda: plan_shards(samples, settings.seed, settings.samples_per_shard),
            "fit statistics": lambda: tabular.fit(sample.metadata for sample in samples),
            "hash the plan": lambda: build._fingerprint(shards),
            "hand out shards": lambda: [pickle.dumps(shard) for shard in shards],
            "write index.parquet": lambda: parquet_bytes(index_table((shard.name, s) for shard in shards for s in shard.samples)),
        }
        seconds = timing.in_turns(works, rounds)
    report.table(f"The main process, {count:,} samples: CPU time a sample")
    for name, took in seconds.items():
        report.row(name, 1e6 * statistics.median(took) / count, "microseconds")
    report.row("all", 1e6 * sum(statistics.median(took) for took in seconds.values()) / count, "microseconds")
    report.save()


if __name__ == "__main__":
    main()
