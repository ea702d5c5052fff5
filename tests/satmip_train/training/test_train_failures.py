"""What goes wrong in a run: it stops, says what to do, and what was saved before is whole."""

import errno
import json
import os
import re
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers.toy_shards import write_toy_shards
from helpers.training_runs import PATIENCE, TINY, free_port, losses, one_thread, run_in_process, start_child, toy

from satmip_train import distributed
from satmip_train.config import Settings
from satmip_train.data.dataset import open_dataset
from satmip_train.data.tar import Readers
from satmip_train.distributed import Job
from satmip_train.errors import UsageError
from satmip_train.files import write_atomically
from satmip_train.runs import checkpoint
from satmip_train.training.dry_run import dry_run
from satmip_train.training.plan import plan_run
from satmip_train.training.step import Step
from satmip_train.training.step_metrics import StepMetrics, all_finite

__all__ = ["one_thread", "toy"]  # fixtures

CHILD = """
import json, os, signal, sys, torch
from pathlib import Path
from rich.console import Console
from satmip_train.config import Settings
from satmip_train.errors import UsageError
from satmip_train.distributed import join_job
from satmip_train.data.dataset import open_dataset
from satmip_train.training.step import Step
from satmip_train.training.train import train

torch.set_num_threads(1)
shards, out, tiny = open_dataset(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
take = Step.__call__

def ask_to_stop(self, batch):
    if self._state.step == 2 and job.rank == 1:
        os.kill(os.getpid(), signal.SIGTERM)
    return take(self, batch)

def spoil(self, batch):
    parts = take(self, batch)
    return {**parts, "loss": parts["loss"] * float("inf")} if self._state.step == 6 and job.rank == 1 else parts

with join_job("cpu") as job:
    Step.__call__ = ask_to_stop
    code = train(Settings(**tiny), shards, out / "stopped", job, Console(quiet=True))
    Step.__call__ = take
    try:
        train(Settings(**tiny), shards, out / ("stopped" if job.main else "not-shared"), job, Console(quiet=True))
    except UsageError as error:
        (out / f"{job.rank}.json").write_text(json.dumps([code, str(error)]))
    Step.__call__ = spoil
    train(Settings(**{**tiny, "workers": 1, "data": "stream", "log_every": 100}), shards, out / "spoiled", job, Console(quiet=True))
"""


def test_two_ranks_stop_together_whatever_happens_to_one(toy, tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    children = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", CHILD, str(toy), str(tmp_path), json.dumps({**TINY, "lr_base": 0.005})],
            env={**environment, "WORLD_SIZE": "2", "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
        )
        for rank in range(2)
    ]
    errors = [child.communicate(timeout=PATIENCE)[1].decode() for child in children]

    # Asked to stop, both finish the step and leave; one rank goes on from there.
    told = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    assert [code for code, _ in told] == [signal.SIGTERM, signal.SIGTERM]
    assert checkpoint.load(tmp_path / "stopped")["step"] == 3
    run_in_process(toy, tmp_path / "stopped", lr_base=0.005, max_steps=6)
    run_in_process(toy, tmp_path / "whole", lr_base=0.005, max_steps=6)
    assert losses(tmp_path / "stopped") == pytest.approx(losses(tmp_path / "whole"), rel=1e-5)

    # A folder that only one machine sees would start the other one anew.
    assert all("different checkpoints" in message for _, message in told)

    # A loss that is not finite on one rank ends both, although they have loader processes, and each saves its own keys.
    assert [child.returncode for child in children] == [1, 1], errors
    assert all("became NaN or infinite at step 5" in error for error in errors)
    assert checkpoint.load(tmp_path / "spoiled")["step"] == 4
    saved = [json.loads((tmp_path / f"spoiled/nonfinite-rank{rank}.json").read_text()) for rank in range(2)]
    assert saved[0]["keys"] + saved[1]["keys"] == keys_of(toy, 5)
    assert saved[0]["before"]["keys"] + saved[1]["before"]["keys"] == keys_of(toy, 4)


def test_a_rank_that_is_killed_is_told_by_the_others(toy, tmp_path):
    """Once each of them ended with torch's traceback."""
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2"}
    children = [
        start_child(toy, tmp_path, 5 if rank else -1, {**common, "RANK": str(rank), "LOCAL_RANK": str(rank)}) for rank in range(2)
    ]
    errors = [child.communicate(timeout=PATIENCE)[1].decode() for child in children]
    assert [child.returncode for child in children] == [1, -signal.SIGKILL], errors
    told = errors[0].strip().splitlines()[-1]
    assert re.search(r"satmip_train\.errors\.UsageError: Rank 0 cannot reach another rank.*The same command goes on", told), told
    assert checkpoint.load(tmp_path)["step"] == 4


def keys_of(toy: Path, step: int) -> list[str]:
    """The keys of the global batch of a step."""
    dataset = open_dataset(toy)
    order = plan_run(Settings(**TINY), dataset, Job(torch.device("cpu"))).order
    readers = Readers(dataset, "train")
    return [readers[shard].keys[index] for shard, index in order.share(step).tolist()]


def test_a_loss_that_is_not_finite_stops_the_run_with_the_keys_of_the_first_such_batch(toy, tmp_path, monkeypatch):
    take = Step.__call__

    def take_and_spoil(self, batch):
        parts = take(self, batch)
        return {**parts, "loss": parts["loss"] * float("nan")} if self._state.step in (6, 7) else parts

    monkeypatch.setattr(Step, "__call__", take_and_spoil)
    advice = r"at step 5: .*nan.*keys of its batch are in .*Look at these samples.*another --out"
    with pytest.raises(UsageError, match=advice):
        run_in_process(toy, tmp_path / "run", log_every=100)
    assert checkpoint.load(tmp_path / "run")["step"] == 4
    text = (tmp_path / "run/nonfinite-rank0.json").read_text()
    saved = json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    assert (saved["step"], saved["measured"]["loss"], saved["keys"]) == (5, "nan", keys_of(toy, 5))
    assert saved["before"] == {"step": 4, "keys": keys_of(toy, 4)}


def test_what_the_last_step_measured_is_known_until_another_is_looked_at(tmp_path, monkeypatch):
    recent = StepMetrics(Job(torch.device("cpu")), tmp_path)
    assert recent.check() == {}
    for loss in (1.0, 2.0, 3.0):
        recent.add(0, [], {"loss": torch.tensor(loss), "pairs": torch.tensor(7)})
    assert recent.check() == recent.check() == {"loss": 3.0, "pairs": 7.0}
    assert recent._steps == []
    recent.add(3, [], {"loss": torch.tensor(0.5)})
    assert recent.check() == {"loss": 0.5}
    monkeypatch.setattr(Job, "mean", lambda self, values: values / 2)  # over the ranks
    recent.add(4, [], {"loss": torch.tensor(0.5)})
    assert recent.check() == {"loss": 0.25}


def test_weights_before_the_first_step_are_not_looked_at(tmp_path):
    module = torch.nn.Linear(1, 1)
    torch.nn.init.constant_(module.weight, float("nan"))
    StepMetrics(Job(torch.device("cpu")), tmp_path).check_weights(module)


def test_the_step_before_is_told_though_it_was_looked_at_already(tmp_path):
    recent = StepMetrics(Job(torch.device("cpu")), tmp_path / "of another machine")
    recent.add(0, ["a"], {"loss": torch.tensor(1.0)})
    assert recent.check() == {"loss": 1.0}
    for step, key in ((1, "b"), (2, "c")):
        recent.add(step, [key], {"loss": torch.tensor(float("inf"))})
    with pytest.raises(UsageError, match="at step 1"):
        recent.check()
    saved = json.loads((tmp_path / "of another machine/nonfinite-rank0.json").read_text())
    assert (saved["keys"], saved["before"]) == (["b"], {"step": 0, "keys": ["a"]})


@pytest.mark.parametrize("knn_every", [0, 2])
def test_weights_that_a_gradient_spoiled_are_not_saved(tmp_path, monkeypatch, knn_every):
    # The loss of the step was finite, and of the next there is none before the checkpoint.
    take = Step.__call__

    def take_and_spoil(self, batch):
        parts = take(self, batch)
        if self._state.step == 8:
            next(self._state.objective.parameters()).data.view(-1)[3] = float("inf")
        return parts

    monkeypatch.setattr(Step, "__call__", take_and_spoil)
    shards = write_toy_shards(tmp_path / "shards", {"train": 37, "val": 8}, shards=3, size=(24, 24))
    with pytest.raises(UsageError, match=r"weights .* at step 7"):
        run_in_process(shards, tmp_path / "run", knn_every=knn_every)
    assert checkpoint.load(tmp_path / "run")["step"] == 4
    assert not (tmp_path / "run/best.pt").exists()
    saved = json.loads((tmp_path / "run/nonfinite-rank0.json").read_text())
    assert (saved["keys"], set(saved["measured"]) > {"loss"}) == (keys_of(shards, 7), True)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_all_finite(value):
    good = torch.zeros(3), torch.ones(2, 2)
    assert all_finite(good)
    assert not all_finite((*good, torch.tensor([1.0, value])))


def test_a_step_that_does_not_fit_into_a_gpu_is_told_with_what_takes_less(toy, tmp_path, monkeypatch):
    def too_large(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore")

    monkeypatch.setattr(Step, "__call__", too_large)
    message = r"CUDA out of memory. Tried to allocate 2.00 GiB. Use --micro-batch 256 "
    with pytest.raises(UsageError, match=message):
        run_in_process(toy, tmp_path)
    with pytest.raises(UsageError, match=message):
        dry_run(plan_run(Settings(**TINY), open_dataset(toy), Job(torch.device("cpu"))))


def test_float32_is_float32_on_a_gpu(monkeypatch):
    """torch rounds convolutions by default."""
    monkeypatch.setattr(distributed, "_device", lambda *_: torch.device("cuda:0"))
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    with distributed.join_job("cuda"):
        assert not torch.backends.cudnn.allow_tf32


def test_each_rank_takes_the_gpu_of_its_number(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch, "zeros", lambda *_, device: torch.ones(1))
    assert [str(distributed._device(name, 3)) for name in ("auto", "cuda", "cuda:1", "cpu")] == [
        "cuda:3",
        "cuda:3",
        "cuda:1",
        "cpu",
    ]


def test_a_full_disk_stops_the_run_with_advice_and_the_same_call_goes_on(toy, tmp_path):
    run = tmp_path / "run"
    run_in_process(toy, run, max_steps=4)
    before = (run / "last.pt").read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, hard))
    try:
        with pytest.raises(UsageError, match=r"last.pt: .*File too large.*run the same command again"):
            run_in_process(toy, run)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (run / "last.pt").read_bytes() == before
    assert not [path for path in run.iterdir() if path.name.startswith(".")]
    assert run_in_process(toy, run, max_steps=6)[0] == 0


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.ENOSPC, "Make room there and run the same command again"),
        (errno.EDQUOT, "Make room there and run the same command again"),
        (errno.EROFS, "Use a folder that may be written to"),
        (errno.EACCES, "Use a folder that may be written to"),
        (errno.EPERM, "Use a folder that may be written to"),
        (errno.EIO, "Correct that and run the same command again"),
    ],
)
def test_what_to_do_follows_from_what_the_system_says(tmp_path, number, advice):
    def fail(_):
        raise OSError(number, os.strerror(number))

    with pytest.raises(UsageError, match=rf"{os.strerror(number)}\. {advice}. What was saved before is whole"):
        write_atomically(tmp_path / "file", fail)


def test_what_a_run_writes_may_be_read_by_others(tmp_path):
    """The temporary file that it was may not."""
    write_atomically(tmp_path / "last.pt", lambda file: file.write(b"weights"))
    assert (tmp_path / "last.pt").stat().st_mode & 0o777 == 0o644


def test_other_errors_of_writing_are_passed_on(tmp_path):
    def fail(_):
        raise RuntimeError("no error of the system")

    with pytest.raises(RuntimeError, match="no error of the system"):
        write_atomically(tmp_path / "file", fail)
    assert list(tmp_path.iterdir()) == []


def test_a_run_writes_over_nothing_but_runs(toy, tmp_path):
    (tmp_path / "project").mkdir()
    (tmp_path / "project/README.md").write_text("mine")
    (tmp_path / "project/config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(UsageError, match=r"README.md, config.json\. Use another --out"):
        run_in_process(toy, tmp_path / "project")
    assert (tmp_path / "project/README.md").read_text() == "mine"
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file/run"):
        with pytest.raises(UsageError, match="Cannot make the folder --out"):
            run_in_process(toy, path)
    # Other files beside a run's are left alone, and a run that was killed before its first checkpoint starts again.
    run = tmp_path / "run"
    run.mkdir()
    (run / "notes.txt").write_text("mine")
    run_in_process(toy, run, max_steps=1)
    (run / "last.pt").unlink()
    assert run_in_process(toy, run, max_steps=1)[0] == 0
    assert {path.name for path in run.iterdir()} <= {*checkpoint.RUN_FILES, "notes.txt"}


WAITING = """
import datetime, json, sys, time
from pathlib import Path
import torch
import torch.distributed.distributed_c10d as c10d
from satmip_train.distributed import join_job

with join_job("cpu") as job:
    print(json.dumps({
        "is": [job.rank, job.ranks, job.main, job.first_on_machine, job.ranks_on_machine],
        "mean": job.mean(torch.tensor([1.0, 2.0 + job.rank])).tolist(),
        "agree": [job.all_agree(True), job.all_agree(job.main), job.all_agree(False)],
        "same": [job.same(7), job.same(-1), job.same(job.rank), job.same(-job.rank)],
    }))
    c10d._set_pg_timeout(datetime.timedelta(milliseconds=100))
    if job.main:
        time.sleep(1)
        Path(sys.argv[1]).touch()
    job.wait()
    assert Path(sys.argv[1]).exists()
"""


def test_ranks_agree_and_wait_longer_for_one_that_works_alone_than_collectives_may_take(tmp_path):
    common = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2"}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", WAITING, str(tmp_path / "done")],
            env={**common, "RANK": str(rank), "LOCAL_RANK": str(1 - rank), **({"LOCAL_WORLD_SIZE": "5"} if rank else {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for rank in range(2)
    ]
    shared = {"mean": [1.0, 2.5], "agree": [True, False, False], "same": [True, True, False, False]}
    for number, rank in enumerate(ranks):
        told, errors = rank.communicate(timeout=PATIENCE)
        assert rank.returncode == 0, errors.decode()
        assert json.loads(told) == {"is": [number, 2, not number, bool(number), 5 if number else 2], **shared}


LOCKED = """
import sys
from pathlib import Path
from satmip_train.runs import checkpoint
with checkpoint.locked(Path(sys.argv[1])):
    print("locked", flush=True)
    sys.stdin.read()
"""


def test_one_run_at_a_time_writes_to_a_folder_and_removes_what_a_killed_one_left(toy, tmp_path):
    child = subprocess.Popen([sys.executable, "-c", LOCKED, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdin is not None
    assert child.stdout is not None
    assert child.stdout.readline() == b"locked\n"
    half = tmp_path / f".{checkpoint.NAME}.8x1k"
    half.touch()
    with pytest.raises(UsageError, match=r"Another process is training into .*\. Wait for its end, or use another --out"):
        run_in_process(toy, tmp_path, max_steps=1)
    assert half.exists()
    child.kill()
    child.communicate(timeout=PATIENCE)
    assert run_in_process(toy, tmp_path, max_steps=1)[0] == 0
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_a_setting_that_is_younger_than_the_checkpoint_had_its_default(toy, tmp_path):
    run_in_process(toy, tmp_path, max_steps=1)
    saved = checkpoint.load(tmp_path)
    del saved["settings"]["metadata_mask"]
    checkpoint.save(tmp_path, saved)
    assert run_in_process(toy, tmp_path, max_steps=2)[0] == 0
    checkpoint.save(tmp_path, saved)
    with pytest.raises(UsageError, match=r"metadata_mask was 0.0 and is now 0.5\. Use"):
        run_in_process(toy, tmp_path, max_steps=2, metadata_mask=0.5)


def test_another_objective_is_another_run(toy, tmp_path):
    run_in_process(toy, tmp_path, max_steps=1)
    with pytest.raises(UsageError, match=r"objective was .satmips. and is now .satmip.\. Use"):
        run_in_process(toy, tmp_path, max_steps=2, objective="satmip")


def test_a_shard_that_is_gone_is_named(toy, tmp_path):
    dataset = open_dataset(toy)
    gone = dataset.path(dataset.split("train")[1])
    kept = gone.rename(tmp_path / "kept.tar")
    try:
        with pytest.raises(UsageError, match=r"000001.tar is missing\. Copy the shard again"):
            open_dataset(toy)
        # The dataset was opened before the shard was deleted.
        with pytest.raises(UsageError, match=r"000001\.tar.*No such file.*Copy the shard"):
            Readers(dataset, "train")[1]
    finally:
        kept.rename(gone)


def test_a_split_that_was_not_labelled_and_has_no_val_trains(tmp_path):
    plain = write_toy_shards(tmp_path / "plain", {"train": 16}, shards=1, size=(24, 24), classes=())
    code, output = run_in_process(plain, tmp_path / "run", max_steps=1, knn_every=1)
    assert code == 0
    assert "the chips have no class each" in " ".join(output.split())
