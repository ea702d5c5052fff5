"""Attack what training reads: flipped and cut bytes of shards, checkpoints and exports.

    PYTHONPATH=tests python tests/benchmarks/attacks.py                 # 40 of each kind, some seconds
    PYTHONPATH=tests python tests/benchmarks/attacks.py --tries 250     # what docs/reliability.md shows

An attack holds where the reader refuses the file with advice, or gives exactly what it gave before; a traceback or other numbers do
not. The exit code is 1 if one did not hold.
"""

import argparse
import random
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from helpers.toy_shards import write_toy_shards
from helpers.training_runs import TINY
from torch import nn

from satmip_train.config import Settings
from satmip_train.data.dataset import open_dataset
from satmip_train.data.decoder import Decoder
from satmip_train.data.tar import Readers
from satmip_train.distributed import Job
from satmip_train.errors import UsageError
from satmip_train.models.pretrained import read_weights
from satmip_train.runs import checkpoint
from satmip_train.runs.export import export_run, load_backbone, load_metadata_encoder, load_projections
from satmip_train.training.plan import plan_run
from satmip_train.training.state import build_state, save

EVERYTHING = Decoder(frozenset({"image", "numeric", "mask", "categorical", "place", "location", "label", "key"}), numeric=(0, 1))
Read = Callable[[], Any]


def flip(content: bytes, draw: random.Random) -> bytes:
    """Return the content with one bit of one byte changed."""
    place = draw.randrange(len(content))
    return content[:place] + bytes([content[place] ^ 1 << draw.randrange(8)]) + content[place + 1 :]


def cut(content: bytes, draw: random.Random) -> bytes:
    """Return the content without its end."""
    return content[: draw.randrange(len(content))]


def targets(root: Path) -> dict[str, tuple[Path, Read]]:
    """Write shards and a run, and return by name each file to attack and how it is read."""
    shards = write_toy_shards(root / "shards", {"train": 12}, shards=2, size=(16, 16))
    run, first = root / "run", shards / "train/000000.tar"
    plan = plan_run(Settings(**{**TINY, "batch_size": 4}), open_dataset(shards), Job(torch.device("cpu")))
    save(plan, build_state(plan), run)
    export_run(run)

    def batch() -> Any:
        return EVERYTHING.batch(Readers(open_dataset(shards, root / "cache"), "train"), [(0, index) for index in range(6)])

    return {
        "shard": (first, batch),
        "dataset.json": (shards / "dataset.json", batch),
        "last.pt": (run / checkpoint.NAME, lambda: checkpoint.load(run)),
        "last.pt by --init": (run / checkpoint.NAME, lambda: read_weights(run / checkpoint.NAME).tensors),
        "backbone.safetensors": (run / "backbone.safetensors", lambda: load_backbone(run)[0]),
        "backbone.safetensors by --init": (
            run / "backbone.safetensors", lambda: read_weights(run / "backbone.safetensors").tensors,
        ),
        "metadata.safetensors": (run / "metadata.safetensors", lambda: load_metadata_encoder(run)[0]),
        "projections.safetensors": (run / "projections.safetensors", lambda: load_projections(run).image),
    }  # fmt: skip


def same(one: Any, two: Any) -> bool:
    """Return whether two things that were read hold the same numbers."""
    if isinstance(one, nn.Module):
        return same(dict(one.state_dict()), dict(two.state_dict()))
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(same(value, two[key]) for key, value in one.items())
    if isinstance(one, torch.Tensor):
        return torch.equal(one.nan_to_num(), two.nan_to_num())
    return bool(one == two)


def attack(path: Path, read: Read, change: Callable[[bytes, random.Random], bytes], tries: int) -> dict[str, int]:
    """Read a file `tries` times with other damage each time, and count what came of it."""
    whole, before, draw = path.read_bytes(), read(), random.Random(0)
    counts = {"refused": 0, "the same": 0, "other numbers": 0, "traceback": 0}
    for _ in range(tries):
        path.write_bytes(change(whole, draw))
        try:
            counts["the same" if same(before, read()) else "other numbers"] += 1
        except (UsageError, ValueError) as error:  # `read_weights` says ValueError, of which the command makes its error
            counts["refused" if isinstance(error, UsageError) or "Cannot read" in str(error) else "traceback"] += 1
        except Exception:
            counts["traceback"] += 1
    path.write_bytes(whole)
    return counts


def main() -> None:
    """Attack, print a table, and fail if anything did not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tries", type=int, default=40)
    tries, failed = parser.parse_args().tries, 0
    with tempfile.TemporaryDirectory() as folder:
        for name, (path, read) in targets(Path(folder)).items():
            for change in (flip, cut):
                counts = attack(path, read, change, tries)
                failed += counts["other numbers"] + counts["traceback"]
                print(f"| {name}, {change.__name__} | {tries} | {' | '.join(map(str, counts.values()))} |", flush=True)
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
