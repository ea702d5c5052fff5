"""The commands as typed: examples in every help, advice in every error, the tour in an empty folder."""

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from shlex import quote
from types import ModuleType

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result
from helpers.fmow_tree import write_fmow_tree
from PIL import Image

from satmip_data.cli import commands, sheet
from satmip_data.execution import tracking
from satmip_data.execution.progress import Progress
from satmip_data.execution.tracking import Speeds, describe
from satmip_data.pipeline.journal import Journal
from tests.data.archives.make import write_raster


def run(*arguments: str) -> Result:
    return CliRunner().invoke(commands.main, list(arguments))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory with an archive beside it."""
    write_fmow_tree(tmp_path / "fmow")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


def test_build_then_bare_commands_work_as_typed(here: Path) -> None:
    built = run("build", "../fmow", "--size", "32", "--samples-per-shard", "10", "--workers", "1")
    assert built.exit_code == 0, built.output
    assert "18" in built.output
    assert "Next: satmip-data caption out/shards" in built.output
    assert (here / "out/shards/dataset.json").exists()
    for command in (["caption", "--fields", "gsd,time,loc"], ["validate"], ["inspect"]):
        result = run(*command, *([] if command[0] == "inspect" else ["--workers", "1"]))
        assert result.exit_code == 0, result.output
    assert "no problem" in run("validate", "--workers", "1").output


def test_a_build_that_is_done_says_that_its_source_was_not_read_again(here: Path) -> None:
    arguments = ("build", "../fmow", "--size", "32", "--workers", "1")
    assert "already built" not in run(*arguments).output
    shutil.rmtree("../fmow/val")
    for extra in ([], ["--retry-rejects"]):
        result = run(*arguments, *extra)
        assert result.exit_code == 0
        assert "out/shards was already built, and ../fmow was not read again." in " ".join(result.output.split())
        assert "18" in result.output


@pytest.mark.parametrize("out", ["out[v1]", "out[", "a/[/v1]", "out [/old]"])
def test_what_to_type_next_can_be_copied(here: Path, monkeypatch: pytest.MonkeyPatch, out: str) -> None:
    """In a narrow terminal, and with a folder whose name a shell would split and rich would take for its markup."""
    monkeypatch.setenv("COLUMNS", "30")
    folder = quote(out)
    for _ in range(2):
        result = run("build", "../fmow", out, "--size", "16", "--limit", "6", "--workers", "1")
        assert result.exit_code == 0, result.output
        following = f"satmip-data caption {folder} --fields gsd,time,loc   or   satmip-train --shards {folder}"
        assert result.output.splitlines()[-1] == f"Next: {following}"
    assert f"{out} was already built, and ../fmow was not read again." in result.output
    inspected = run("inspect", out, "--sheet", "[/s].png")
    assert inspected.stdout.splitlines()[-1] == "Contact sheet: [/s].png"
    (here / out / "index.parquet").write_bytes(b"damaged")
    assert run("inspect", out).output.splitlines()[-1].endswith(f"Run: satmip-data validate {folder}")
    (here / out / "dataset.json").unlink()
    assert run("inspect", out).output.splitlines()[-1] == f"Make it with: satmip-data build SOURCE {folder}"


def test_a_narrow_table_leaves_nothing_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    output = run("fields").output
    assert "multispectral_gsd" in "".join(line.split(" ")[0] for line in output.splitlines())
    assert "…" not in output


def test_a_demo_names_the_fewest_places(here: Path) -> None:
    made = run("demo", "world", "--places", "23")
    assert made.exit_code == 2
    assert "'--places': 23 is not in the range x>=24" in made.output


def test_inspect_of_a_damaged_index_gives_advice(here: Path) -> None:
    run("build", "../fmow", "--size", "32", "--workers", "1")
    index = here / "out/shards/index.parquet"
    index.write_bytes(index.read_bytes()[:-20])
    result = run("inspect")
    assert (result.exit_code, type(result.exception)) == (1, SystemExit)
    assert "Run: satmip-data validate out/shards" in " ".join(result.output.split())


def test_inspect_of_one_split_shows_its_ranges_to_the_second(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the paper's Table 1 does of the train split."""
    monkeypatch.setenv("COLUMNS", "160")
    run("build", "../fmow", "--size", "32", "--workers", "1")
    index = pq.read_table(here / "out/shards/index.parquet").to_pandas()
    for split in ("train", "val"):
        times = index[index["split"] == split]["timestamp"]
        (line,) = (line for line in run("inspect", "--split", split).output.splitlines() if line.startswith("timestamp"))
        assert all(f"{time:%Y-%m-%d %H:%M:%S}" in line for time in (times.min(), times.quantile(0.5), times.max()))
        shown = [
            line.split()[0] for line in run("inspect", "--split", split, "--samples", "2").output.splitlines() if "gsd: [" in line
        ]
        assert shown
        assert set(shown) <= set(index[index["split"] == split]["key"])
    unknown = run("inspect", "--split", "tran")
    assert unknown.exit_code == 1
    assert '"tran"' in unknown.output
    assert "train, val" in " ".join(unknown.output.split())


def test_brackets_in_texts_are_printed_as_they_are(here: Path) -> None:
    """What rich takes for markup vanished, or ended the command with a traceback."""
    for path in (here.parent / "fmow").rglob("*.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"sensor_platform_name": "SAT[/b]"}))
    run("build", "../fmow", "--size", "32", "--workers", "1")
    result = run("inspect")
    assert result.exit_code == 0, result.output
    assert "SAT[/b]" in result.output


def test_rejects_are_told_with_what_was_found_of_them(here: Path) -> None:
    Image.new("RGB", (8, 8), "red").save(here / "a.png")
    (here / "a.csv").write_text("image,split,cloud_cover\na.png,train,2\nb.png,train,12%\na.png,train,many\n")
    table = ("build", "--source", "table", "a.csv", "--workers", "1")
    planned = " ".join(run(*table, "--dry-run").output.split())
    assert 'First metadata_invalid: b.png: cloud_cover is "12%"' in planned
    assert "many" not in planned
    assert "b.png: cloud_cover" in run(*table).output
    (here / "b.csv").write_text("image,split\nb.tif,train\n")
    nothing = " ".join(run("build", "--source", "table", "b.csv", "out/b", "--workers", "1").output.split())
    assert "1 x image_unreadable. First: b.tif: " in nothing
    assert nothing.endswith("satmip-data build --source NAME SOURCE")


def test_every_line_of_a_key_has_the_colour_of_keys() -> None:
    encoded = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(encoded, "PNG")
    drawn = np.asarray(sheet.contact_sheet([("k" * 50, encoded.getvalue(), "c")], columns=1)).astype(int)
    top = sheet.MARGIN + sheet.CELL
    ink = [drawn[top + line * sheet.LINE :][: sheet.LINE].reshape(-1, 3) for line in range(3)]
    green = [bool((part[:, 1] - part[:, 0] > 100).any()) for part in ink]
    assert green == [True, True, False]


def test_a_contact_sheet_is_a_png_whatever_its_name(here: Path) -> None:
    run("build", "../fmow", "--size", "32", "--workers", "1")
    assert run("inspect", "--sheet", "sheet").exit_code == 0
    assert (here / "sheet").read_bytes().startswith(b"\x89PNG")


def test_a_field_of_the_captions_that_nobody_knows_is_told(here: Path) -> None:
    Image.new("RGB", (8, 8), "red").save(here / "a.png")
    (here / "a.csv").write_text("image,split,gsd\na.png,train,2\n")
    built = " ".join(run("build", "--source", "table", "a.csv", "--workers", "1").output.split())
    assert "No sample of the split train knows timestamp, location" in built
    written = run("caption", "--fields", "gsd", "--workers", "1")
    assert written.exit_code == 0
    assert "no sample" not in written.output


def test_captions_differ_after_caption(here: Path) -> None:
    run("build", "../fmow", "--size", "32", "--workers", "1")
    assert run("caption", "--fields", "sun_azimuth", "--style", "sentence", "--workers", "1").exit_code == 0
    assert json.loads((here / "out/shards/dataset.json").read_text())["caption"]["fields"] == ["sun_azimuth_angle"]


@pytest.mark.parametrize("command", [[], *([name] for name in commands.main.commands)])
def test_every_help_has_an_example_that_parses(command: list[str]) -> None:
    text = run(*command, "--help").output
    examples = re.findall(r"^ +satmip-data (\w+)(.*)$", text, re.MULTILINE)
    assert "Example:" in text
    assert examples
    for name, rest in examples:
        assert name in commands.main.commands
        options = set(re.findall(r"--[a-z-]+", rest))
        assert options <= set(re.findall(r"--[a-z-]+", run(name, "--help").output))


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        (["build", "nowhere"], "holds no fMoW"),
        (["build", "nowhere"], "Check the path: there is no 'nowhere'"),
        (["build", "--source", "geotiff", "nowhere"], "Check the path: there is no 'nowhere'"),
        (["build", "."], "the kind of your archive with --source"),
        (["build", "../fmow", "--size", "big"], '"big" is no number of pixels'),
        (["build", "../fmow", "--fields", "gds"], 'Unknown field "gds"'),
        (["build", "../fmow", "--tile", "64"], '--tile is not an option of the source "fmow"'),
        (["build", "../fmow", "--quality", "0"], "quality is 0"),
        (["build", "../fmow", "--context", "inf"], "context is"),
        (["build", "../fmow", "--context", "nan"], "context is"),
        (["build", "../fmow", "--context", "wide"], '"wide" is no share'),
        (["build", "nowhere", "--where", "clouds < 3"], "cloud_cover"),  # before anything is read
        (["build", "../fmow", "--split", "test"], 'Unknown split "test" in --split'),
        (["build", "../fmow", "--ray-address", "auto"], "Add: --engine ray"),
        (["build", "nosuch://bucket/x"], "nosuch"),
        (["caption"], "Make it with: satmip-data build SOURCE out/shards"),
        (["validate"], "Make it with: satmip-data build SOURCE out/shards"),
        (["inspect", "elsewhere"], "Make it with: satmip-data build SOURCE elsewhere"),
    ],
)
def test_errors_say_what_to_do(here: Path, arguments: list[str], advice: str) -> None:
    result = run(*arguments, *(["--workers", "1"] if arguments[0] != "inspect" else []))
    assert result.exit_code in (1, 2)
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert advice in " ".join(result.output.split())


def test_other_settings_are_refused_with_the_difference(here: Path) -> None:
    run("build", "../fmow", "--size", "32", "--workers", "1")
    result = run("build", "../fmow", "--size", "64", "--where", "cloud_cover < 50", "--workers", "1")
    assert result.exit_code == 1
    assert "settings.size: 32 before, 64 now" in result.output
    assert "settings.selection.where: '' before, 'cloud_cover < 50' now" in result.output
    assert "Choose another folder" in result.output


def test_a_dry_run_shows_the_plan_and_writes_nothing(here: Path) -> None:
    Path("../fmow/train/airport/airport_0/airport_0_0_rgb.jpg").write_bytes(b"broken")
    result = run("build", "../fmow", "--dry-run", "--split", "train", "--where", "cloud_cover < 55", "--workers", "1")
    assert result.exit_code == 0, result.output
    assert "Left out by --split: 18 samples" in result.output
    assert "Left out by --where:" in result.output
    assert re.search(r"About [\d.,]+ MB of shards in \d:\d\d:\d\d \(measured on \d+ samples\)", result.output)
    assert "airport_0_0_rgb.jpg: image_unreadable" in result.output
    assert not list(here.iterdir())


def test_a_dry_run_shows_times_that_were_read_from_names(here: Path) -> None:
    write_raster(here / "in/S2_20170613T101031_0.tif", np.full((3, 8, 8), 9, np.uint8))
    asked = ("build", "--source", "geotiff", "in", "--dry-run", "--time-pattern", "%Y%m%dT%H%M%S", "--workers", "1")
    assert "S2_20170613T101031_0.tif: 2017-06-13T10:10:31+00:00" in run(*asked).output.replace("\n", "")


def test_retry_rejects_as_typed(here: Path) -> None:
    image = Path("../fmow/val/airport/airport_0/airport_0_0_rgb.jpg")
    data = image.read_bytes()
    image.write_bytes(b"broken")
    assert "image_unreadable" in run("build", "../fmow", "--size", "32", "--workers", "1").output
    image.write_bytes(data)
    assert "Rejects: none" in run("build", "../fmow", "--size", "32", "--workers", "1", "--retry-rejects").output


# --- progress ---


def progress(samples: int, **others: int) -> Progress:
    return Progress(**{"stage": "pack", "done": 1, "total": 4, "samples": samples, "rejects": 0, **others})  # type: ignore[arg-type]


def test_a_rate_counts_what_this_process_did() -> None:
    times = iter([10.0, 12.0, 20.0])
    speeds = Speeds(lambda: next(times))
    assert speeds.rate(progress(500)) == 0  # of a resumed build
    assert speeds.rate(progress(600)) == 50
    assert speeds.rate(progress(1000)) == 50


def test_a_line_says_samples_rate_bytes_and_rejects() -> None:
    assert describe(progress(0), 0.0) == "0 samples"
    line = describe(progress(1200, bytes=45_200_000, rejects=3, saved=1_000_000), 310.4)
    assert line == "1,200 samples, 310/s, 45.2 MB, 1.0 MB not fetched, 3 rejects"


def test_a_bar_is_one_row_a_stage_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    with tracking.progress_bar() as show:
        show(progress(500, stage="index", total=7))  # type: ignore[arg-type]
        show(progress(500))
        show(progress(1234, done=3, total=5))
    out, err = capsys.readouterr()
    assert (out, err.count("index"), err.count("pack")) == ("", 1, 1)
    assert "1/7" in err
    assert "3/5" in err
    assert "1,234 samples" in err


class FakeRun:
    def __init__(self) -> None:
        self.logged: list[dict[str, float]] = []
        self.finished = False

    def log(self, values: dict[str, float]) -> None:
        self.logged.append(values)

    def finish(self) -> None:
        self.finished = True


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> FakeRun:
    module, fake = ModuleType("wandb"), FakeRun()
    module.init = lambda **options: fake  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", module)
    return fake


def test_wandb_is_told_everything(here: Path, wandb: FakeRun) -> None:
    arguments = ["build", "../fmow", "--size", "32", "--samples-per-shard", "10", "--workers", "1", "--wandb", "satmip"]
    assert run(*arguments).exit_code == 0
    assert wandb.finished
    last = wandb.logged[-1]
    assert (last["pack/done"], last["pack/total"], last["pack/samples"], last["pack/rejects"]) == (4, 4, 36, 0)
    assert last["pack/bytes"] == sum(path.stat().st_size for path in here.rglob("*.tar"))
    assert last["pack/samples_per_second"] > 0


def test_wandb_is_finished_after_an_error(wandb: FakeRun) -> None:
    shown: list[Progress] = []

    def fail() -> None:
        with tracking.wandb_run("project", {}, shown.append) as show:
            show(progress(1, saved=7))
            raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        fail()
    assert wandb.finished
    assert shown == [progress(1, saved=7)]
    numbers = {"done": 1, "total": 4, "samples": 1, "rejects": 0, "bytes": 0, "saved": 7, "samples_per_second": 0.0}
    assert wandb.logged == [{f"pack/{name}": value for name, value in numbers.items()}]


def test_a_missing_wandb_is_advice(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    result = run("build", "../fmow", "--wandb", "satmip", "--workers", "1")
    assert result.exit_code == 1
    assert "pip install 'wandb>=" in result.output
    assert not list(here.iterdir())


INTERRUPTED = """
import os, signal, sys, types
_, command, module, when = sys.argv
class Import:
    def find_spec(self, name, path=None, target=None):
        if name == module:
            os.kill(os.getpid(), signal.SIGINT)
if when == "during":
    sys.meta_path.insert(0, Import())
else:
    sys.modules[module] = types.ModuleType(module)
    sys.modules[module].main = lambda: print(repr(signal.getsignal(signal.SIGINT)), os.fsdecode(b"\\xff"), chr(0x444))
signal.signal(signal.SIGINT, signal.SIG_IGN if when == "ignored" else signal.default_int_handler)
from satmip_data import __main__ as data
from satmip_train import __main__ as train
{"satmip-data": data.main, "satmip-train": train.main, "satmip-eval": train.evaluate}[command]()
"""
"""Runs a command that is interrupted while it is imported, or one that only prints what an interrupt would do once it is."""


COMMANDS = [
    ("satmip-data", "satmip_data.cli.commands"),
    ("satmip-train", "satmip_train.cli.train"),
    ("satmip-eval", "satmip_train.cli.evaluate"),
]


@pytest.mark.parametrize(("command", "module"), COMMANDS)
@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_no_sign_ends_a_command_that_prints_it(command: str, module: str, encoding: str) -> None:
    """There are terminals of ASCII alone, and names of files that are no Unicode."""
    words, environment = [sys.executable, "-c", INTERRUPTED, command, module, "after"], {**os.environ, "PYTHONIOENCODING": encoding}
    run = subprocess.run(words, capture_output=True, env=environment, check=True)
    assert run.stdout.split()[-2:] == [rb"\udcff", "\u0444".encode(encoding, "backslashreplace")]


@pytest.mark.parametrize(("command", "module"), COMMANDS)
def test_an_interrupt_before_the_command_line_is_there_shows_no_traceback(command: str, module: str) -> None:
    runs = {
        when: subprocess.run(
            [sys.executable, "-c", INTERRUPTED, command, module, when], capture_output=True, text=True, check=False
        )
        for when in ("during", "after", "ignored")
    }
    assert (runs["during"].returncode, runs["during"].stderr) == (-signal.SIGINT, "")  # a shell calls it 130
    assert "default_int_handler" in runs["after"].stdout
    assert "SIG_IGN" in runs["ignored"].stdout  # as in a job in the background


def interrupted(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def test_an_interrupted_build_ends_as_a_shell_expects_and_says_that_it_goes_on(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once with 1, as after an error."""
    words = ("build", "../fmow", "--size", "32", "--samples-per-shard", "10", "--workers", "1")
    with monkeypatch.context() as patch:
        patch.setattr(Journal, "add", interrupted)
        got = run(*words)
    assert (got.exit_code, got.stderr.splitlines()[-1]) == (
        130, "Interrupted. What is finished is kept: run the same command again to go on.",
    )  # fmt: skip
    assert run(*words).exit_code == 0
    with monkeypatch.context() as patch:
        patch.setattr("satmip_data.pipeline.recaption.recaption_shard", interrupted)
        got = run("caption", "--fields", "gsd", "--workers", "1")
    assert (got.exit_code, "run the same command again" in got.stderr) == (130, True)
    assert run("caption", "--fields", "gsd", "--workers", "1").exit_code == 0


@pytest.mark.parametrize(
    ("words", "function"),
    [
        (("validate",), "satmip_data.validation.validate.validate"),
        (("inspect",), "satmip_data.shards.dataset.read_dataset"),
        (("demo", "world"), "satmip_data.cli.commands.write_demo"),
        (("build", "../fmow", "--dry-run"), "satmip_data.pipeline.build.plan_build"),
    ],
)
def test_an_interrupted_command_that_keeps_nothing_says_no_more(
    here: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], function: str
) -> None:
    monkeypatch.setattr(function, interrupted)
    got = run(*words)
    assert (got.exit_code, got.stderr.strip()) == (130, "Interrupted.")


def test_a_second_interrupt_waits_for_nothing() -> None:
    """Once it was waited for ever for workers whose end had been interrupted."""
    code = """
import os, signal
from satmip_data.cli import commands, display
def interrupted_twice(console):
    try:
        os.kill(os.getpid(), signal.SIGINT)
    finally:
        os.kill(os.getpid(), signal.SIGINT)
        print("waited")
display.show_field_table = interrupted_twice
signal.signal(signal.SIGINT, signal.default_int_handler)
commands.main(["fields"])
"""
    got = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (got.returncode, got.stdout, got.stderr) == (-signal.SIGINT, "", "")


def test_a_command_runs_in_a_thread_that_may_not_answer_signals() -> None:
    with ThreadPoolExecutor(1) as thread:
        assert thread.submit(run, "fields").result().exit_code == 0
