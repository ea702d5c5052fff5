"""helpers.training_runs"""

import io
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from rich.console import Console

from helpers.toy_shards import write_toy_shards
from satmip_train.config import Settings
from satmip_train.data.dataset import open_dataset
from satmip_train.distributed import Job
from satmip_train.runs import checkpoint
from satmip_train.runs.log import read_log
from satmip_train.training.train import train

TINY = {
    "objective": "satmips",
    "backbone_args": {"img_size": 16, "patch_size": 8, "embed_dim": 24, "depth": 1, "num_heads": 2},
    "view_size": 16,
    "text_layers": 1,
    "text_width": 16,
    "text_heads": 2,
    "tabular_width": 16,
    "tabular_heads": 2,
    "embed_dim": 16,
    "ssl_hidden": 16,
    "ssl_dim": 8,
    "epochs": 3,
    "batch_size": 8,
    "lr_base": 0.02,
    "workers": 0,
    "shuffle_shards": 2,
    "log_every": 1,
    "checkpoint_every": 4,
}
"""37 samples: 4 steps an epoch, 12 in all."""

PATIENCE = 600
"""Seconds for a child process; it needs few, but a busy machine may give it none for long."""

CHILD = """
import json, os, signal, sys
import torch
from pathlib import Path
from rich.console import Console
from satmip_train.config import Settings
from satmip_train.distributed import join_job
from satmip_train.training.batches import Resident
from satmip_train.data.dataset import open_dataset
from satmip_train.training.step import Step
from satmip_train.training.train import train

torch.set_num_threads(1)
shards, run, settings, kill_at = sys.argv[1], Path(sys.argv[2]), Settings(**json.loads(sys.argv[3])), int(sys.argv[4])
take = Step.__call__

def take_or_die(self, batch):
    if self._state.step == kill_at:
        os.kill(os.getpid(), signal.SIGKILL)
    return take(self, batch)

Step.__call__ = take_or_die
with join_job(os.environ.get("DEVICE", "cpu")) as job:
    train(settings, open_dataset(shards), run, job, Console(quiet=True))
"""


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    return write_toy_shards(tmp_path_factory.mktemp("toy") / "shards", {"train": 37}, shards=3, size=(24, 24))


def run_in_process(toy: Path, run: Path, **changes: object) -> tuple[int, str]:
    output = io.StringIO()
    code = train(Settings(**{**TINY, **changes}), open_dataset(toy), run, Job(torch.device("cpu")), Console(file=output, width=200))
    return code, output.getvalue()


def start_child(
    toy: Path, run: Path, kill_at: int = -1, env: dict[str, str] | None = None, **changes: object
) -> subprocess.Popen[bytes]:
    arguments = [str(toy), str(run), json.dumps({**TINY, **changes}), str(kill_at)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **(env or {})}
    return subprocess.Popen([sys.executable, "-c", CHILD, *arguments], env=environment, stderr=subprocess.PIPE)


def assert_same_state(one: Path, two: Path) -> None:
    a, b = checkpoint.load(one), checkpoint.load(two)
    assert a["step"] == b["step"]
    assert a["model"].keys() == b["model"].keys()
    assert all(torch.equal(a["model"][name], b["model"][name]) for name in a["model"])
    for key, state in a["optimizer"]["state"].items():
        assert all(torch.equal(state[name], b["optimizer"]["state"][key][name]) for name in state)


def losses(run: Path) -> list[float]:
    return [line["loss"] for line in read_log(run)]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
