"""The study on real pictures, on made-up ones: its commands, how a rate is chosen, that it goes on, and what its tables say."""

import json
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from helpers.eval_world import call
from PIL import Image

from satmip_data.cli.commands import main as data_main
from satmip_train.cli import train as train_module
from satmip_train.cli.evaluate import main as eval_main
from satmip_train.cli.real import reproduce_real
from satmip_train.config import Settings, resolve
from satmip_train.errors import UsageError
from satmip_train.paper import real, real_report
from satmip_train.paper.fill import identity
from satmip_train.paper.real import EUROSAT, FULL, PLANESNET, QUARTER, SAME_CELL, SATMIPS, SIMCLR, STUDIES, TABULAR, Request
from satmip_train.paper.reproduce import Command

NETWORK = json.dumps({"channels": [8, 8, 8, 8], "stem_width": 8})
TRAIN = ("--backbone-args", NETWORK, "--batch-size", "8", "--device", "cpu", "--text-width", "16", "--text-heads", "2")
TRAIN += ("--text-layers", "1", "--embed-dim", "8", "--ssl-hidden", "16", "--ssl-dim", "8")


def write_data(root: Path, count: int = 60) -> Path:
    """Write what the study reads: per set a table with locations, and a zip of images whose colour is their class."""
    rng = np.random.default_rng(0)
    for study in STUDIES:
        names = [f"{study.name}/{number}.png" for number in range(count)]
        assert study.images is not None
        (root / study.table).parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(root / study.images, "w") as archive:
            for number, name in enumerate(names):
                colour = (60 + 60 * (number % 3), *rng.integers(40, 200, 2))
                with archive.open(name, "w") as file:
                    Image.new("RGB", (20, 20), tuple(map(int, colour))).save(file, "PNG")
        lon, lat = rng.uniform(0, 20, count), rng.uniform(40, 50, count)
        frame = {"image": names, "category": [f"c{i % 3}" for i in range(count)], "lon": lon, "lat": lat, "gsd": 10.0}
        pd.DataFrame({**frame, "datetime": "2020-01-02T03:04:05Z", "platform": "A"}).to_csv(root / study.table, index=False)
    return root


@pytest.fixture
def request_of(tmp_path: Path) -> Request:
    return Request(write_data(tmp_path / "data"), tmp_path / "out", seeds=(0, 1))


def options_of(command: Command) -> dict[str, Any]:
    """What satmip-train makes of a command, as its own parser reads it."""
    context = train_module.main.make_context("satmip-train", list(command.arguments))
    return {name: value for name, value in context.params.items() if value is not None}


def set_rate(request: Request, method: real.Method, scores: dict[float, float]) -> None:
    for rate, score in scores.items():
        path = real.rate_command(request, method, rate).output
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"models": [{"metrics": {"top1": score}}]}))


def test_a_rate_is_chosen_when_all_are_measured_and_of_equals_the_lowest(request_of: Request) -> None:
    low, middle, high = real.RATES
    assert real.chosen_rate(request_of, SIMCLR) is None
    set_rate(request_of, SIMCLR, {low: 0.5, middle: 0.6})
    assert real.chosen_rate(request_of, SIMCLR) is None
    set_rate(request_of, SIMCLR, {high: 0.6})
    assert real.chosen_rate(request_of, SIMCLR) == middle
    set_rate(request_of, SATMIPS, {low: 0.1, middle: 0.2, high: 0.3})
    assert real.chosen_rate(request_of, TABULAR) == high  # it takes that of SatMIPS with text


def test_every_training_says_what_its_settings_say(request_of: Request) -> None:
    for study, method, epochs in (
        (EUROSAT, SIMCLR, 2.0),
        (EUROSAT, TABULAR, 0.5),
        (EUROSAT, SAME_CELL, 2.0),
        (PLANESNET, SATMIPS, 2.0),
    ):
        command = real.training(request_of, study, method, epochs, 0.004, 3)
        options = options_of(command)
        flags = train_module._flags({name: value for name, value in options.items() if name in Settings.model_fields})
        settings = resolve(options["recipe"], flags).model_dump()
        told = ("epochs", "seed", "lr_base", "warmup_epochs", *method.switches)
        assert {**identity(settings), **{name: settings[name] for name in told}} == command.settings
        assert settings["mask_same_place"] == (method is SAME_CELL)
        assert settings["view_size"] == (study.view_size or resolve("small", {}).view_size)
        assert settings["warmup_epochs"] == epochs / 16
        assert Path(options["out"]) == command.output


def test_test_images_choose_nothing_and_budgets_are_shares_of_the_recipes(request_of: Request) -> None:
    commands = list(real.commands(request_of))
    outputs = [command.output for command in commands]
    assert len(set(outputs)) == len(outputs)
    for command in commands:
        words = command.arguments
        if command.program == "satmip-eval" and "rates" in command.output.parts:
            assert words[words.index("--test-split") + 1] == "val"
        elif command.program == "satmip-eval":
            assert "val" not in words
    assert real.epochs_of(request_of, QUARTER) * 4 == real.epochs_of(request_of, FULL) == resolve("small", {}).epochs


def test_missing_data_and_options_of_the_papers_tables_are_refused(request_of: Request, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"EuroSAT_RGB\.zip"):
        real.check_data(replace(request_of, data=tmp_path / "none"))
    out = ("--out", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    assert "is missing" in call("reproduce", "real", "--data", tmp_path / "empty", *out).output
    assert "--data" in call("reproduce", "real", *out).output
    refused = call("reproduce", "real", "--data", request_of.data, "--budget", "tiny", *out)
    assert refused.exit_code == 2
    assert "--budget" in refused.output
    assert "--shards" in call("reproduce", "2", *out).output
    printed = call("reproduce", "real", "--data", request_of.data, *out)
    assert printed.exit_code == 0, printed.output
    assert printed.output.count("satmip-data build") == len(STUDIES)
    assert not (tmp_path / "out").exists()


def start(command: Command, place: str) -> None:
    """Run a build or a training in this process."""
    if command.output.exists():
        return
    main: click.Command = data_main if command.program == "satmip-data" else train_module.main
    done = CliRunner().invoke(main, list(command.arguments), catch_exceptions=False)
    assert done.exit_code == 0, done.output


def test_it_runs_to_its_tables_and_goes_on(
    request_of: Request, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    study = replace(EUROSAT, runs=((SIMCLR, FULL, False), (SATMIPS, FULL, False)), view_size=16)
    monkeypatch.setattr(real, "STUDIES", (study,))
    monkeypatch.setattr(real, "EUROSAT", study)
    monkeypatch.setattr(real_report, "EUROSAT", study)
    monkeypatch.setattr(real, "RATES", (0.002,))
    monkeypatch.setattr(real_report, "RATES", (0.002,))
    request = replace(request_of, seeds=(0,), train_options=TRAIN, eval_options=("--workers", "0", "--device", "cpu"))
    reproduce_real(request, True, start, eval_main)
    capsys.readouterr()
    markdown = (request.out / "real.md").read_text()
    assert "location alone" in markdown
    found = json.loads((request.out / "real.json").read_text())
    scores = next(table for table in found["tables"] if "features of images" in table["title"])
    rows = {row["name"]: row["cells"] for row in scores["rows"]}
    for name in ("raw pixels, 32 x 32", "random weights", "SimCLR", "SatMIPS, text"):
        for cell in rows[name]:
            result = json.loads(Path(cell["file"]).read_text())
            assert cell["mean"] in [100 * model["metrics"][metric] for model in result["models"] for metric in ("top1", "macro_f1")]
    run = rows["SatMIPS, text"][0]["runs"][0]
    assert found["runs"][run]["settings"]["objective"] == "satmips"
    assert found["runs"][run]["versions"]["torch"]
    # Nothing is done again, and one number that is measured again is the same.
    cell = Path(rows["SimCLR"][0]["file"])
    before, others = (
        json.loads(cell.read_text())["models"],
        {p: p.stat().st_mtime_ns for p in request.out.rglob("*.json") if p != cell},
    )
    cell.unlink()
    reproduce_real(request, True, start, eval_main)
    assert json.loads(cell.read_text())["models"] == before
    written = {path for path, time in others.items() if path.stat().st_mtime_ns != time}
    assert {path.name for path in written} == {"real.json"}


def test_a_cell_of_several_seeds_is_mean_and_deviation() -> None:
    assert real_report.Cell((50.0, 60.0)).text == "55.0 ± 7.1"
    assert real_report.Cell((1234.4,), digits=0).text == "1,234"
    assert real_report.Cell(()).text == ""
