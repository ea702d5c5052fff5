"""Builds, retries and rewritten captions that are killed at any point, and the same command again."""

import random
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from unittest.mock import patch

from helpers.fmow_builds import request
from helpers.fmow_tree import contents, write_fmow_tree

from attacks.children import Points, Trail, Work, read_trail, run
from attacks.outcome import NotHeld, Tally
from satmip_data.pipeline import build as build_module
from satmip_data.pipeline.recaption import CaptionRewrite, recaption
from satmip_data.pipeline.settings import BuildSettings
from satmip_data.validation.validate import validate
from satmip_train.data.dataset import open_dataset
from satmip_train.errors import UsageError

STAGES = ("index", "plan", "pack", "seal", "retry", "caption")
SETTINGS = BuildSettings(samples_per_shard=3, size=16)
FIELDS = CaptionRewrite(("gsd", "timestamp", "cloud_cover"), "sentence")
LIMITS = "The machine itself keeps running: no power cut, so nothing that a disk forgets."


def kills(seed: int, tries: int, folder: Path) -> Tally:
    """Kill builds in all their stages, at the disk and elsewhere, once or twice; the same command must then give the same bytes."""
    tally = Tally("SIGKILL in index, plan, pack, seal, retry and caption", LIMITS)
    ground = Ground(folder)
    for number in range(tries):
        draw = random.Random(f"{seed}/{number}")
        stage = STAGES[number % len(STAGES)]
        times = draw.choice((1, 1, 2))
        tally.attempt(number, f"{stage}, {times} times", partial(ground.kill, stage, draw, times))
    return tally


class Ground:
    """A small archive, and what comes of it undisturbed: shards, shards with a retried image, shards with other captions."""

    def __init__(self, folder: Path) -> None:
        """Build everything once; the points that it passes are those at which it can be killed."""
        self._folder, self._tree, self._out, self._log = folder, folder / "tree", folder / "out", folder / "log"
        self._lost, self._kept = write_fmow_tree(self._tree, places=3, images=2)[1], folder / "kept.jpg"
        shutil.copyfile(self._lost, self._kept)
        self._lost.write_bytes(b"no image")
        # Here and not in a child, so that each has what is imported on the way.
        self._build(Points())
        shutil.copytree(self._out, folder / "lacking")
        shutil.copyfile(self._kept, self._lost)
        trails = {"retry": self._whole(self._retry)}
        shutil.rmtree(self._out)
        built = self._whole(self._build)
        trails |= dict.fromkeys(("index", "plan", "pack", "seal"), built)
        shutil.copytree(self._out, folder / "whole")
        trails["caption"] = self._whole(self._caption)
        self._trails = trails
        self._expected = {"caption": contents(self._out), "built": contents(folder / "whole")}
        self._expected["retry"] = self._after_retry(folder / "lacking")

    def _after_retry(self, lacking: Path) -> dict[str, bytes]:
        shutil.rmtree(self._out)
        shutil.copytree(lacking, self._out)
        self._run(self._retry)
        return contents(self._out)

    def _whole(self, work: Work) -> Trail:
        self._run(work, self._folder / "trail")
        return read_trail(self._folder / "trail")

    def _run(self, work: Work, trail: Path | None = None) -> None:
        if (code := run(work, self._log, trail=trail, counted=trail is not None)) != 0:
            raise NotHeld(f"The same command ended with {code}: {self._log.read_text()}")

    def _build(self, points: Points) -> None:
        with ExitStack() as stack:
            for name, stage in (("select", "plan"), ("pack_shard", "pack"), ("_seal", "seal")):
                stack.enter_context(patch.object(build_module, name, _marking(getattr(build_module, name), points, stage)))
            points.mark("index")
            build_module.build(request(self._tree, self._out, SETTINGS))

    def _retry(self, points: Points) -> None:
        points.mark("retry")
        build_module.build(replace(request(self._tree, self._out, SETTINGS), retry_rejects=True))

    def _caption(self, points: Points) -> None:
        points.mark("caption")
        recaption(str(self._out), FIELDS)

    def kill(self, stage: str, draw: random.Random, times: int) -> str:
        """Kill one work `times` times at one of its points, look at what is left, and do it again undisturbed."""
        before = {"caption": "whole", "retry": "lacking"}.get(stage)
        work: Work = {"caption": self._caption, "retry": self._retry}.get(stage, self._build)
        shutil.rmtree(self._out, ignore_errors=True)
        if before is not None:
            shutil.copytree(self._folder / before, self._out)
        points, files = self._trails[stage].stage(stage)
        killed = 0
        for _ in range(times):
            kill_at = draw.choice(files if draw.random() < 0.5 and files else points)
            code = run(work, self._log, kill_at)
            if code not in (0, -9):
                raise NotHeld(f"It ended with {code} at the point {kill_at}: {self._log.read_text()}")
            killed += code == -9
            self._look(finished=code == 0)
        self._run(work)
        found, expected = contents(self._out), self._expected.get(stage, self._expected["built"])
        if found != expected:
            other = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
            raise NotHeld(f"These files are others than undisturbed: {other}")
        return "the same bytes" if killed else "finished before the point"

    def _look(self, finished: bool) -> None:
        """A half-built directory must be refused, and one that is not must be whole."""
        try:
            open_dataset(self._out)
        except UsageError:
            if finished:
                raise
            return
        problems = [problem for problem in validate(str(self._out)).problems if problem.check != "finished"]
        if problems:
            raise NotHeld(f"The trainer opens it, and validate finds {problems[:3]}")


def _marking(function: Callable[..., object], points: Points, stage: str) -> Callable[..., object]:
    def marked(*arguments: object) -> object:
        points.mark(stage)
        return function(*arguments)

    return marked
