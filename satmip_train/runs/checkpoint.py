"""Checkpoints, from which a stopped run goes on: written atomically, read without running code from the file."""

import fcntl
import json
import subprocess
from collections.abc import Collection, Container, Iterator
from contextlib import contextmanager
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from satmip_data.errors import cause
from satmip_data.names import written
from satmip_train.config import FREE_SETTINGS, Settings
from satmip_train.errors import UsageError, wrong_settings
from satmip_train.files import (
    BEST_WEIGHTS,
    CONFIG,
    METADATA_WEIGHTS,
    PROJECTIONS,
    RUN_CONFIG,
    WEIGHTS,
    advice,
    check_zip,
    write_atomically,
)

NAME, BEST = "last.pt", "best.pt"
_LOCK = ".lock"
RUN_FILES = (
    NAME, BEST, RUN_CONFIG, "log.jsonl", "summary.json", "index.html", "curves.png", "README.md", WEIGHTS, CONFIG, BEST_WEIGHTS,
    "backbone-best.json", METADATA_WEIGHTS, "metadata.json", PROJECTIONS, "projections.json", "timm",
    "open_clip_model.safetensors", "open_clip_config.json",
)  # fmt: skip
"""What a run writes into its folder."""
Checkpoint = dict[str, Any]
"""model, optimizer and scaler (state dicts), step (steps done), ranks, settings, metadata (what of them is read), dataset (source,
fingerprint, mean, std), best (kNN so far, or None), versions."""
_MOVED = (("ssl_head.", "simclr.head."),)
_MOVED_BY_MOCO = (
    ("ssl_head.", "moco.head."),
    ("key_backbone.", "moco.key_backbone."),
    ("key_head.", "moco.key_head."),
    ("queue.", "moco.queue."),
)
"""How names of weights began in checkpoints from before terms were modules of their own, and how they begin now."""
_PARTS = ("model", "optimizer", "scaler", "step", "ranks", "settings", "metadata", "dataset", "best", "versions")


def versions() -> dict[str, str]:
    """Return the versions of the packages that a run's numbers depend on; of a git checkout of satmip also its commit."""
    known = {name: version(name) for name in ("satmip", "torch", "timm", "numpy", "open_clip_torch")}
    return known if (commit := _commit()) is None else {**known, "commit": commit}


@cache
def _commit() -> str | None:
    """Return the commit of the checkout that this code is, with -dirty where it was changed since; None where it is none."""
    command = ["git", "-C", str(Path(__file__).parent)]
    try:
        # Within somebody else's repository, as a virtual environment may lie, git would tell of that one.
        for words in (["ls-files", "--error-unmatch", Path(__file__).name], ["describe", "--always", "--dirty", "--abbrev=12"]):
            told = subprocess.run([*command, *words], capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
    return told


def save(run: Path, checkpoint: Checkpoint, name: str = NAME) -> None:
    """Write `last.pt` or `best.pt` of a run. A crash at any moment leaves the one before it whole."""
    write_atomically(run / name, lambda temporary: torch.save(checkpoint, temporary))


def check_folder(run: Path) -> None:
    """Check before a run starts that its folder can be its own: a new one, a run's, or one without files of a run's names.

    Raises:
        UsageError: the path is no folder or cannot be made, or holds files of something else that the run would write over.
    """
    try:
        run.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"Cannot make the folder --out {run}: {cause(error)}. Use another --out.") from error
    foreign = sorted(name for name in RUN_FILES if (run / name).exists())
    if foreign and not (run / NAME).exists() and not _is_run_config(run / RUN_CONFIG):
        raise UsageError(
            f"--out {run} is not the folder of a run, and a run would write over its {', '.join(foreign)}. Use another --out."
        )


@contextmanager
def locked(run: Path) -> Iterator[None]:
    """Keep other runs out of a run's folder, and remove the halves of checkpoints that a killed one left in it.

    The system drops the lock when this process ends, however it ends, even if its loader processes live a little longer. On file
    systems without locks nothing is locked.

    Raises:
        UsageError: another process trains into the folder, or it may not be written to.
    """
    try:
        handle = (run / _LOCK).open("a")
    except OSError as error:
        raise UsageError(f"Cannot write to {run}: {cause(error)}. {advice(error)}") from error
    with handle:
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:  # the two ways to say that another process has it
            raise UsageError(f"Another process is training into {run}. Wait for its end, or use another --out.") from error
        except OSError:  # a network file system without locks
            pass
        for name in (NAME, BEST):
            for half in run.glob(f".{name}.*"):
                half.unlink()
        try:
            yield
        finally:
            (run / _LOCK).unlink(missing_ok=True)


def _is_run_config(path: Path) -> bool:
    try:
        return "settings" in json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError):
        return False


def load(run: Path, name: str = NAME) -> Checkpoint | None:
    """Read `last.pt` or `best.pt` of a run, onto the CPU; None where there is none.

    Raises:
        UsageError: the file is not a checkpoint.
    """
    return _read(run / name) if (run / name).exists() else None


def read_step(run: Path) -> int | None:
    """Return the steps that were done at `last.pt` of a run, without reading its weights; None where there is none.

    Raises:
        UsageError: the file is not a checkpoint.
    """
    return int(_read(run / NAME, mmap=True)["step"]) if (run / NAME).exists() else None


def _read(path: Path, mmap: bool = False) -> Checkpoint:
    try:
        if not mmap:
            check_zip(path)
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
        return {key: checkpoint[key] for key in _PARTS}
    except Exception as error:  # torch raises many kinds for damaged files
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise UsageError(f"Cannot read the checkpoint {path}: {reason}. Delete it, or pass another --out.") from error


def todays_name(name: str, saved: Collection[str], known: Container[str]) -> str:
    """Return what a weight of a checkpoint is called today.

    Args:
        saved: all names of weights in the checkpoint
        known: those of the network that they are for; what it knows by its saved name has not moved
    """
    if name not in known:
        for then, now in _MOVED_BY_MOCO if "queue.keys" in saved else _MOVED:
            if name.startswith(then):
                return f"{now}{name.removeprefix(then)}"
    return name


def saved_settings(saved: dict[str, Any], where: Path) -> Settings:
    """Return the settings that a checkpoint or the config of an export holds.

    Args:
        where: what it was read from

    Raises:
        UsageError: this version does not know them.
    """
    try:
        return Settings.model_validate(saved["settings"])
    except ValidationError as error:
        wrote = saved.get("versions", {}).get("satmip", "another version")
        raise UsageError(
            f"This version of satmip ({version('satmip')}) does not know the settings of {where}: "
            f"{' '.join(wrong_settings(error, Settings.model_fields))} Use the satmip that wrote it ({wrote})."
        ) from error


def check_same_run(checkpoint: Checkpoint, settings: Settings, fingerprint: str, run: Path) -> None:
    """Check that a run with these settings and shards may go on from a checkpoint.

    Raises:
        UsageError: a setting that changes the result differs, or the shards do.
    """
    now = settings.model_dump(mode="json")
    # A setting that is younger than the checkpoint then had what is now its default.
    then = {**Settings.model_validate({}).model_dump(mode="json"), **checkpoint["settings"]}
    changed = [name for name in sorted({*now, *then} - FREE_SETTINGS) if now.get(name) != then.get(name)]
    if changed:
        difference = "; ".join(f"{name} was {written(then.get(name))} and is now {written(now.get(name))}" for name in changed)
        raise UsageError(f"The run in {run} was started with other settings: {difference}. Use the same again, or another --out.")
    if checkpoint["dataset"]["fingerprint"] != fingerprint:
        raise UsageError(
            f"The run in {run} was started with other shards: their fingerprint is {checkpoint['dataset']['fingerprint'][:12]}, "
            f"that of these is {fingerprint[:12]}. Use the same --shards, or another --out."
        )
