"""Engines: order, errors, and the same bytes from processes and from Ray."""

import importlib.util
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from helpers.fmow_tree import contents, write_fmow_tree

from satmip_data.execution.engines import Engine, EngineError, Local, Ray
from satmip_data.pipeline import build as build_module
from satmip_data.pipeline.build import build
from satmip_data.pipeline.pack import PackTask, pack_shard
from satmip_data.pipeline.request import BuildRequest
from satmip_data.pipeline.settings import BuildSettings
from satmip_data.shards.record import ShardRecord
from satmip_data.sources import SOURCES

SETTINGS = BuildSettings(samples_per_shard=5, size=32)
needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="the extra ray is not installed")


@pytest.mark.parametrize("engine", [Local(1), Local(2)])
def test_results_are_those_of_a_loop(engine: Engine) -> None:
    tasks = [float(i) for i in range(20)]
    expected = [math.sqrt(task) for task in tasks]
    assert list(engine.ordered(math.sqrt, tasks)) == expected
    assert sorted(engine.unordered(math.sqrt, tasks)) == expected
    assert list(engine.unordered(math.sqrt, [])) == []


@pytest.mark.parametrize("engine", [Local(1), Local(2)])
def test_an_error_of_a_task_ends_the_run(engine: Engine) -> None:
    with pytest.raises(ValueError, match=r"math domain error|nonnegative"):
        list(engine.unordered(math.sqrt, [1.0, -1.0, 4.0]))
    with pytest.raises(ValueError, match=r"math domain error|nonnegative"):
        list(engine.ordered(math.sqrt, [1.0, -1.0, 4.0]))


@pytest.mark.parametrize("run", [Local.ordered, Local.unordered])
def test_a_killed_worker_is_an_error_with_advice(run: Any) -> None:
    with pytest.raises(EngineError, match=r"killed.*fewer than --workers 2"):
        list(run(Local(2), os._exit, [9, 9, 9]))


def test_workers_end_with_a_killed_parent() -> None:
    """Else they would do the tasks they were sent beside the next run, and wait for ever."""
    code = (
        "import os, time\n"
        "from satmip_data.execution.engines import Local\n"
        "for _ in Local(2).unordered(time.sleep, [0.1] * 9):\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    # The workers share the standard output: it ends when the last of them has.
    ended = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, timeout=60, check=False)
    assert ended.returncode == -9


def test_an_interrupted_worker_exits_without_a_traceback() -> None:
    """A terminal interrupts every process of a command; the first one speaks for all. Other exceptions of a worker are shown."""
    with pytest.raises(SystemExit, match="130"):
        list(Local(2).ordered(eval, ["__import__('os').kill(__import__('os').getpid(), 2)"] * 2))


@pytest.mark.parametrize("run", ["ordered", "unordered"])
def test_workers_ignore_what_their_parent_ignores(run: str) -> None:
    """Behind nohup, or in the background of a script, Ctrl-C is meant for others."""
    code = (
        "import os, signal, sys\n"
        "from satmip_data.execution.engines import Local\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        f"print(sum(Local(2).{run}(eval, [\"__import__('os').kill(__import__('os').getpid(), 2) or 7\"] * 2)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "14\n", "")


def test_an_interrupt_while_workers_start_shows_no_traceback(tmp_path: Path) -> None:
    """They import for seconds, on a busy machine more."""
    code = (
        "import os, sys, time\n"
        "from satmip_data.execution.engines import Local\n"
        "if __name__ == '__mp_main__':\n"
        "    os.write(1, b'starts\\n')\n"
        "    time.sleep(1)\n"
        "if __name__ == '__main__':\n"
        "    try:\n"
        "        list(getattr(Local(2), sys.argv[1])(abs, [1, 2, 3]))\n"
        "    except KeyboardInterrupt:\n"
        "        sys.exit(130)\n"
    )
    (tmp_path / "main.py").write_text(code, encoding="utf-8")
    for run in ("ordered", "unordered"):
        command = [sys.executable, str(tmp_path / "main.py"), run]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "starts\n"
            os.killpg(process.pid, signal.SIGINT)
            _, said = process.communicate(timeout=60)
        assert (process.returncode, said) == (130, "")


def test_an_error_drops_the_tasks_that_wait() -> None:
    start = time.monotonic()
    with pytest.raises(TypeError):
        list(Local(2).unordered(time.sleep, ["x", *[0.5] * 200]))  # type: ignore[list-item]
    assert time.monotonic() - start < 30  # 100 seconds if all were run


@needs_ray
def test_ray_gives_the_bytes_of_local_processes(tmp_path: Path) -> None:
    """In a process of its own: Ray's threads and warnings outlive a test."""
    write_fmow_tree(tmp_path / "fmow")
    root, local, ray = (str(tmp_path / name) for name in ("fmow", "local", "ray"))
    build(BuildRequest(SOURCES["fmow"](), root, local, SETTINGS))
    options = ["--size", "32", "--samples-per-shard", "5", "--engine", "ray", "--workers", "2"]
    command = [sys.executable, "-c", "from satmip_data.cli.commands import main; main()", "build", root, ray, *options]
    run = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    assert contents(Path(ray)) == contents(Path(local))


@needs_ray
def test_ray_keeps_order_and_passes_errors_on() -> None:
    code = (
        "import statistics\n"
        "from satmip_data.execution.engines import Ray\n"
        "tasks = [[float(i)] for i in range(9)]\n"
        "assert list(Ray('local', 2).ordered(statistics.fmean, tasks)) == [float(i) for i in range(9)]\n"
        "try:\n"
        "    list(Ray('local', 2).unordered(statistics.fmean, [[1.0], [], *tasks]))\n"
        "except statistics.StatisticsError as error:\n"
        "    print('raised')\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)
    assert run.stdout.endswith("raised\n"), run.stdout + run.stderr


def test_ray_is_asked_for_with_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(EngineError, match="pip install 'ray>="):
        list(Ray().ordered(math.sqrt, [1.0]))


def test_a_missing_cluster_is_named_with_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    class NoCluster:
        @staticmethod
        def is_initialized() -> bool:
            return False

        @staticmethod
        def init(**options: Any) -> None:
            raise ConnectionError("could not find any running Ray instance")

    monkeypatch.setitem(sys.modules, "ray", NoCluster)
    with pytest.raises(EngineError, match="ray start --head"):
        list(Ray("auto").ordered(math.sqrt, [1.0]))


def test_the_largest_shards_go_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[int] = []

    def pack(task: PackTask) -> ShardRecord:
        order.append(sum(s.scene_width * (s.window.y + s.window.height) for s in task.shard.samples))
        return pack_shard(task)

    write_fmow_tree(tmp_path / "fmow")
    monkeypatch.setattr(build_module, "pack_shard", pack)
    build(BuildRequest(SOURCES["fmow"](), str(tmp_path / "fmow"), str(tmp_path / "out"), SETTINGS))
    assert len(set(order)) > 4
    assert order == sorted(order, reverse=True)
