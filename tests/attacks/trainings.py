"""Trainings that are killed at any point, alone or as one of two ranks, and the same command again."""

import os
import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from helpers.toy_shards import write_toy_shards
from helpers.training_runs import TINY, free_port
from rich.console import Console

from attacks.children import Points, Trail, read_trail, start, wait
from attacks.outcome import NotHeld, Tally
from satmip_train.config import Settings
from satmip_train.data.dataset import open_dataset
from satmip_train.distributed import join_job
from satmip_train.runs import checkpoint
from satmip_train.runs.log import read_log
from satmip_train.training import train as training

CASES = {f"{data}, {ranks} rank{'s' * (ranks - 1)}": (data, ranks) for data in ("stream", "resident") for ranks in (1, 2)}
STEPS = 4
TORCHRUNS_PATIENCE = 30
"""Seconds that torchrun gives the ranks that are left, before it kills them."""
LIMITS = "On a CPU, with gloo; networks of 20,000 weights. No power cut."


def kills(seed: int, tries: int, folder: Path) -> Tally:
    """Kill trainings on both data paths, alone and one of two ranks; the same command must then give the same weights."""
    tally = Tally("SIGKILL in training: both data paths, alone and one of two ranks", LIMITS)
    shards = write_toy_shards(folder / "shards", {"train": 16}, shards=2, size=(16, 16))
    grounds: dict[str, Ground] = {}
    for number in range(tries):
        what = list(CASES)[number % len(CASES)]
        if what not in grounds:
            grounds[what] = Ground(shards, folder / str(number), *CASES[what])
        draw = random.Random(f"{seed}/{number}")
        tally.attempt(number, what, partial(grounds[what].kill, draw))
    return tally


@contextmanager
def _rank(rank: int, ranks: int, port: int) -> Iterator[Any]:
    """Join a run of `ranks` processes as torchrun's environment describes it."""
    names = {"WORLD_SIZE": ranks, "RANK": rank, "LOCAL_RANK": rank, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in names.items()})
    with join_job("cpu") as job:
        yield job


class Ground:
    """A training on one data path by some ranks, undisturbed once, with the points that its first rank passes."""

    def __init__(self, shards: Path, folder: Path, data: str, ranks: int) -> None:
        """Train once."""
        self._shards, self._folder, self._ranks = shards, folder, ranks
        self._settings = Settings(**{**TINY, "batch_size": 4, "max_steps": STEPS, "checkpoint_every": 2, "data": data})
        folder.mkdir()
        self._expected = self._finish(folder / "trail")
        self._trail: Trail = read_trail(folder / "trail")

    @property
    def _run(self) -> Path:
        return self._folder / "run"

    def _log(self, rank: int) -> Path:
        return self._folder / f"log-{rank}"

    def _learn(self, rank: int, port: int, _: Points) -> None:
        torch.set_num_threads(1)
        # The page takes longer than the training, and is drawn behind it.
        with _rank(rank, self._ranks, port) as job, patch.object(training, "write_run_page", lambda run: run / "index.html"):
            training.train(self._settings, open_dataset(self._shards), self._run, job, Console(quiet=True))

    def _start(self, killed: int = -1, kill_at: int | None = None, trail: Path | None = None) -> list[int]:
        """Start all ranks and return their numbers."""
        port = free_port()
        return [
            start(
                partial(self._learn, rank, port),
                self._log(rank),
                kill_at if rank == killed else None,
                trail if rank == 0 else None,
                counted=rank == killed or (rank == 0 and trail is not None),
            )
            for rank in range(self._ranks)
        ]

    def _finish(self, trail: Path | None = None) -> dict[str, Any]:
        """Train undisturbed to the end and return what came of it."""
        codes = [wait(pid) for pid in self._start(trail=trail)]
        if any(codes):
            raise NotHeld(f"The same command ended with {codes}: {self._told()}")
        saved = checkpoint.load(self._run)
        assert saved is not None
        lines = [{name: line[name] for name in ("step", "loss", "lr")} for line in read_log(self._run)]
        exported = {path.name: path.read_bytes() for path in self._run.glob("*.safetensors")}
        return {"model": saved["model"], "optimizer": saved["optimizer"]["state"], "log": lines, "exports": exported}

    def _told(self) -> str:
        return " ".join(self._log(rank).read_text()[-1500:] for rank in range(self._ranks) if self._log(rank).exists())

    def kill(self, draw: random.Random) -> str:
        """Kill one rank at one of its points, see the others end, and do it again undisturbed."""
        shutil.rmtree(self._run, ignore_errors=True)
        kill_at = draw.choice(self._trail.files) if draw.random() < 0.3 else draw.randrange(1, self._trail.points)
        killed = draw.randrange(self._ranks)
        pids = self._start(killed, kill_at)
        first = wait(pids[killed])
        others = [wait(pid, TORCHRUNS_PATIENCE) for rank, pid in enumerate(pids) if rank != killed]
        if first not in (0, -9):
            raise NotHeld(f"It ended with {first} at the point {kill_at}: {self._told()}")
        if first == -9 and any(code == 70 and not self._is_refusal(1 - killed) for code in others):
            raise NotHeld(f"The other rank ended with a traceback: {self._told()}")
        saved = checkpoint.load(self._run)  # what is there must be whole
        if saved is not None and saved["step"] % 2:
            raise NotHeld(f"The checkpoint is of step {saved['step']}.")
        if not _same(self._finish(), self._expected):
            raise NotHeld(f"Other weights, log or exports come out after a kill at the point {kill_at} of rank {killed}.")
        if first == 0:
            return "finished before the point"
        return "the same weights" + (", the other rank ended by SIGKILL as torchrun does" if None in others else "")

    def _is_refusal(self, rank: int) -> bool:
        """Tell whether a rank ended by an error that the command tells without a traceback."""
        return "satmip_train.errors.UsageError" in self._log(rank).read_text()


def _same(one: Any, two: Any) -> bool:
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(_same(value, two[name]) for name, value in one.items())
    if isinstance(one, torch.Tensor):
        return torch.equal(one, two)
    if isinstance(one, list):
        return len(one) == len(two) and all(_same(a, b) for a, b in zip(one, two, strict=True))
    return bool(one == two)
