"""satmip-train as it is typed."""

import json
import os
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from click.testing import CliRunner
from helpers.toy_shards import write_toy_shards
from helpers.training_runs import TINY

from satmip_train import __main__, objectives
from satmip_train.cli import train
from satmip_train.cli.train import main
from satmip_train.config import Settings
from satmip_train.models.backbones import create_backbone
from satmip_train.objectives.base import Objective
from satmip_train.training.batches import DataPath
from satmip_train.training.dry_run import Estimate

ARGUMENTS = [
    part
    for name, value in {**TINY, "backbone_args": json.dumps(TINY["backbone_args"])}.items()
    for part in (f"--{name.replace('_', '-')}", str(value))
]


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    return write_toy_shards(tmp_path_factory.mktemp("toy") / "shards", {"train": 20}, size=(24, 24))


@pytest.fixture
def call(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    def run(*arguments, code=0):
        result = CliRunner().invoke(main, [str(a) for a in arguments], catch_exceptions=False)
        assert result.exit_code == code, result.output
        return result

    return run


def test_it_trains_as_typed_says_when_it_is_finished_and_exports(call, toy, tmp_path):
    result = call("--shards", toy, *ARGUMENTS, "--max-steps", 2)
    assert "Recipe: tiny (no GPU" in result.output
    run = tmp_path / "out/runs/satmips-seed0"
    assert {p.name for p in run.iterdir()} == {
        "README.md", "backbone.json", "backbone.safetensors", "config.json", "curves.png", "index.html", "last.pt", "log.jsonl",
        "metadata.json", "metadata.safetensors", "projections.json", "projections.safetensors", "summary.json", "timm",
    }  # fmt: skip
    assert "is finished: 2 of 2" in call("--shards", toy, *ARGUMENTS, "--max-steps", 2).output
    (run / "backbone.safetensors").unlink()
    (run / "curves.png").unlink()
    assert "backbone.safetensors" in call("export", run).output
    assert "open_clip_model.safetensors" in call("export", run, "--open-clip").output
    assert "curves.png" in call("curves", run).output
    assert (run / "backbone.safetensors").exists()
    assert (run / "curves.png").exists()


@pytest.mark.parametrize("words", [("out/shards",), ("--fields", "gsd,", "time"), ("--shards", "out/shards", "2")])
def test_a_word_without_an_option_is_told_where_it_belongs(call, words):
    output = " ".join(call(*words, code=2).output.split())
    assert f'"{words[-1]}" belongs to no option' in output
    assert "Did you mean 'export'?" in call("exprt", code=2).output


def test_a_term_of_ones_own_trains_as_the_page_says(call, toy, tmp_path, monkeypatch):
    page = (Path(__file__).parents[3] / "docs/training.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(# mine\.py:.*?)^```$", page, re.MULTILINE | re.DOTALL)
    monkeypatch.setattr(objectives, "TERMS", objectives.TERMS.copy())
    exec(code, {"__name__": "mine"})
    arguments = ("--shards", toy, *ARGUMENTS, "--objective", "small+simclr", "--max-steps", 2, "--log-every", 1)
    call(*arguments)
    lines = [json.loads(line) for line in (tmp_path / "out/runs/simclr+small-seed0/log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 1]
    for line in lines:
        assert line["loss"] == pytest.approx(line["loss_views"] + line["loss_small"])


class Mine(Objective):
    """An objective that is no sum, which learns to give an image the same features as its mirror image."""

    view_sources = ("image",)

    def __init__(self, settings, shape):
        super().__init__(settings)
        self.backbone, self.start = create_backbone(settings), "random"

    def forward(self, batch):
        (view,) = batch["views"]
        one, two = self.encode((view,)), self.encode((view.flip(-1),))
        return {"loss": (one[0] - two[0]).float().square().mean()}

    def chance(self):
        return {"loss": 0.0}


def test_an_objective_that_is_no_sum_trains_under_its_name(call, toy, tmp_path, monkeypatch):
    monkeypatch.setitem(objectives.OBJECTIVES, "mine", Mine)
    arguments = ("--shards", toy, *ARGUMENTS, "--objective", "mine", "--max-steps", 2, "--log-every", 1)
    call(*arguments)
    assert "backbone.safetensors" in call("export", tmp_path / "out/runs/mine-seed0").output


def test_a_value_that_a_setting_once_had_is_taken_with_a_warning(call, tmp_path):
    output = call("--recipe", "tiny", "--attention", "packed", "--print-config").output
    assert output.startswith("Warning: attention")
    assert json.loads(output[output.index("{") :])["attention"] == "auto"
    assert "packed" not in call("-h").output
    call("--recipe", "tiny", "--attention", "pakced", "--print-config", code=2)
    (tmp_path / "old.toml").write_text('extends = "tiny"\nattention = "packed"')
    assert "Warning: attention" in call("--recipe", tmp_path / "old.toml", "--print-config").output


def test_a_dry_run_writes_nothing(call, toy, tmp_path):
    output = call("--shards", toy, *ARGUMENTS, "--dry-run").output
    assert "Peak memory" in output
    assert "samples/s" in output
    assert "Data: resident: the split is" in output
    assert "Data: stream: asked for." in call("--shards", toy, *ARGUMENTS, "--dry-run", "--data", "stream").output
    assert list(tmp_path.iterdir()) == []


def test_the_rate_that_is_told_is_that_of_what_takes_longer():
    def seconds(resident, workers):
        return Estimate(1.0, 1.0, 6.0, 2.0, 1, DataPath(resident, "")).seconds(workers)

    assert [seconds(False, workers) for workers in (0, 1, 2, 3, 4)] == [6, 6, 3, 2, 2]
    assert seconds(True, 1) == 2


def test_every_setting_is_an_option_with_its_description(call):
    words = " ".join(call("-h").output.split())
    for name, field in Settings.model_fields.items():
        assert f"--{name.replace('_', '-')}" in words
        assert field.description
    assert words.index("satmip-train --shards out/shards") < words.index("Run:") < words.index("Objective:")
    assert words.index("Losses:") < words.index("--temperature") < words.index("Views:")
    assert "export" in words


def test_options_win_over_the_recipe(call):
    printed = call(
        "--recipe", "simclr", "--print-config", "--seed", 3,
        "--fields", "gsd, timestamp", "--no-coupled", "--backbone-args", '{"depth": 2}',
    ).stdout  # fmt: skip
    settings = Settings(**json.loads(printed))
    assert (settings.objective, settings.lr_base, settings.seed) == ("simclr", 2e-4, 3)
    assert (settings.fields, settings.coupled, settings.backbone_args) == (("gsd", "timestamp"), False, {"depth": 2})


def test_options_that_nothing_reads_are_named_and_a_recipes_own_are_not(call, toy, tmp_path, monkeypatch):
    monkeypatch.setattr(train, "_show_dry_run", lambda plan, output: None)
    recipe = tmp_path / "mine.toml"
    arguments = ", ".join(f"{name} = {value}" for name, value in TINY["backbone_args"].items())
    lines = [f"{name} = {json.dumps(value)}" for name, value in TINY.items() if name != "backbone_args"]
    recipe.write_text("\n".join([*lines, f"backbone_args = {{ {arguments} }}", "queue_length = 64"]))

    def warned(*words):
        output = call("--shards", toy, "--dry-run", "--recipe", recipe, *words).output
        return [line for line in output.splitlines() if line.startswith("Warning")]

    assert warned("--objective", "simclr", "--temperature", 0.2) == []
    assert warned("--tabular-width", 32, "--text-width", 32, "--no-coupled") == [
        "Warning: --tabular-width has no effect: nothing reads it with --objective satmips and --metadata-encoder text. Leave it "
        "out, or use another objective or metadata encoder."
    ]
    (line,) = warned("--objective", "simclr", "--queue-length", 64, "--fields", "gsd", "--temperature", 0.2)
    assert line.startswith("Warning: --queue-length, --fields has no effect")


def test_arguments_of_a_network_are_not_those_of_another(call, tmp_path):
    def arguments(*words):
        return json.loads(call("--print-config", *words).stdout)["backbone_args"]

    recipe = tmp_path / "mine.toml"
    recipe.write_text('extends = "tiny"\nbackbone = "resnet18"\n')
    assert arguments("--recipe", "simclr") == {"num_heads": 12}
    assert arguments("--recipe", "simclr", "--backbone", "resnet18") == {}
    assert arguments("--recipe", "tiny", "--backbone", "resnet18") == arguments("--recipe", recipe) == {}
    tiny = arguments("--recipe", "tiny")
    assert tiny["depth"] == 4
    assert arguments("--recipe", "tiny", "--backbone", "vit_small_patch16_224") == tiny
    assert arguments("--recipe", "tiny", "--backbone", "resnet18", "--backbone-args", '{"drop_rate": 0.1}') == {"drop_rate": 0.1}
    assert arguments("--recipe", "moco", "--backbone", "vit_small_patch16_224") == {"num_heads": 12}


def test_auto_takes_the_papers_recipe_with_a_gpu(call, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    result = call("--print-config")
    assert "Recipe: satmips" in result.stderr
    assert json.loads(result.stdout)["batch_size"] == 1024
    assert json.loads(call("--print-config", "--device", "cpu").stdout)["batch_size"] == 128


@pytest.mark.parametrize(
    ("code", "arguments", "message"),
    [
        (2, [], "Missing option --shards"),
        (2, ["--recipe", "satmipz"], '"satmipz". Did you mean "satmip'),
        (2, ["--batch-size", "1"], "--batch-size is 1. Use 2 or more."),
        (2, ["--accumulate", "4"], "Use --micro-batch N"),
        (2, ["--report-to", "nowhere"], "--report-to"),
        (2, ["--backbone-args", "{x"], "no JSON"),
        (1, ["--shards", "nowhere"], "There is no folder nowhere"),
        (1, ["--shards", "TOY"], "Use --batch-size 16"),
        (
            2,
            ["--shards", "TOY", "--batch-size", "8", "--metadata-encoder", "tabular", "--fields", "height"],
            'Unknown field "height"',
        ),
        (2, ["--shards", "TOY", "--batch-size", "8", "--objective", "magic"], 'Unknown objective "magic"'),
        (1, ["--shards", "TOY", "--batch-size", "8", "--backbone", "magic"], "timm cannot make --backbone magic"),
        (1, ["--shards", "TOY", "--batch-size", "8", "--backbone-args", '{"num_heads": 5}'], "timm cannot make"),
        (1, ["--shards", "TOY", "--batch-size", "8", "--text-heads", "5"], "Use another --text-heads"),
        (1, ["--shards", "TOY", "--split", "test"], 'Unknown split "test"'),
        (1, ["--shards", "TOY", "--device", "magic"], '--device "magic"'),
        (1, ["--shards", "TOY", "--device", "meta"], '--device "meta" '),
        (1, ["--shards", "TOY", "--device", "hpu"], '--device "hpu" '),
        (1, ["export", "."], "Train first"),
        (1, ["curves", "."], "Train first"),
    ],
)
def test_what_cannot_be_done_is_refused_with_advice(call, toy, code, arguments, message):
    result = call(*[toy if a == "TOY" else a for a in arguments], code=code)
    assert message in " ".join(result.output.split())
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--report-to", "tensorboard,tensorbord"], 'Unknown value "tensorbord" in --report-to. Did you mean "tensorboard"?'),
        (["--batch-size", "1"], "--batch-size is 1. Use 2 or more"),
        (["--lr-start", "1"], "--lr-start 1 is above the peak rate"),
        (["--epochs", "inf"], "--epochs is "),
        (["--seed", str(2**32)], "--seed is 4294967296. Use a number below"),
        (["--cls-token-std", "0"], "--cls-token-std is 0"),
        (["--backbone-args", '{"pretrained": true}'], "--init timm"),
    ],
)
def test_what_is_wrong_with_a_setting_is_said_of_its_option(tmp_path: Path, flags: list[str], message: str) -> None:
    result = CliRunner().invoke(main, ["--shards", str(tmp_path), *flags])
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())


@pytest.mark.parametrize("own", [{}, {"GOMP_SPINCOUNT": "7"}, {"OMP_WAIT_POLICY": "active"}])
def test_threads_wait_briefly_unless_the_user_says_how(monkeypatch, own):
    """Beside one other busy process training fell to a sixth; a library leaves the environment as it is."""
    names = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    for name in names:
        monkeypatch.setenv(name, "")  # so that it is put back
        monkeypatch.delenv(name)
    for name, value in own.items():
        monkeypatch.setenv(name, value)
    seen = {}
    command = SimpleNamespace(main=lambda: seen.update({name: os.environ[name] for name in names if name in os.environ}))
    monkeypatch.setattr("satmip_train.__main__.import_module", lambda _: command)
    __main__.evaluate()
    assert seen == (own or {"GOMP_SPINCOUNT": "10000"})
