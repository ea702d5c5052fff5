"""Disks that are full or only read, a source that changes in mid-build, and two processes in one folder."""

import errno
import os
import random
import resource
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from helpers.fmow_builds import request
from helpers.fmow_tree import contents, write_fmow_tree

from attacks.children import Points, run, start, wait
from attacks.outcome import NotHeld, Tally
from satmip_data.errors import DataError
from satmip_data.imagery.chips import image_size
from satmip_data.pipeline.build import build
from satmip_data.pipeline.recaption import CaptionRewrite, recaption
from satmip_data.pipeline.settings import BuildSettings
from satmip_data.validation.validate import validate
from satmip_train.data.dataset import open_dataset
from satmip_train.errors import UsageError

SETTINGS = BuildSettings(samples_per_shard=3, size=32)
FIELDS = CaptionRewrite(("gsd",), "sentence")
TOLD = 3
"""How a child ends whose work was refused with a message."""


class Ground:
    """A small archive and its shards, built undisturbed once."""

    def __init__(self, folder: Path, places: int = 2) -> None:
        """Write and build."""
        self.folder, self.tree, self.whole, self.log = folder, folder / "tree", folder / "whole", folder / "log"
        self.images = write_fmow_tree(self.tree, places=places, images=2)
        build(request(self.tree, self.whole, SETTINGS))
        self.expected = contents(self.whole)
        self.captioned = folder / "captioned"
        shutil.copytree(self.whole, self.captioned)
        recaption(str(self.captioned), FIELDS)

    def build(self, out: Path) -> Callable[[Points], object]:
        """Return the work that builds the archive into a folder."""
        return partial(_told, partial(build, request(self.tree, out, SETTINGS)))

    def caption(self, out: Path) -> Callable[[Points], object]:
        """Return the work that writes other captions into a folder."""
        return partial(_told, partial(recaption, str(out), FIELDS))

    def check(self, out: Path, expected: dict[str, bytes]) -> None:
        """Refuse other bytes than expected."""
        found = contents(out)
        if other := sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name)):
            raise NotHeld(f"These files are others than undisturbed: {other}")


def _told(work: Callable[[], object], _: Points) -> None:
    """Do a work, and end as a command that tells its error."""
    try:
        work()
    except (DataError, OSError) as error:  # what `failures` of the command line tells
        print(error, flush=True)
        raise SystemExit(TOLD) from error


@contextmanager
def _small_disk(folder: Path, size: int) -> Iterator[Path]:
    """Mount a disk of so many bytes in memory.

    Raises:
        PermissionError: this user may not mount.
    """
    folder.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode:
        raise PermissionError("This user may not mount a disk.")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def full_disk(seed: int, tries: int, folder: Path) -> Tally:
    """Build and caption onto disks that become full, and again when there is room."""
    tally = Tally("a disk that becomes full (tmpfs), in builds and captions", "")
    ground = Ground(folder)
    need = sum(map(len, ground.expected.values()))
    for number in range(tries):
        draw = random.Random(f"{seed}/{number}")
        size = draw.randrange(4096 * 4, 2 * need) // 4096 * 4096
        work = "caption" if number % 3 == 2 else "build"
        try:
            with _small_disk(folder / "disk", size if work == "build" else need + 4096 * draw.randint(20, 60)) as disk:
                tally.attempt(number, f"{work} onto {size:,} bytes", partial(_fill, ground, work, disk / "out"))
        except PermissionError as error:
            tally.skipped = str(error)
            return tally
    return tally


def _fill(ground: Ground, work: str, out: Path) -> str:
    if work == "caption":
        try:
            shutil.copytree(ground.whole, out)
        except (shutil.Error, OSError):
            return "too small for the shards"
    doing, expected = (ground.build(out), ground.expected) if work == "build" else (ground.caption(out), contents(ground.captioned))
    code = run(doing, ground.log, counted=False)
    said = ground.log.read_text()
    if code == 0:
        ground.check(out, expected)
        return "it had room"
    if code != TOLD or os.strerror(errno.ENOSPC) not in said or "Traceback" in said:
        raise NotHeld(f"It ended with {code}: {said}")
    if out.exists() and list(out.rglob("*.part")):
        raise NotHeld("A file under way was left.")
    subprocess.run(["mount", "-o", "remount,size=100m", str(out.parent)], check=True, capture_output=True)
    if run(doing, ground.log, counted=False) != 0:
        raise NotHeld(f"With room it ended with: {ground.log.read_text()}")
    ground.check(out, expected)
    return "told, and the same bytes with room"


def large_files(seed: int, tries: int, folder: Path) -> Tally:
    """Build where no file may be larger than a limit: what a full disk does, where nobody may mount one."""
    tally = Tally("files that may not grow (RLIMIT_FSIZE), in builds", "")
    ground = Ground(folder)
    sizes = sorted({len(data) for data in ground.expected.values()})
    for number in range(tries):
        limit = random.Random(f"{seed}/{number}").randrange(16, sizes[-1])
        tally.attempt(number, f"{limit:,} bytes", partial(_limit, ground, limit, folder / "out"))
    return tally


def _limit(ground: Ground, limit: int, out: Path) -> str:
    shutil.rmtree(out, ignore_errors=True)

    def limited(points: Points) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        ground.build(out)(points)

    # What is told goes into a pipe, which has no size.
    code = run(limited, Path("/dev/null"), counted=False)
    if code != TOLD:
        raise NotHeld(f"It ended with {code}.")
    if out.exists() and list(out.rglob("*.part")):
        raise NotHeld("A file under way was left.")
    if run(ground.build(out), ground.log, counted=False) != 0:
        raise NotHeld(ground.log.read_text())
    ground.check(out, ground.expected)
    return "told, and the same bytes without the limit"


def read_only(seed: int, tries: int, folder: Path) -> Tally:
    """Read from a disk that may only be read, and try to write onto it."""
    tally = Tally("a disk that may only be read: reading from it, writing onto it", "")
    ground = Ground(folder)
    try:
        with _small_disk(folder / "disk", 50_000_000) as disk:
            shutil.copytree(ground.whole, disk / "shards")
            shutil.copytree(ground.tree, disk / "tree")
            subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True, capture_output=True)
            attempts: dict[str, Callable[[], str]] = {
                "validate": lambda: _proven(disk / "shards"),
                "the trainer opens it": lambda: str(len(open_dataset(disk / "shards").shards)) and "read",
                "a source on it": partial(_built_from, ground, disk / "tree", folder / "out"),
                "build onto it": partial(_refused, ground, ground.build(disk / "new")),
                "build into the finished folder": partial(_untouched, ground, disk),
                "caption it": partial(_refused, ground, ground.caption(disk / "shards")),
                "retry its rejects": partial(
                    _refused,
                    ground,
                    partial(_told, partial(build, replace(request(ground.tree, disk / "new", SETTINGS), retry_rejects=True))),
                ),
                "train into it": partial(_no_run, disk),
            }
            for number in range(tries):
                name = list(attempts)[number % len(attempts)]
                tally.attempt(number, name, attempts[name])
    except PermissionError as error:
        tally.skipped = str(error)
    return tally


def _proven(shards: Path) -> str:
    if problems := validate(str(shards)).problems:
        raise NotHeld(str(problems[:3]))
    return "read"


def _built_from(ground: Ground, tree: Path, out: Path) -> str:
    shutil.rmtree(out, ignore_errors=True)
    build(request(tree, out, SETTINGS))
    for path in out.rglob("*.tar"):
        if path.read_bytes() != ground.expected[str(path.relative_to(out))]:
            raise NotHeld(f"{path.name} is another one.")
    return "read"


def _untouched(ground: Ground, disk: Path) -> str:
    """The same command onto a finished directory leaves nothing to do, so that it needs not to be written to."""
    if run(ground.build(disk / "shards"), ground.log, counted=False) != 0:
        raise NotHeld(ground.log.read_text())
    return "read"


def _refused(ground: Ground, work: Callable[[Points], object]) -> str:
    code, said = run(work, ground.log, counted=False), ground.log.read_text()
    if code != TOLD or "Traceback" in said or "disk" not in said:
        raise NotHeld(f"It ended with {code}: {said}")
    return "told"


def _no_run(disk: Path) -> str:
    from satmip_train.runs.checkpoint import check_folder, locked

    for path in (disk / "run", disk / "shards"):
        try:
            check_folder(path)
            with locked(path):
                raise NotHeld("A run began on a disk that may only be read.")
        except UsageError as error:
            if str(path) not in str(error):
                raise NotHeld(str(error)) from error
    return "told"


def changing_source(seed: int, tries: int, folder: Path) -> Tally:
    """Change an image or a record after the index was made, or between a kill and the same command."""
    tally = Tally(
        "a source that changes in mid-build: images and records gone, cut, exchanged, touched",
        "An image that is exchanged for another of its size is taken as it is when it is read; no record says which was meant.",
    )
    ground = Ground(folder)
    kept = folder / "kept"
    shutil.copytree(ground.tree, kept)
    for number in range(tries):
        draw = random.Random(f"{seed}/{number}")
        what = list(SOURCE_CHANGES)[number % len(SOURCE_CHANGES)]
        tally.attempt(number, what, partial(_change, ground, what, draw, folder / "out"))
        shutil.rmtree(ground.tree)
        shutil.copytree(kept, ground.tree)
    return tally


def _gone(path: Path, other: Path) -> None:
    path.unlink()


def _cut(path: Path, other: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def _exchanged(path: Path, other: Path) -> None:
    path.write_bytes(other.read_bytes())


def _web_page(path: Path, other: Path) -> None:
    path.write_bytes(b"<html>")


def _folder(path: Path, other: Path) -> None:
    path.unlink()
    path.mkdir()


SOURCE_CHANGES: dict[str, Callable[[Path, Path], None]] = {
    "gone": _gone, "cut": _cut, "exchanged": _exchanged, "a web page": _web_page, "a folder": _folder,
}  # fmt: skip


def _change(ground: Ground, what: str, draw: random.Random, out: Path) -> str:
    """Change one image when so many shards are packed; build on, and prove what came of it."""
    shutil.rmtree(out, ignore_errors=True)
    path, other = draw.sample(ground.images, 2)
    sizes = [image_size(str(image)) for image in (path, other)]
    after = draw.randrange(len([name for name in ground.expected if name.endswith(".tar")]))

    def change(progress: Any) -> None:
        if progress.stage == "pack" and progress.done == after and (path.exists() and not path.is_dir()):
            SOURCE_CHANGES[what](path, other)

    dataset = build(request(ground.tree, out, SETTINGS), change)
    if problems := validate(str(out)).problems:
        raise NotHeld(str(problems[:3]))
    rejects = sum(dataset["rejects"].values())
    same = {name for name, data in contents(out).items() if name.endswith(".tar") and data == ground.expected[name]}
    if rejects == 0 and len(same) == len([name for name in ground.expected if name.endswith(".tar")]):
        return "it was packed before"
    if rejects != 1 and not (what == "exchanged" and sizes[0] == sizes[1]):
        raise NotHeld(f"{rejects} rejects of an image that is {what}: {dataset['rejects']}")
    return "rejected"


def two_at_once(seed: int, tries: int, folder: Path) -> Tally:
    """Start two or three builds, or captions, in one folder, at once or a little apart."""
    tally = Tally("two or three builds or captions in one folder at once", "On one machine; an object store has no locks.")
    ground = Ground(folder)
    for number in range(tries):
        draw = random.Random(f"{seed}/{number}")
        kind = ("build", "caption", "build and caption")[number % 3]
        tally.attempt(number, kind, partial(_race, ground, kind, draw, folder / "out"))
    return tally


def _race(ground: Ground, kind: str, draw: random.Random, out: Path) -> str:
    shutil.rmtree(out, ignore_errors=True)
    if kind != "build":
        shutil.copytree(ground.whole, out)
    works = {
        "build": [ground.build(out)] * draw.choice((2, 3)),
        "caption": [ground.caption(out)] * draw.choice((2, 3)),
        "build and caption": [ground.build(out), ground.caption(out)],
    }[kind]
    pids = []
    for number, work in enumerate(works):
        pids.append(start(work, ground.folder / f"log-{number}", counted=False))
        time.sleep(draw.choice((0.0, 0.0, 0.02, 0.1)))
    codes = [wait(pid) for pid in pids]
    said = [(ground.folder / f"log-{number}").read_text() for number in range(len(works))]
    if 0 not in codes or any(code not in (0, TOLD) for code in codes) or any("Traceback" in text for text in said):
        raise NotHeld(f"They ended with {codes}: {said}")
    if any(code == TOLD and "Another process is writing" not in text for code, text in zip(codes, said, strict=True)):
        raise NotHeld(f"One was refused for another reason: {said}")
    last = ground.build(out) if kind == "build" else ground.caption(out)
    if run(last, ground.log, counted=False) != 0:
        raise NotHeld(ground.log.read_text())
    ground.check(out, ground.expected if kind == "build" else contents(ground.captioned))
    return f"{codes.count(0)} of {len(codes)} did it, the others were told" if TOLD in codes else "all did it"
