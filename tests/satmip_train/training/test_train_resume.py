"""A run that was stopped goes on to the same weights, to the bit; the number of ranks changes no loss."""

import errno
import json
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from helpers.toy_shards import write_toy_shards
from helpers.training_runs import PATIENCE, TINY, assert_same_state, free_port, losses, one_thread, run_in_process, start_child, toy

from satmip_train.config import Settings
from satmip_train.data.dataset import open_dataset
from satmip_train.distributed import Job
from satmip_train.errors import UsageError
from satmip_train.files import write_atomically
from satmip_train.runs import checkpoint
from satmip_train.runs.cost import read_cost, read_summary
from satmip_train.runs.export import export_backbone
from satmip_train.runs.log import read_log
from satmip_train.training import train as training
from satmip_train.training.batches import Resident
from satmip_train.training.step import Step, seed_of
from satmip_train.training.stop import StopRequest

__all__ = ["one_thread", "toy"]  # fixtures


def as_before_terms(run: Path) -> None:
    """Give a checkpoint the names that weights had when every objective was one class, and an optimizer that tells no names."""
    saved = checkpoint.load(run)
    moved = {"simclr.head.": "ssl_head.", "moco.head.": "ssl_head.", "moco.": ""}

    def then(name: str) -> str:
        return next((old + name.removeprefix(new) for new, old in moved.items() if name.startswith(new)), name)

    saved["model"] = {then(name): value for name, value in saved["model"].items()}
    for group in saved["optimizer"]["param_groups"]:
        del group["param_names"]
    for setting in ("metadata_weight", "moco_weight"):
        del saved["settings"][setting]
    checkpoint.save(run, saved)


@pytest.mark.parametrize("objective", ["satmips", "moco-geo"])
def test_a_checkpoint_of_before_terms_had_modules_goes_on_to_the_same_weights(toy, tmp_path, objective):
    changes = {"objective": objective, "geo_clusters": 4, "queue_length": 20}
    run_in_process(toy, tmp_path / "whole", **changes)
    run_in_process(toy, tmp_path / "old", max_steps=5, **changes)
    as_before_terms(tmp_path / "old")
    assert "ssl_head.linear1.weight" in checkpoint.load(tmp_path / "old")["model"]
    assert run_in_process(toy, tmp_path / "old", **changes)[0] == 0
    assert_same_state(tmp_path / "whole", tmp_path / "old")


def test_a_run_of_a_value_that_is_gone_goes_on_and_is_exported_with_a_warning(toy, tmp_path):
    run_in_process(toy, tmp_path, max_steps=1)
    saved = checkpoint.load(tmp_path)
    saved["settings"]["attention"] = "packed"
    checkpoint.save(tmp_path, saved)
    with pytest.warns(FutureWarning, match="packed"):
        export_backbone(tmp_path)
    run_in_process(toy, tmp_path, max_steps=2)
    assert checkpoint.load(tmp_path)["settings"]["attention"] == "auto"


def test_a_run_goes_on_whatever_the_order_in_which_its_terms_are_typed(toy, tmp_path):
    run_in_process(toy, tmp_path, objective="satmips", max_steps=1)
    run_in_process(toy, tmp_path, objective="simclr+satmip", max_steps=2)
    assert checkpoint.load(tmp_path)["step"] == 2
    with pytest.raises(UsageError, match='objective was "satmips" and is now "satmip'):
        run_in_process(toy, tmp_path, objective="satmip+simclr+tp", max_steps=3)


def test_a_killed_run_goes_on_to_the_same_weights(toy, tmp_path):
    # The tabular encoder has dropout, so its random numbers must come back too. Step 7 lies inside the second epoch.
    # MoCo has a second copy of its networks, and a queue that is full since step 2.
    cases = {
        "moco": {"objective": "satmip+moco+tp", "queue_length": 20, "optimizer": "sgd"},
        "satmips": {"objective": "satmip+simclr+geo+tp", "metadata_encoder": "tabular", "geo_clusters": 4},
    }
    children = {name: start_child(toy, tmp_path / name / "killed", kill_at=7, **changes) for name, changes in cases.items()}
    for name, changes in cases.items():
        run_in_process(toy, tmp_path / name / "whole", **changes)
        _, errors = children[name].communicate(timeout=PATIENCE)
        assert children[name].returncode == -signal.SIGKILL, errors.decode()
        killed = tmp_path / name / "killed"
        assert checkpoint.load(killed)["step"] == 4
        assert [(s["first"], s["steps"]) for s in read_summary(killed)["sessions"]] == [(0, 4)]
        assert [line["step"] for line in read_log(killed)] == list(range(7))
        code, output = run_in_process(toy, killed, **changes)
        assert code == 0
        assert "Going on after step 4" in output
        assert_same_state(killed, tmp_path / name / "whole")
        assert [(s["first"], s["steps"]) for s in read_summary(killed)["sessions"]] == [(0, 4), (4, 8)]
        assert read_cost(killed) is not None
        assert [line["step"] for line in read_log(killed)] == list(range(12))
        assert losses(killed) == losses(tmp_path / name / "whole")


def test_a_run_learns_and_saves_what_it_resolved(toy, tmp_path):
    code, output = run_in_process(toy, tmp_path / "run", epochs=8)
    assert code == 0
    described = json.loads((tmp_path / "run/config.json").read_text())
    assert (described["steps_per_epoch"], described["total_steps"], described["dropped_samples_per_epoch"]) == (4, 32, 5)
    assert described["chance"]["loss"] == pytest.approx(2.0794 + 2.7081, abs=1e-4)
    assert "leaves out 5 samples" in output
    assert sum(losses(tmp_path / "run")[-4:]) < 0.8 * sum(losses(tmp_path / "run")[:4])
    first = read_log(tmp_path / "run")[0]
    assert set(first) == {
        "step", "epoch", "lr", "samples_per_second", "data_wait", "loss", "loss_metadata", "loss_views", "temperature", "chance",
        "embeddings",
    }  # fmt: skip
    assert 0 < first["embeddings"]["deviation"] < 2
    assert 1 <= first["embeddings"]["effective_rank"] <= 8
    assert (tmp_path / "run/curves.png").stat().st_size > 1000
    code, output = run_in_process(toy, tmp_path / "run", epochs=8)
    assert code == 0
    assert "is finished: 32 of 32 steps" in output


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_run_after_its_step_and_the_same_call_resumes(toy, tmp_path, monkeypatch, capfd, number):
    run_in_process(toy, tmp_path / "whole", max_steps=6)
    take = Step.__call__

    def take_and_ask(self, batch):
        if self._state.step == 2:
            os.kill(os.getpid(), number)
        return take(self, batch)

    monkeypatch.setattr(Step, "__call__", take_and_ask)
    handler = signal.getsignal(number)
    code, output = run_in_process(toy, tmp_path / "stopped", max_steps=6)
    assert code == number
    assert "Stopped after step 3 of 6" in output
    assert "Stopping after the step under way. Ctrl-C again stops at once, without saving." in capfd.readouterr().err
    assert signal.getsignal(number) is handler
    monkeypatch.undo()
    assert run_in_process(toy, tmp_path / "stopped", max_steps=6)[0] == 0
    assert_same_state(tmp_path / "whole", tmp_path / "stopped")


@pytest.mark.parametrize(("every", "there"), [(100, "begins again"), (1, "goes on from the last checkpoint")])
def test_a_second_interrupt_ends_the_run_at_once(toy, tmp_path, monkeypatch, every, there):
    """Once it ended with 1, as an error does, and said no more than that it was aborted."""
    take = Step.__call__

    def take_and_interrupt(self, batch):
        if self._state.step == 2:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
        return take(self, batch)

    monkeypatch.setattr(Step, "__call__", take_and_interrupt)
    code, output = run_in_process(toy, tmp_path, max_steps=6, checkpoint_every=every)
    assert code == signal.SIGINT
    assert f"Stopped; nothing more was saved. The same command {there}." in output
    saved = checkpoint.load(tmp_path)
    assert (None if saved is None else saved["step"]) == (None if every == 100 else 2)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    monkeypatch.undo()
    assert run_in_process(toy, tmp_path, max_steps=6)[0] == 0


@pytest.mark.parametrize("rank", [0, 1])
def test_one_of_several_ranks_notes_every_interrupt_and_the_first_one_tells_of_it(capfd, rank):
    """torchrun passes on to its ranks what they got from the terminal already."""
    handler = signal.getsignal(signal.SIGINT)
    with StopRequest(Job(torch.device("cpu"), rank, 2)) as asked:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGINT):
            os.kill(os.getpid(), number)
    assert (asked.signal, signal.getsignal(signal.SIGINT)) == (signal.SIGINT, handler)
    assert capfd.readouterr().err == ("" if rank else "\nStopping after the step under way.\n")


def test_an_interrupt_while_a_checkpoint_is_written_leaves_the_one_before(tmp_path):
    """torch.save made an error of its own of it, which ended the run with a traceback."""

    class Interrupted:
        def __init__(self, file):
            self.file, self.left = file, 5

        def write(self, content):
            self.left -= 1
            if not self.left:
                raise KeyboardInterrupt
            return self.file.write(content)

    state = {str(number): torch.zeros(1000) for number in range(10)}
    write_atomically(tmp_path / "last.pt", lambda file: torch.save(state, file))
    before = (tmp_path / "last.pt").read_bytes()
    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "last.pt", lambda file: torch.save(state, Interrupted(file)))
    assert (tmp_path / "last.pt").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["last.pt"]


def test_a_signal_while_a_split_is_decoded_onto_the_device_ends_the_run(toy, tmp_path, monkeypatch):
    """Once the whole split was decoded first."""
    monkeypatch.setattr("satmip_train.training.batches._DECODE", 8)
    decoded, keep = [], Resident._keep

    def keep_and_ask(self, start, batch):
        decoded.extend(batch["key"])
        os.kill(os.getpid(), signal.SIGTERM)
        keep(self, start, batch)

    monkeypatch.setattr(Resident, "_keep", keep_and_ask)
    code, output = run_in_process(toy, tmp_path, data="resident")
    assert (code, len(decoded)) == (signal.SIGTERM, 8)
    assert "Stopped; nothing more was saved. The same command begins again." in output


def test_a_run_goes_in_a_thread_that_may_not_answer_signals(toy, tmp_path):
    handler = signal.getsignal(signal.SIGINT)
    with ThreadPoolExecutor(1) as thread:
        code, _ = thread.submit(run_in_process, toy, tmp_path, max_steps=2).result()
    assert (code, len(losses(tmp_path)), signal.getsignal(signal.SIGINT)) == (0, 2, handler)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork:DeprecationWarning")
def test_max_steps_stops_and_a_larger_one_goes_on(toy, tmp_path):
    run_in_process(toy, tmp_path / "whole", max_steps=7)
    run_in_process(toy, tmp_path / "parts", max_steps=3, workers=1)
    assert checkpoint.load(tmp_path / "parts")["step"] == 3
    run_in_process(toy, tmp_path / "parts", max_steps=7, log_every=2)
    assert_same_state(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.parametrize(("before", "after"), [("bf16", "fp16"), ("fp16", "bf16")])
def test_a_run_goes_on_where_auto_is_another_precision(toy, tmp_path, monkeypatch, before, after):
    for precision, steps in ((before, 2), (after, 4)):
        monkeypatch.setattr("satmip_train.training.plan._precision", lambda *_, precision=precision: precision)
        assert run_in_process(toy, tmp_path, max_steps=steps)[0] == 0
    assert (checkpoint.load(tmp_path)["scaler"] != {}) == (after == "fp16")


def test_other_settings_and_other_shards_are_refused(toy, tmp_path):
    run_in_process(toy, tmp_path / "run", max_steps=1)
    with pytest.raises(UsageError, match=r"lr_base was 0.02 and is now 0.01; seed was 0 and is now 1\."):
        run_in_process(toy, tmp_path / "run", max_steps=2, seed=1, lr_base=0.01)
    other = write_toy_shards(tmp_path / "other", {"train": 37}, shards=3, size=(24, 24), seed=1)
    with pytest.raises(UsageError, match="was started with other shards"):
        run_in_process(other, tmp_path / "run", max_steps=2)


def test_a_damaged_checkpoint_is_refused_with_advice(toy, tmp_path):
    (tmp_path / "last.pt").write_bytes(b"no checkpoint")
    with pytest.raises(UsageError, match="Delete it, or pass another --out"):
        run_in_process(toy, tmp_path)


def test_a_checkpoint_that_fails_to_be_written_leaves_the_one_before(tmp_path):
    write_atomically(tmp_path / "file", lambda file: file.write(b"whole"))

    def fail(file):
        file.write(b"half")
        raise OSError(errno.ENOSPC, "disk full")

    with pytest.raises(UsageError, match=r"disk full.*Make room there|disk full"):
        write_atomically(tmp_path / "file", fail)
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("file", b"whole")]


def test_two_ranks_have_the_losses_of_one(toy, tmp_path):
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2"}
    environments = [{**common, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(2)]
    changes = {"lr_base": 0.005, "max_steps": 6}
    ranks = [start_child(toy, tmp_path / "two", env=environment, **changes) for environment in environments]
    run_in_process(toy, tmp_path / "one", **changes)
    for rank in ranks:
        _, errors = rank.communicate(timeout=PATIENCE)
        assert rank.returncode == 0, errors.decode()
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-5)
    assert len(losses(tmp_path / "two")) == 6


def test_a_run_of_one_rank_goes_on_with_two(toy, tmp_path):
    changes = {"objective": "simclr", "lr_base": 0.005, "log_every": 1}
    run_in_process(toy, tmp_path / "one", max_steps=6, **changes)
    run_in_process(toy, tmp_path / "moved", max_steps=3, **changes)
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2"}
    environments = [{**common, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(2)]
    ranks = [start_child(toy, tmp_path / "moved", env=env, max_steps=6, **changes) for env in environments]
    for rank in ranks:
        _, errors = rank.communicate(timeout=PATIENCE)
        assert rank.returncode == 0, errors.decode()
    assert checkpoint.load(tmp_path / "moved")["ranks"] == 2
    assert losses(tmp_path / "moved") == pytest.approx(losses(tmp_path / "one"), rel=1e-5)
    _, output = run_in_process(toy, tmp_path / "moved", max_steps=7, **changes)
    assert "The run had 2 ranks and now has 1" in output


def test_a_batch_that_does_not_fit_is_refused_with_advice(toy, tmp_path):
    with pytest.raises(UsageError, match=r"37 samples\. Use --batch-size 32"):
        run_in_process(toy, tmp_path, batch_size=64)
    with pytest.raises(UsageError, match=r"3 ranks\. Run on 2; a new run may also use --batch-size 6"):
        training.plan_run(Settings(**TINY), open_dataset(toy), Job(torch.device("cpu"), 0, 3))


def test_seeds_are_pure_and_differ():
    seeds = {seed_of(seed, step, view) for seed in range(3) for step in range(20) for view in range(3)}
    assert len(seeds) == 180
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert seed_of(0, 1, 2) == seed_of(0, 1, 2)
