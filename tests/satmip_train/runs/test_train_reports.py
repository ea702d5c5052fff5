"""What a run tells of itself: table, page, summary, trackers, card, exported metadata encoder."""

import io
import json
import re
import sys
import types
from pathlib import Path

import pytest
import torch
from helpers.browser import look_at
from helpers.toy_shards import write_toy_shards
from helpers.training_runs import TINY
from rich.console import Console

from satmip_train.config import Settings, grouped_settings
from satmip_train.data.dataset import open_dataset
from satmip_train.data.loader import ordered_batches
from satmip_train.distributed import Job
from satmip_train.errors import UsageError
from satmip_train.runs import checkpoint, cost
from satmip_train.runs.cost import Cost, read_cost
from satmip_train.runs.curves import draw_curves
from satmip_train.runs.export import export_run, load_metadata_encoder
from satmip_train.runs.hub import push
from satmip_train.runs.log import keep_lines, read_log
from satmip_train.training import meter
from satmip_train.training.announce import show_run
from satmip_train.training.meter import Clock
from satmip_train.training.plan import describe, plan_run
from satmip_train.training.reporter import Reporter
from satmip_train.training.state import build_state, save
from satmip_train.training.trackers import open_trackers, scalars
from satmip_train.training.train import train

CPU, QUIET = Job(torch.device("cpu")), Console(quiet=True)


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    return open_dataset(write_toy_shards(tmp_path_factory.mktemp("toy"), {"train": 20, "val": 8}, size=(24, 24)))


def settings_of(**changes):
    return Settings(**{**TINY, "objective": "satmips", "epochs": 2, "log_every": 2, **changes})


@pytest.fixture(scope="module")
def run(toy, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    assert train(settings_of(), toy, folder, CPU, QUIET) == 0
    return folder


def test_settings_are_shown_in_groups_with_what_differs_from_the_recipe(toy):
    settings = settings_of(metadata_encoder="tabular", lr_base=0.5)
    plan = plan_run(settings, toy, CPU)
    description = {
        **describe(plan, build_state(plan).objective),
        "data": "stream: asked for",
        "online_knn": "none: knn_every is 0",
    }
    output = io.StringIO()
    show_run(Console(file=output, width=120, markup=False, highlight=False), settings, description, "tiny")
    text = " ".join(output.getvalue().split())
    for heading in grouped_settings():
        assert heading in text
    assert "lr_base 0.5 (not 0.001)" in text
    assert "metadata_encoder tabular (not text)" in text
    assert "objective satmips ·" in text
    assert "text_layers" not in text
    assert "First weights random Parameters" in text
    assert "Chance loss 4.7875 = loss_metadata 2.0794, loss_views 2.7081" in text
    assert max(map(len, output.getvalue().splitlines())) <= 120
    assert '"' not in text


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, ["text_layers", "simclr_weight"]),
        ({"metadata_encoder": "tabular"}, ["tabular_layers", "simclr_weight"]),
        ({"metadata_encoder": "pretrained", "text_model": "some/bert"}, ["text_model some/bert", "simclr_weight"]),
        ({"objective": "simclr"}, []),
        ({"objective": "moco"}, ["queue_length"]),
    ],
)
def test_only_the_settings_of_the_objective_and_the_metadata_encoder_are_shown(toy, changes, expected):
    plan = plan_run(settings_of(), toy, CPU)
    description = {**describe(plan, build_state(plan).objective), "data": "", "online_knn": ""}
    output = io.StringIO()
    show_run(Console(file=output, width=120, markup=False, highlight=False), settings_of(**changes), description, None)
    names = ("text_layers", "text_model some/bert", "tabular_layers", "simclr_weight", "queue_length")
    assert [name for name in names if name in output.getvalue()] == expected


def test_every_setting_stands_in_one_group():
    names = [name for members in grouped_settings().values() for name in members]
    assert names == list(Settings.model_fields)


def test_the_summary_adds_up_sessions(tmp_path):
    session = {"first": 0, "wall_seconds": 10.0, "device_seconds": None, "energy_joules": None, "peak_memory_bytes": 5}
    second = {**session, "first": 1, "wall_seconds": 2.5, "energy_joules": 3.0, "peak_memory_bytes": 9}
    cost.write_summary(tmp_path, session, {"step": 1})
    for seconds in (1.0, 2.5):  # told twice while it goes
        cost.write_summary(tmp_path, {**second, "wall_seconds": seconds}, {"step": 7})
    summary = cost.read_summary(tmp_path)
    assert summary["wall_seconds"] == 12.5
    assert summary["peak_memory_bytes"] == 9
    assert (summary["device_seconds"], summary["energy_joules"], summary["step"]) == (None, None, 7)
    assert len(summary["sessions"]) == 2


def test_a_session_replaces_those_whose_steps_it_takes_anew(tmp_path):
    session = {"wall_seconds": 10.0, "device_seconds": None, "energy_joules": None, "peak_memory_bytes": 5, "ranks": 1}
    for first, steps in ((0, 4), (4, 8), (4, 2), (6, 3)):
        cost.write_summary(tmp_path, {**session, "first": first, "steps": steps}, {"step": first + steps})
    assert [(s["first"], s["steps"]) for s in cost.read_summary(tmp_path)["sessions"]] == [(0, 4), (4, 2), (6, 3)]
    assert read_cost(tmp_path).seconds == 30.0
    cost.write_summary(tmp_path, {**session, "first": 0, "steps": 1}, {"step": 1})
    assert read_cost(tmp_path).seconds == 10.0


def test_sessions_of_an_older_version_began_at_the_first_step(tmp_path):
    old = {"wall_seconds": 10.0, "device_seconds": None, "energy_joules": None, "peak_memory_bytes": 5, "ranks": 1, "steps": 4}
    for first, seconds in ((4, 20.0), (0, 10.0)):
        (tmp_path / "summary.json").write_text(json.dumps({"step": 4, "sessions": [old]}))
        cost.write_summary(tmp_path, {**old, "first": first}, {"step": first + 4})
        assert read_cost(tmp_path).seconds == seconds


def test_a_cost_that_leaves_out_steps_is_not_known(tmp_path):
    session = {"first": 3, "steps": 4, "wall_seconds": 10.0, "device_seconds": None, "energy_joules": None, "peak_memory_bytes": 5}
    assert read_cost(tmp_path) is None  # nothing is told
    cost.write_summary(tmp_path, {**session, "ranks": 1}, {"step": 7})
    assert read_cost(tmp_path) is None


def test_a_cost_is_that_of_all_devices_and_of_every_step(tmp_path):
    session = {"first": 0, "steps": 4, "wall_seconds": 10.0, "device_seconds": None, "energy_joules": 5.0, "peak_memory_bytes": 5}
    cost.write_summary(tmp_path, {**session, "ranks": 2}, {"step": 4})
    cost.write_summary(tmp_path, {**session, "first": 4, "ranks": 8, "peak_memory_bytes": 3}, {"step": 8})
    assert read_cost(tmp_path) == Cost(20.0, 100.0, 5, 10.0)
    cost.write_summary(tmp_path, {**session, "first": 6, "ranks": 2}, {"step": 9})  # one of four steps beside one of six
    assert read_cost(tmp_path) is None
    # Before it was measured.
    (tmp_path / "summary.json").write_text(
        json.dumps({"step": 3, "wall_seconds": 2.0, "sessions": [{"steps": 3, "wall_seconds": 2.0, "ranks": 1}]})
    )
    assert read_cost(tmp_path) == Cost(2.0, 2.0, None, None)


def test_a_session_tells_its_own_steps_and_seconds(monkeypatch):
    now = iter([10.0, 17.5])
    monkeypatch.setattr("satmip_train.training.meter.time.perf_counter", lambda: next(now))
    monkeypatch.setattr("satmip_train.training.meter.resource.getrusage", lambda _: types.SimpleNamespace(ru_maxrss=3))
    monkeypatch.setattr(sys, "platform", "linux")
    assert meter.Meter(CPU, 3).session(7, 1.5) == {
        "first": 3, "steps": 4, "wall_seconds": 7.5, "device_seconds": None, "peak_memory_bytes": 3072, "energy_joules": None,
        "ranks": 1, "device": "cpu",
    }  # fmt: skip
    monkeypatch.setattr(sys, "platform", "darwin")
    assert meter.peak_bytes(CPU) == 3


def test_a_run_sums_up_what_it_took(run):
    summary = cost.read_summary(run)
    assert read_cost(run).seconds == summary["wall_seconds"]
    assert (summary["step"], summary["samples"]) == (4, 32)
    assert summary["measured"]["loss"] == read_log(run)[-1]["loss"]
    assert summary["sessions"][0]["device"] == "cpu"
    assert 0 < summary["wall_seconds"] < 600
    assert summary["peak_memory_bytes"] > 1e7
    assert summary["energy_joules"] is None


def test_energy_is_what_the_gpu_counts(monkeypatch):
    counted = iter([1_000_000, 3_500_000])
    fake = types.SimpleNamespace(
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByUUID=lambda uuid: uuid,
        nvmlDeviceGetTotalEnergyConsumption=lambda handle: next(counted) if handle == "GPU-abc" else None,
        NVMLError=RuntimeError,
    )
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: types.SimpleNamespace(uuid="abc"))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 77)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "H200")
    session = meter.Meter(Job(torch.device("cuda:0")), 0).session(3, 1.5)
    assert (session["energy_joules"], session["device_seconds"], session["peak_memory_bytes"]) == (2500.0, 1.5, 77)
    assert meter.energy_joules(CPU) is None
    counted = iter([1_000_000, None])
    unknown = meter.Meter(Job(torch.device("cuda:0")), 0)
    monkeypatch.setattr(fake, "nvmlInit", lambda: next(iter(())))
    monkeypatch.setattr(fake, "NVMLError", StopIteration)
    assert unknown.session(3, 1.5)["energy_joules"] is None
    late = meter.Meter(Job(torch.device("cuda:0")), 0)
    monkeypatch.setattr(fake, "nvmlInit", lambda: None)
    counted = iter([1_000_000])
    assert late.session(3, 1.5)["energy_joules"] is None
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert meter.energy_joules(Job(torch.device("cuda:0"))) is None
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    counted = iter([1_000_000, 3_500_000])
    monkeypatch.setattr(Job, "mean", lambda self, values: values)  # of two GPUs that used the same
    session = meter.Meter(Job(torch.device("cuda:0"), ranks=2), 0).session(3, 1.5)
    assert (session["energy_joules"], session["ranks"]) == (5000.0, 2)


def test_a_clock_counts_from_the_last_reading_and_tells_waiting_from_work(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("satmip_train.training.meter.time.perf_counter", lambda: now[0])
    clock = Clock(torch.device("cpu"))

    def step(waited, worked):
        clock.waits()
        now[0] += waited
        clock.works()
        now[0] += worked

    step(1.0, 3.0)
    step(2.0, 2.0)
    assert clock.read() == (2, 8.0, 3.0)
    step(0.5, 1.0)
    assert clock.read() == (1, 1.5, 0.5)
    now[0] += 100.0  # an evaluation
    clock.restart()
    step(0.0, 1.0)
    assert clock.read() == (1, 1.0, 0.0)
    assert clock.worked == 7.0


@pytest.mark.parametrize(("milliseconds", "waited"), [(500.0, 1.0), (1500.0, 2.5)])
def test_a_clock_of_a_gpu_has_the_gpus_time_though_no_more_than_passed(monkeypatch, milliseconds, waited):
    now, recorded = iter([10.0, 12.5, 12.5]), []

    def event(enable_timing):
        assert enable_timing
        return types.SimpleNamespace(record=lambda: recorded.append(1), elapsed_time=lambda later: milliseconds)

    monkeypatch.setattr("satmip_train.training.meter.time.perf_counter", lambda: next(now))
    monkeypatch.setattr(torch.cuda, "Event", event)
    clock = Clock(torch.device("cuda"))
    for _ in range(2):
        clock.waits()
        clock.works()
    assert (len(recorded), clock.read(), clock.worked) == (4, (2, 2.5, waited), 2.5 - waited)


def test_the_page_holds_everything_and_loads_nothing(run, tmp_path):
    page = (run / "index.html").read_text()
    assert page.count('role="img"') >= 5
    assert not re.search(r"(src|href)=['\"]?(https?:|//|[a-z]+\.(png|js|css))", page)
    for word in (
        "loss_metadata",
        "temperature",
        "samples a second",
        "waiting for data",
        "peak memory",
        "torch",
        "lr_base",
        "chance",
    ):
        assert word in page
    assert page.count("<table") == page.count("</table>")
    for shown in look_at(run / "index.html", tmp_path).values():
        assert shown["overflow"] <= 0
        assert shown["lines"] >= 5


LINE = {"step": 4, "epoch": 0.5, "lr": 0.1, "loss": 2.0, "chance": {"loss": 3.0}, "knn": {"macro_f1": 0.25, "top1": 0.5}}


def test_numbers_of_a_line_are_named_flat():
    assert scalars(LINE) == {
        "epoch": 0.5, "lr": 0.1, "loss": 2.0, "chance/loss": 3.0, "knn/macro_f1": 0.25, "knn/top1": 0.5
    }  # fmt: skip


@pytest.mark.parametrize("terminal", [False, True])
def test_a_line_is_told_in_words_and_kept_as_it_is(tmp_path, terminal):
    told, closed = [], []
    tracker = types.SimpleNamespace(log=told.append, close=lambda: closed.append(True))
    shown = io.StringIO()
    line = {**LINE, "temperature": 0.07, "samples_per_second": 123.4, "data_wait": 0.25}
    with Reporter(
        tmp_path, Console(file=shown, width=80 if terminal else 30, force_terminal=terminal), 4, 10, [tracker]
    ) as reporter:
        reporter.report(line)
        assert read_log(tmp_path) == told == [line]  # at once
        reporter.report({name: value for name, value in line.items() if name != "knn"})
    words = "epoch 0.50  loss 2.0000 (chance 3.00)  temperature 0.0700  {}lr 1.00e-01  123 samples/s  data wait 25%"
    lines = [words.format(knn) for knn in ("kNN macro-F1 0.2500  ", "")]
    if terminal:
        plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.getvalue())
        assert all(text in plain for text in ("4/10 samples", "5/10 samples  123/s  loss 2.000 (chance 3.00)", "left", "kNN"))
        assert max(map(len, re.split(r"[\r\n]+", plain))) <= 80
        assert shown.getvalue().endswith("\x1b[?25h")  # the cursor is back
    else:
        assert shown.getvalue() == "".join(f"step 5/10  {text}\n" for text in lines)
    assert (closed, reporter._file.closed) == ([True], True)
    with Reporter(tmp_path, Console(quiet=True), 5, 10):
        assert len(read_log(tmp_path)) == 2


def test_a_log_is_read_but_for_a_half_line_and_goes_on_from_a_step(tmp_path):
    assert read_log(tmp_path) == []
    common = {"epoch": 0.5, "lr": 0.1, "samples_per_second": 100.0, "data_wait": 0.25, "chance": {"loss": 3.0}, "loss": 2.0}
    lines = [f"{json.dumps({'step': step, **common})}\n" for step in range(3)]
    (tmp_path / "log.jsonl").write_text("".join(lines) + '{"st')
    assert [line["step"] for line in read_log(tmp_path)] == [0, 1, 2]
    keep_lines(tmp_path, 2)
    assert (tmp_path / "log.jsonl").read_text() == "".join(lines[:2])


@pytest.mark.parametrize(
    "damage",
    [
        lambda line: line[:-1],
        lambda line: line.replace(b'"lr"', b'"ls"'),
        lambda line: line.replace(b'"step": 1', b'"step": "1"'),
        lambda line: line.replace(b"2.5", b"2\xff5"),
        lambda line: b"[" * 5000,
        lambda line: b"7",
    ],
)
def test_a_damaged_line_of_a_log_is_named(tmp_path, damage):
    line = {"epoch": 0.5, "lr": 0.1, "samples_per_second": 100.0, "data_wait": 0.25, "chance": {"loss": 3.0}, "loss": 2.5}
    lines = [json.dumps({"step": step, **line}).encode() for step in range(3)]
    (tmp_path / "log.jsonl").write_bytes(b"\n".join([lines[0], damage(lines[1]), lines[2], b""]))
    for read in (read_log, draw_curves):
        with pytest.raises(UsageError, match=r"log\.jsonl is damaged in line 2.*Delete this line"):
            read(tmp_path)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"7", b"\xff", b'{"step": 1}', b'{"step": 1, "sessions": [{"steps": "1"}]}', b"[" * 5000]
)
def test_a_damaged_summary_is_named(tmp_path, content):
    (tmp_path / "summary.json").write_bytes(content)
    for read in (read_cost, lambda run: cost.write_summary(run, {"first": 0, "steps": 1}, {"step": 1})):
        with pytest.raises(UsageError, match=r"summary\.json is damaged.*Delete it"):
            read(tmp_path)


def test_what_is_drawn_is_the_log(tmp_path, monkeypatch):
    axes = []
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda self, *_, **__: axes.extend(self.axes))
    common = {"samples_per_second": 100.0, "data_wait": 0.25, "chance": {"loss": 3.0}}
    log = [
        {"step": 0, "epoch": 0.5, "lr": 0.1, "loss": 2.0, "temperature": 0.07, **common},
        {"step": 1, "epoch": 1.0, "lr": 0.4, "loss": 1.0, "temperature": 0.06, **common, "knn": {"top1": 0.5}},
        {"step": 2, "epoch": 1.5, "lr": 0.2, "loss": 0.5, "temperature": 0.05, **common},
    ]
    (tmp_path / "log.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in log))
    assert draw_curves(tmp_path) == tmp_path / "curves.png"
    drawn = [{str(line.get_label()): (list(line.get_xdata()), list(line.get_ydata())) for line in axis.lines} for axis in axes]
    epochs = [0.5, 1.0, 1.5]
    assert drawn == [
        {"loss": (epochs, [2.0, 1.0, 0.5]), "loss, chance": ([0, 1], [3.0, 3.0])},
        {"temperature": (epochs, [0.07, 0.06, 0.05]), "lr / its largest": (epochs, [0.25, 1.0, 0.5])},
        {"samples/s": (epochs, [100.0] * 3)},
        {"waiting for data, % of the time": (epochs, [25.0] * 3), "kNN top1, %": ([1.0], [50.0])},
    ]
    assert [axes[2].get_ylim()[0], axes[3].get_ylim()] == [0, (0, 100)]


def test_wandb_gets_the_lines_and_the_same_run_again(toy, tmp_path, monkeypatch):
    started, logged, finished = [], [], []
    fake = types.SimpleNamespace(
        log=lambda values, step: logged.append((step, values["loss"])), finish=lambda: finished.append(True)
    )
    module = types.SimpleNamespace(init=lambda **arguments: started.append(arguments) or fake)
    monkeypatch.setitem(sys.modules, "wandb", module)
    for last in (2, 4):
        train(settings_of(report_to=("wandb",), max_steps=last), toy, tmp_path, CPU, QUIET)
    assert logged == [(line["step"], line["loss"]) for line in read_log(tmp_path)]
    assert [step for step, _ in logged] == [1, 3]
    assert finished == [True, True]
    assert started[0]["id"] == started[1]["id"]
    assert started[0]["config"]["settings"]["objective"] == "satmips"


def test_tensorboard_gets_the_lines(tmp_path):
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator", reason="tensorboard is not installed")
    # The second session goes on from before the last line of the first, which was killed.
    for first, steps in ((0, (1, 2, 3)), (2, (2, 3, 4))):
        (tracker,) = open_trackers(["tensorboard"], tmp_path, {}, first)
        for step in steps:
            tracker.log({**LINE, "step": step})
        tracker.close()
    events = reader.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert events.Scalars("knn/macro_f1")[0].value == 0.25
    assert [event.step for event in events.Scalars("loss")] == [1, 2, 3, 4]


@pytest.mark.parametrize(("name", "module"), [("wandb", "wandb"), ("tensorboard", "torch.utils.tensorboard")])
def test_a_tracker_that_is_not_installed_is_refused_with_advice(name, module, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UsageError, match=f"pip install '{name}>="):
        open_trackers([name], tmp_path, {}, 0)


@pytest.mark.parametrize("encoder", ["text", "tabular"])
def test_the_exported_metadata_encoder_gives_equal_features_and_knows_what_it_reads(toy, tmp_path, encoder):
    plan = plan_run(settings_of(metadata_encoder=encoder), toy, CPU)
    state = build_state(plan)
    save(plan, state, tmp_path)
    export_run(tmp_path)
    loaded, config = load_metadata_encoder(tmp_path)
    keys = state.objective.metadata_encoder.batch_keys
    columns = plan.decoder.numeric, plan.decoder.categorical
    (batch,) = ordered_batches(toy, "val", keys, 8, captions=plan.decoder.captions, columns=columns)
    with torch.no_grad():
        assert torch.equal(loaded(batch), state.objective.metadata_encoder.eval()(batch))
    assert not loaded.training
    assert config["fields"] == ["gsd", "timestamp", "location"]
    if encoder == "text":
        assert config["context"] == plan.shape.context
        assert config["caption_style"] == "key-value"
    else:
        assert [c["name"] for c in config["numeric_columns"]] == [toy.numeric[i].name for i in columns[0]]
        assert len(config["categorical_columns"]) == len(config["cardinalities"])
    assert config["dataset"]["fingerprint"] == toy.fingerprint


def test_a_run_without_metadata_has_no_metadata_encoder(toy, tmp_path):
    plan = plan_run(settings_of(objective="simclr"), toy, CPU)
    save(plan, build_state(plan), tmp_path)
    assert [path.name for path in export_run(tmp_path)] == ["backbone.safetensors", "model.safetensors", "README.md"]
    with pytest.raises(UsageError, match=r"no metadata\.safetensors"):
        load_metadata_encoder(tmp_path)


def test_the_card_says_where_it_comes_from_and_how_to_load_it(run, toy):
    card = (run / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: timm\n")
    for word in (toy.fingerprint, "CC0-1.0", "gsd, timestamp, location", "`metadata.safetensors`", "lr_base | `0.02`"):
        assert word in card
    assert "Not evaluated in training" in card


def test_push_uploads_what_was_exported(run, monkeypatch):
    calls = []

    class Api:
        def create_repo(self, repository, **options):
            assert options == {"repo_type": "model", "exist_ok": True}
            return f"https://hub/{repository}"

        def upload_folder(self, **options):
            calls.append(options)

    huggingface_hub = pytest.importorskip("huggingface_hub")
    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    assert push(run, export_run(run), "me/satmip") == "https://hub/me/satmip"
    assert {Path(call["folder_path"]).relative_to(run): sorted(call["allow_patterns"]) for call in calls} == {
        Path(): [
            "README.md", "backbone.json", "backbone.safetensors", "metadata.json", "metadata.safetensors", "projections.json",
            "projections.safetensors",
        ],
        Path("timm"): ["config.json", "model.safetensors"],
    }  # fmt: skip
    for error in (OSError("no token"), ValueError("no name")):
        monkeypatch.setattr(Api, "upload_folder", lambda self, error=error, **options: (_ for _ in ()).throw(error))
        with pytest.raises(UsageError, match=rf"The hub refused the files: {error}\. Run: hf auth login"):
            push(run, [run / "backbone.safetensors"], "me/satmip")
    monkeypatch.setattr(Api, "upload_folder", lambda self, **options: {}["of ours"])
    with pytest.raises(KeyError, match="of ours"):
        push(run, [run / "backbone.safetensors"], "me/satmip")


def test_a_hub_that_cannot_be_reached_is_told_from_one_that_refuses(run, monkeypatch):
    """Really, at a port of this machine where nobody listens."""
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UsageError, match=r"Cannot reach the hub: .*\. Check the network"):
        push(run, [run / "backbone.safetensors"], "me/satmip")


def test_an_unreachable_hub_is_told_by_any_http_library(run, monkeypatch):
    """As by requests, whose errors are OSErrors: huggingface_hub before 1.0 lets them through."""
    failure = type("ConnectionError", (OSError,), {"__module__": "requests.exceptions"})
    huggingface_hub = pytest.importorskip("huggingface_hub")
    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", lambda *args, **options: (_ for _ in ()).throw(failure("refused")))
    with pytest.raises(UsageError, match="Cannot reach the hub: refused"):
        push(run, [run / "backbone.safetensors"], "me/satmip")


def test_bf16_trains_with_losses_in_float32(toy, tmp_path):
    for precision in ("bf16", "fp32"):
        train(settings_of(precision=precision, lr_base=1e-3, max_steps=2), toy, tmp_path / precision, CPU, QUIET)
    one, two = read_log(tmp_path / "bf16"), read_log(tmp_path / "fp32")
    assert one[0]["loss"] != two[0]["loss"]
    assert one[0]["loss"] == pytest.approx(two[0]["loss"], rel=0.02)
    saved = checkpoint.load(tmp_path / "bf16")
    assert all(value.dtype == torch.float32 for value in saved["model"].values() if value.is_floating_point())
    assert json.loads((tmp_path / "bf16/config.json").read_text())["precision"] == "bf16"


def test_an_unknown_tracker_is_refused():
    with pytest.raises(ValueError, match="report_to"):
        settings_of(report_to=("nowhere",))
