"""Flipped, cut and otherwise damaged files of shard directories and runs, read by all that reads them."""

import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import satmip_schemas
import torch
from click.testing import CliRunner
from helpers.fmow_builds import request
from helpers.fmow_tree import contents, write_fmow_tree
from helpers.toy_shards import write_toy_shards
from helpers.training_runs import TINY
from rich.console import Console
from torch import nn

from attacks.children import run
from attacks.mutations import Change, cut, drop, flip, insert, zeros
from attacks.outcome import NotHeld, Tally
from satmip_data.cli.commands import main
from satmip_data.errors import DataError
from satmip_data.pipeline import build as build_module
from satmip_data.pipeline.recaption import CaptionRewrite, recaption
from satmip_data.pipeline.settings import BuildSettings
from satmip_data.shards.reading import open_shards
from satmip_train.config import Settings
from satmip_train.data.dataset import open_dataset
from satmip_train.data.decoder import Decoder
from satmip_train.data.tar import Readers
from satmip_train.distributed import Job
from satmip_train.errors import UsageError
from satmip_train.evaluation.report import write_report
from satmip_train.models.pretrained import read_weights
from satmip_train.runs import checkpoint
from satmip_train.runs.cost import read_cost
from satmip_train.runs.export import export_run, load_backbone, load_metadata_encoder, load_projections
from satmip_train.runs.page import write_run_page
from satmip_train.training.train import train

CHANGES: tuple[Change, ...] = (flip, flip, flip, cut, cut, zeros, drop, insert)
SETTINGS = BuildSettings(samples_per_shard=3, size=16)
EVERYTHING = Decoder(frozenset({"image", "numeric", "mask", "categorical", "place", "location", "label", "key"}), numeric=(0, 1))
LIMITS = "Files of 0.1 carry no hash; of log, summary and config of a run a changed digit or letter is not noticed."


@dataclass(frozen=True, slots=True)
class Target:
    """A file that is damaged, and what reads it."""

    path: Path
    read: Callable[[], Any]
    """Gives what can be compared; one that fails raises an error of satmip's, or a `ValueError` that names the file."""
    sealed: bool = True
    """Whether a hash covers it, so that no change may go unnoticed."""


def shard_files(seed: int, tries: int, folder: Path) -> Tally:
    """Damage files of shard directories, finished, half-built and half-captioned."""
    return _attack("files of shard directories: tars, tables, sidecars, journals", seed, tries, dict(_of_shards(folder)))


def run_files(seed: int, tries: int, folder: Path) -> Tally:
    """Damage files of a run: checkpoints, exports, log, summary, config."""
    return _attack("files of runs: checkpoints, exports, log, summary, config", seed, tries, dict(_of_runs(folder)))


def every_byte(seed: int, tries: int, folder: Path) -> Tally:
    """Flip every bit of every byte of a small `dataset.json`, and cut it at every byte; `tries` bounds the bytes."""
    tally = Tally("every byte of a small dataset.json: 8 flips and a cut each", "A file of version 1 has no hash of its own.")
    write_toy_shards(folder / "toy", {"train": 1}, shards=1, size=(8, 8))
    content = (folder / "toy/dataset.json").read_bytes()
    before = satmip_schemas.read_dataset(content, "dataset.json")
    for place in range(min(len(content), tries)):
        changed = [content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :] for bit in range(8)]
        tally.attempt(place, f"byte {place}", partial(_refused_or_same, [*changed, content[:place]], before))
    return tally


def _refused_or_same(changed: list[bytes], before: Any) -> str:
    ended = set()
    for content in changed:
        try:
            ended.add("the same" if satmip_schemas.read_dataset(content, "dataset.json") == before else "other")
        except satmip_schemas.ContractError:
            ended.add("refused")
    if "other" in ended:
        raise NotHeld("A dataset.json with a changed byte says something else.")
    return " or ".join(sorted(ended))


def _attack(name: str, seed: int, tries: int, targets: dict[str, Target]) -> Tally:
    tally, names = Tally(name, LIMITS), list(targets)
    before: dict[str, Any] = {}
    for number in range(tries):
        what = names[number % len(names)]
        draw = random.Random(f"{seed}/{number}")
        change, target = draw.choice(CHANGES), targets[what]
        if what not in before:
            before[what] = target.read()
        tally.attempt(number, f"{what}, {change.__name__}", partial(_hold, target, before[what], change, draw))
    return tally


def _hold(target: Target, before: Any, change: Change, draw: random.Random) -> str:
    whole = target.path.read_bytes()
    damaged = change(whole, draw)
    target.path.write_bytes(damaged)
    try:
        found = target.read()
    except (DataError, UsageError, ValueError) as error:
        if isinstance(error, ValueError) and "Cannot read" not in str(error):  # `read_weights` says so; the command makes its error
            raise
        if target.path.name not in str(error).replace("\n", ""):
            raise NotHeld(f"The error does not name {target.path.name}: {error}") from error
        return "refused"
    finally:
        target.path.parent.mkdir(parents=True, exist_ok=True)
        target.path.write_bytes(whole)
    if same(before, found) or damaged == whole:
        return "the same"
    if target.sealed:
        raise NotHeld(f"{target.path.name} gave something else: {str(found)[:500]}")
    return "other text, which carries no hash"


def same(one: Any, two: Any) -> bool:
    """Return whether two things that were read hold the same numbers."""
    if isinstance(one, nn.Module):
        return same(dict(one.state_dict()), dict(two.state_dict()))
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(same(value, two[key]) for key, value in one.items())
    if isinstance(one, torch.Tensor):
        return torch.equal(one.nan_to_num(), two.nan_to_num())
    if isinstance(one, np.ndarray):
        return np.array_equal(one, two)
    return bool(one == two)


def command(*arguments: str) -> str:
    """Return what a command of `satmip-data` prints.

    Raises:
        DataError: it ended with an error; the message is what it printed.
    """
    result = CliRunner().invoke(main, [*arguments], env={"COLUMNS": "1000"})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    if result.exit_code not in (0, 1, 2):
        raise NotHeld(f"The exit code is {result.exit_code}.")
    if result.exit_code:
        raise DataError(result.output)
    return result.output


def _of_shards(folder: Path) -> Iterator[tuple[str, Target]]:
    tree, whole, work = folder / "tree", folder / "whole", folder / "work"
    lost = write_fmow_tree(tree, places=2, images=2)[1]
    lost.write_bytes(b"no image")
    build_module.build(request(tree, whole, SETTINGS))
    for path in sorted(path for path in whole.rglob("*") if path.is_file()):
        yield f"{path.relative_to(whole)} by validate", Target(path, partial(_validated, whole))
        sealed = path.suffix != ".tar"  # `inspect` shows some samples of a shard, and does not read all of it
        yield f"{path.relative_to(whole)} by inspect", Target(path, partial(command, "inspect", str(whole)), sealed)
    for name in ("dataset.json", "train/000000.tar", "index.parquet", "rejects.parquet"):
        yield f"{name} by caption", Target(whole / name, partial(_captioned, whole, work))
        yield f"{name} by a retry", Target(whole / name, partial(_retried, tree, whole, work))
    yield "train/000000.tar by open_shards", Target(whole / "train/000000.tar", partial(_opened, whole))
    toy = write_toy_shards(folder / "toy", {"train": 12}, shards=2, size=(16, 16))
    for name in ("train/000000.tar", "dataset.json"):
        yield f"{name} by training", Target(toy / name, partial(_batch, toy, folder / "cache"))
    half = folder / "half"
    _stop(partial(build_module.build, request(tree, half, SETTINGS)), after=3)
    for path in sorted(path for path in half.rglob("*") if path.is_file()):
        yield f"{path.relative_to(half)} of half a build", Target(path, partial(_finished, tree, half, work))
    captioned = folder / "captioned"
    shutil.copytree(whole, captioned)
    _stop(partial(recaption, str(captioned), CaptionRewrite(("gsd",), "sentence"), 1), after=2)
    for path in sorted(path for path in captioned.rglob("*") if path.is_file()):
        yield f"{path.relative_to(captioned)} of half a caption", Target(path, partial(_captioned, captioned, work))


class _Stopped(Exception):
    pass


def _stop(work: Callable[..., object], after: int) -> None:
    """Do a work until so many shards are written."""

    def stop(progress: Any) -> None:
        if progress.stage in ("pack", "caption") and progress.done == after:
            raise _Stopped

    try:
        work(stop)
    except _Stopped:
        return
    raise AssertionError("There is no half of it.")


def _validated(shards: Path) -> str:
    return command("validate", str(shards), "--workers", "1")


def _captioned(shards: Path, work: Path) -> str:
    """Caption a copy. What it did must be right, or found out by `validate` as before."""
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(shards, work)
    command("caption", str(work), "--fields", "gsd", "--style", "sentence", "--workers", "1")
    return _validated(work)


def _retried(tree: Path, shards: Path, work: Path) -> str:
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(shards, work)
    try:
        build_module.build(replace(request(tree, work, SETTINGS), retry_rejects=True))
    except OSError as error:
        raise DataError(str(error)) from error
    return _validated(work)


def _finished(tree: Path, half: Path, work: Path) -> Any:
    """Finish a copy of half a build; the bytes must be those of one that was not damaged, or `validate` finds them."""
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(half, work)
    try:
        build_module.build(request(tree, work, SETTINGS))
    except OSError as error:
        raise DataError(str(error)) from error
    _validated(work)
    return contents(work)


def _opened(shards: Path) -> Any:
    return [np.asarray(sample.image).sum() for sample in open_shards(shards)["train"]]


def _batch(shards: Path, cache: Path) -> Any:
    return EVERYTHING.batch(Readers(open_dataset(shards, cache), "train"), [(0, index) for index in range(6)])


def _of_runs(folder: Path) -> Iterator[tuple[str, Target]]:
    shards, path = write_toy_shards(folder / "shards", {"train": 16, "val": 8}, shards=2, size=(16, 16)), folder / "run"
    settings = Settings(**{**TINY, "batch_size": 4, "max_steps": 4, "knn_every": 1, "checkpoint_every": 2})

    def learn(_: object) -> None:
        train(settings, open_dataset(shards), path, Job(torch.device("cpu")), Console(quiet=True))

    log = folder / "train.log"
    if run(learn, log, counted=False) != 0:  # in a child: torch takes no fork once it has gone backward
        raise AssertionError(log.read_text())
    reads: dict[str, dict[str, Callable[[], Any]]] = {
        checkpoint.NAME: {
            "a run that goes on": lambda: checkpoint.load(path),
            "--init": lambda: read_weights(path / checkpoint.NAME).tensors,
            "export": partial(_exported, path),
        },
        checkpoint.BEST: {"export": partial(_exported, path)},
        "backbone.safetensors": {
            "evaluation": lambda: load_backbone(path)[0],
            "--init": lambda: read_weights(path / "backbone.safetensors").tensors,
        },
        "backbone.json": {"evaluation": lambda: load_backbone(path)[0]},
        "metadata.safetensors": {"evaluation": lambda: load_metadata_encoder(path)[0]},
        "projections.safetensors": {"evaluation": lambda: load_projections(path).image},
    }
    for name, readers in reads.items():
        for who, read in readers.items():
            yield f"{name} by {who}", Target(path / name, read, sealed=name != "backbone.json")
    for name in ("log.jsonl", "summary.json", "config.json"):
        for who, read in {
            "the run's page": partial(_paged, path),
            "export": partial(_exported, path),
            "a report": partial(_reported, shards, path, folder / "report"),
            "the cost": lambda: read_cost(path),
            "the same command": partial(_same_command, settings, shards, path),
        }.items():
            yield f"{name} by {who}", Target(path / name, read, sealed=False)


def _exported(path: Path) -> Any:
    return {made.name: made.read_bytes() for made in export_run(path)}


def _paged(path: Path) -> bytes:
    return write_run_page(path).read_bytes()


def _reported(shards: Path, path: Path, folder: Path) -> bytes:
    return write_report(open_dataset(shards), None, [path], folder).read_bytes()


def _same_command(settings: Settings, shards: Path, path: Path) -> int:
    return train(settings, open_dataset(shards), path, Job(torch.device("cpu")), Console(quiet=True))
