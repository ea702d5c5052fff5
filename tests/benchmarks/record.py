"""What must not change while the code is rebuilt: builds, captions, runs, evaluations and tables, as the command lines make them.

    python tests/benchmarks/record.py inputs INPUTS             # once: small archives, and the demo's world
    python tests/benchmarks/record.py run INPUTS RECORD         # everything that is recorded, 3 to 10 minutes on one core
    python tests/benchmarks/record.py keep INPUTS OLD           # once, by the old code: shards, half-done builds and runs, tables
    python tests/benchmarks/record.py go-on OLD RECORD          # what this code makes of them: it goes on with them
    python tests/benchmarks/record.py compare BEFORE AFTER      # prints what differs; exit status 1 where something does

Works through the commands beside this interpreter (`satmip-data`, `satmip-train`, `satmip-eval`) and the files that they write, so
that it runs on old and new code alike; take two records with one INPUTS folder, whose path stands in what is built. Tensors are
recorded by their names, those of an optimizer by the names of their parameters; what was renamed since is in `RENAMED`, written by
hand, and nothing is matched by its position. Not recorded: messages, pages, cards, times, versions.
"""

import argparse
import hashlib
import json
import os
import re
import runpy
import shlex
import shutil
import sys
import tarfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

RENAMED = {
    True: {r"^ssl_head\.": "moco.head.", r"^key_backbone\.": "moco.key_backbone.", r"^key_head\.": "moco.key_head.",
           r"^queue\.": "moco.queue."},
    False: {r"^ssl_head\.": "simclr.head."},
}  # fmt: skip
"""Names of tensors, of runs with MoCo and without: regular expression of the old name, and the new one instead."""

DELIBERATE = {
    "schema version 2": r"(build|caption).* dataset\.json > (schema_version|image|files|sha256):",
    "new settings, at what was done before": r"^\S+ added .*\b(metadata_weight|moco_weight|shuffle_metadata):",
    "the verdict on JPEGs is one decoder's": r"^(old/)?(build|caption|half).* dataset\.json > decoder > (otherwise|verdict):",
    "the projections beside an export": r"^(old/)?run/\S+ added +projections\.safetensors:",
    "the hash of an export": r"^(old/)?run/\S+ added +[\w-]+\.json > sha256:",
    "another demo world": r"^demo ",
    "a row of table S4": r"^commands/s4 length|^table/s4/\w+ added .*s4,SatMIP,",
}
"""What was changed since on purpose, as the changelog says: what it is, and a regular expression of the lines that show it."""

SMALL = {"img_size": 32, "patch_size": 16, "embed_dim": 32, "depth": 2, "num_heads": 2}
TRAIN = [
    "--recipe", "tiny", "--backbone-args", json.dumps(SMALL), "--view-size", "32", "--text-layers", "1", "--text-width", "32",
    "--text-heads", "4", "--tabular-layers", "1", "--tabular-width", "16", "--tabular-heads", "2", "--embed-dim", "24",
    "--ssl-hidden", "40", "--ssl-dim", "20", "--batch-size", "16", "--epochs", "4", "--warmup-epochs", "1", "--geo-clusters", "5",
    "--queue-length", "48", "--knn-every", "1", "--knn-samples", "40", "--log-every", "1", "--checkpoint-every", "5", "--workers",
    "0", "--device", "cpu", "--threads", "1",
]  # fmt: skip
OBJECTIVES = (
    "simclr", "satmip", "satmips", "simclr-geo", "simclr-tp", "simclr-geo-tp", "moco", "moco-geo", "moco-tp", "moco-geo-tp",
)  # fmt: skip
STEPS = 12
RUNS = {
    **{name: f"--objective {name}" for name in OBJECTIVES},
    "tabular": "--objective satmip --metadata-encoder tabular --fields all --tabular-final-norm --projection-bias --seed 3",
    "tabular-satmips": "--objective satmips --metadata-encoder tabular --simclr-weight 0.5 --metadata-mask 0.3 --wd-policy timm",
    "decoupled": "--objective satmips --no-coupled --text-pool end --text-attend-padding --no-trim-tokens --policy crop",
    "siglip": "--objective satmips --metadata-loss siglip --mask-same-place --micro-batch 8 --fields gsd,loc --metadata-mask 0.5",
    "same-place": "--objective simclr-geo-tp --mask-same-place --negatives cross --geo-input features --geo-space sphere "
    "--geo-weight 0.3",
    "moco-place": "--objective moco-geo-tp --mask-same-place --geo-input features --key-momentum 0.9 --policy moco-v2 --seed 1",
    "sgd": "--objective simclr --optimizer sgd --sgd-momentum 0.8 --data resident --negatives cross --jitter 0.5 --temperature 0.2",
    "stream": "--objective satmips --data stream --workers 1 --shuffle-shards 2 --grad-checkpointing --split val --batch-size 8",
    "bf16": "--objective satmips --precision bf16 --residual autocast --loss-gather slip --cls-token-std 0.02",
}
"""Runs of 12 steps by name: every objective, and what else a run can be."""
RESUMED = (*OBJECTIVES, "tabular", "tabular-satmips", "siglip", "moco-place", "sgd")
HALF = 6
"""Steps after which the old code leaves the runs that the new code goes on with."""

BUILDS = {
    "fmow": "fmow --size 32 --samples-per-shard 20",
    "fmow-all": "fmow --size 40 --context fmow --fit square --gsd ground --boxes all --flagged drop --fields all --style sentence "
    "--quality 80 --subsampling 4:2:0 --seed 7 --where 'cloud_cover < 40 and year >= 2011' --samples-per-shard 7",
    "forms": "forms --size 24 --false-detections keep --max-rejects 90",
    "xbd": "xbd --source xbd --tile 64 --size keep --val-fraction 0.5",
    "xbd-plain": "xbd --source xbd --tile 100 --size 48 --label none --context 0.1 --max-residual 0.5",
    "geotiff": "rasters --source geotiff --stretch percentile --tile 48 --size keep --time-pattern %Y%m%dT%H%M%S "
    "--shares train=60,val=20,test=20 --split-seed 2 --fields all",
    "stac": "stac/items.json --source stac --tile 48 --size 32 --fields all --style sentence",
    "table": "table/table.csv --source table --size 24 --fields all",
    "imagefolder": "folders --source imagefolder --size keep --shares train=50,val=50 --fields gsd",
    "eurosat": "folders --source eurosat --size keep --shares train=60,test=40 --fields gsd",
    "so2sat": "so2sat --source so2sat --size keep --fields gsd",
    "bigearthnet": "bigearthnet --source bigearthnet --size keep --shares train=60,val=20,test=20 --fields all",
    "bigearthnet-43": "bigearthnet --source bigearthnet --size 64 --nomenclature 43 --stretch percentile:1,99 --fields gsd,loc",
}
"""Builds by name: the source below the inputs, and options. The eight sources, and what else a build can be."""
REAL = {
    "real-xbd": "xbd --source xbd --tile 256 --size 64 --limit 6",
    "real-geotiff": "geotiff --source geotiff --stretch percentile --size 64 --fields all --shares train=60,val=40",
    "real-eurosat": "EuroSAT_RGB.zip --source eurosat --size keep --limit 60 --shares train=60,test=40 --fields gsd",
    "real-bands": "eurosat/EuroSATallBands --source eurosat --size keep --stretch minmax:0,3000 --limit 40 --fields gsd,loc "
    "--shares train=60,test=40",
}
"""The same of the folder that SATMIP_REAL_DATA names, where it does."""
CAPTIONS = {
    "fmow": ("gsd", "time", "loc,time --style sentence", "all", "all --style sentence", "angles,cloud_cover"),
    "geotiff": ("gsd,time,loc --style sentence",),
    "table": ("all --style sentence",),
}
EVALUATIONS = {
    "knn": "knn {runs}/satmips {runs}/moco-geo {runs}/tabular --backbone pixels --random-seeds 0,1 --k 1,3,20 --fixed-k 3 "
    "--per-class",
    "knn-train": "knn {runs}/simclr --random-seeds 0 --train-split val --test-split train --k 1,5 --temperature 0.2 "
    "--precision bf16",
    "linear": "linear {runs}/satmips {runs}/simclr --random-seeds 0 --max-iterations 60",
    "metadata": "linear {runs}/tabular {runs}/satmip --modality metadata --random-seeds 0 --max-iterations 60",
    "both": "linear {runs}/tabular {runs}/satmips --modality both --random-seeds 0 --max-iterations 60",
    "retrieve": "retrieve {runs}/satmip {runs}/satmips {runs}/tabular {runs}/siglip --split val",
    "finetune": "finetune {runs}/satmips --backbone tiny --epochs 2 --batch-size 16 --random-seeds 0",
}
TABLES = ("2", "3", "4", "5", "6", "s4", "s5", "s6", "s8", "figure3")
SETS = ("resisc45", "optimal31", "ucmerced", "fgsc23", "eurosat", "so2sat")

UNRECORDED = re.compile(
    r"(^|\.)(software|versions|version|seconds|[a-z_]*_seconds|samples_per_second|data_wait|device|machine|torch|threads|"
    r"peak_memory_bytes|energy_joules|written|timm|command)(\.|$)"
)
"""What of JSON files depends on the machine, its load or the versions."""


class CommandError(Exception):
    """A command that should have done its work did not; the message holds what it said."""


def warm_up() -> None:
    """Import what commands import of others, once: each command then runs in a fork of this process. Nothing of satmip's."""
    for name in (
        "torch",
        "timm",
        "open_clip",
        "torchvision.transforms.v2",
        "pandas",
        "pyarrow.parquet",
        "rasterio",
        "pyproj",
        "shapely",
    ):
        try:
            __import__(name)
        except ImportError:
            print(f"{name} is not installed", file=sys.stderr)


def call(words: str | list[str], where: Path, status: int = 0) -> str:
    """Run a command in a process of its own, in the folder `where`, and return what it printed."""
    arguments = shlex.split(words) if isinstance(words, str) else [str(word) for word in words]
    where.mkdir(parents=True, exist_ok=True)
    said = where / ".said"
    child = os.fork()
    if child == 0:
        _become(arguments, where, said)
    found = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    text = said.read_text(encoding="utf-8", errors="replace")
    said.unlink()
    if found != status:
        raise CommandError(f"{shlex.join(arguments)}\nended with {found}:\n{text[-3000:]}")
    return text


def _become(arguments: list[str], where: Path, said: Path) -> None:
    code = 1
    try:
        handle = os.open(said, os.O_CREAT | os.O_TRUNC | os.O_WRONLY)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        os.chdir(where)
        script = Path(sys.executable).parent / arguments[0]
        sys.argv = [str(script), *arguments[1:]]
        sys.path[0] = str(script.parent)
        try:
            runpy.run_path(str(script), run_name="__main__")
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def of_tensor(tensor: Any) -> str:
    """Return type, shape and hash of a tensor's bytes."""
    import torch

    flat = tensor.detach().contiguous().cpu()
    data = flat.reshape(-1).view(torch.uint8).numpy().tobytes() if flat.numel() else b""
    return f"{str(flat.dtype).removeprefix('torch.')} {list(flat.shape)} {sha256(data)}"


def of_json(value: Any, path: str = "") -> Any:
    """Return a JSON value without what is not recorded."""
    if isinstance(value, dict):
        return {
            str(key): of_json(inner, f"{path}.{key}")
            for key, inner in value.items()
            if not UNRECORDED.search(f"{path}.{key}".lstrip("."))
        }
    return [of_json(inner, path) for inner in value] if isinstance(value, list) else value


def of_tar(path: Path) -> dict[str, str]:
    """Return the hash of a tar and of each of its members."""
    with tarfile.open(path) as tar:
        members = {entry.name: sha256(tar.extractfile(entry).read()) for entry in tar if entry.isfile()}  # type: ignore[union-attr]
    return {"": sha256(path.read_bytes()), **members}


def of_table(path: Path, without: tuple[str, ...] = ()) -> dict[str, list[str]]:
    """Return the columns of a Parquet file by name, each value as text."""
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    return {name: [_text(value) for value in table[name].to_pylist()] for name in table.column_names if name not in without}


def _text(value: Any) -> str:
    return value.hex() if isinstance(value, bytes) else repr(value)


def of_shards(folder: Path) -> dict[str, Any]:
    """Return what is recorded of a shard directory."""
    found: dict[str, Any] = {str(path.relative_to(folder)): of_tar(path) for path in sorted(folder.rglob("*.tar"))}
    for path in sorted(folder.glob("*/sizes.json")):
        found[str(path.relative_to(folder))] = json.loads(path.read_bytes())
    found["dataset.json"] = of_json(json.loads((folder / "dataset.json").read_bytes()))
    found["index.parquet"] = of_table(folder / "index.parquet")
    found["rejects.parquet"] = of_table(folder / "rejects.parquet", without=("message",))
    return found


def of_run(folder: Path) -> dict[str, Any]:
    """Return what is recorded of a run: its checkpoints with the optimizer's state by name, its log, what it exported."""
    found: dict[str, Any] = {path.name: of_checkpoint(path) for path in sorted(folder.glob("*.pt"))}
    found["log.jsonl"] = [of_json(json.loads(line)) for line in (folder / "log.jsonl").read_text().splitlines()]
    found["summary.json"] = of_json({k: v for k, v in json.loads((folder / "summary.json").read_text()).items() if k != "sessions"})
    for path in sorted(folder.glob("*.safetensors")):
        from safetensors.torch import load_file

        found[path.name] = {name: of_tensor(tensor) for name, tensor in load_file(path).items()}
    for name in ("backbone.json", "backbone-best.json", "metadata.json"):
        if (folder / name).exists():
            found[name] = of_json(json.loads((folder / name).read_text()))
    return found


def of_checkpoint(path: Path) -> dict[str, Any]:
    """Return what is recorded of a checkpoint."""
    import torch

    data = torch.load(path, map_location="cpu", weights_only=True)
    rest = {name: data[name] for name in data if name not in ("model", "optimizer")}
    return {
        "model": {name: of_tensor(tensor) for name, tensor in data["model"].items()},
        "optimizer": of_optimizer(data),
        **of_json(json.loads(json.dumps(rest, default=lambda value: of_tensor(value)))),
    }


def of_optimizer(data: dict[str, Any]) -> dict[str, Any]:
    """Return the state of every parameter and the settings of its group, by the parameter's name.

    Where the state does not tell names, its numbers are those of the parameters that learn, in the order of the model, first those
    that decay. Which these are follows from their names, as in the code; a wrong guess shows in the shapes.
    """
    state, settings = data["optimizer"], data["settings"]
    learning = [name for name in data["model"] if _learns(name)]
    spared = {name for name in learning if _spared(name, data["model"][name], settings["wd_policy"])}
    groups = [[name for name in learning if name not in spared], [name for name in learning if name in spared]]
    found: dict[str, Any] = {}
    for guessed, group in zip(groups, state["param_groups"], strict=True):
        names = group.get("param_names") or guessed
        if len(names) != len(group["params"]):
            raise CommandError(f"{len(group['params'])} parameters in a group of the optimizer, and {len(names)} names: {names}")
        options = {key: value for key, value in group.items() if key not in ("params", "param_names")}
        for name, number in zip(names, group["params"], strict=True):
            own = state["state"].get(number, {})
            for key, value in own.items():
                if key != "step" and value is not None and value.shape != data["model"][name].shape:
                    raise CommandError(f"{name} and its {key} have other shapes")
            found[name] = {**{key: None if value is None else of_tensor(value) for key, value in own.items()}, "options": options}
    return found


BUFFERS = re.compile(
    r"(^|\.)(running_mean|running_var|num_batches_tracked)$|(^|\.)key_(backbone|head)\.|(^|\.)queue\.|(^|\.)centres$|(^|\.)centers$"
)
"""Tensors of a model that do not learn."""


def _learns(name: str) -> bool:
    return not BUFFERS.search(name)


def _spared(name: str, tensor: Any, policy: str) -> bool:
    if policy == "slip":
        return tensor.ndim < 2 or any(word in name for word in ("bias", "ln", "bn"))
    return tensor.ndim < 2 or name.endswith(".bias") or bool(re.search(r"pos_embed$|cls_token$|(cls|cont|cat)_embeddings?\.", name))


def make_inputs(out: Path) -> None:
    """Write the small archives that everything is made from."""
    sys.path.insert(0, str(Path(__file__).parents[2]))
    from tests.data.archives import make
    from tests.data.xbd.make import write_xbd_tree

    call(["satmip-data", "demo", str(out / "fmow"), "--places", "24", "--workers", "1"], out)
    write_xbd_tree(out / "xbd")
    make.write_rasters(out / "rasters")
    make.write_rasters(out / "stac")
    items = [make.stac_item(number, {"href": "a/town_20200102T030405.tif"}) for number in range(2)]
    (out / "stac/items.json").write_text(json.dumps({"type": "FeatureCollection", "features": items}))
    make.write_table_images(out / "table")
    make.table_rows().to_csv(out / "table/table.csv", index=False)
    make.write_class_folders(out / "folders", ("River", "Forest"), 8, suffix="png")
    (out / "folders/Lake").mkdir()
    (out / "folders/Lake/Lake_1.png").write_bytes(b"no image")
    make.write_so2sat(out / "so2sat")
    make.write_bigearthnet(out / "bigearthnet")
    write_forms(out / "forms", Path(make.__file__).parents[1] / "fmow")
    write_masks(out / "masks")


def write_forms(out: Path, records: Path) -> None:
    """Write an fMoW tree of every form of record, each with an image of noise of its size."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for number, path in enumerate(sorted(p for p in records.glob("*.json") if not p.name.endswith(".golden.json"))):
        record = json.loads(path.read_text())
        stem = out / ("train", "val")[number % 2] / "airport" / f"airport_{number}" / f"airport_{number}_0_rgb"
        stem.parent.mkdir(parents=True)
        stem.with_suffix(".json").write_text(json.dumps(record))
        size = int(record["img_width"]), int(record["img_height"])
        if size[0] * size[1] < 10_000_000:
            noise = rng.integers(1, 255, (size[1] // 32 + 1, size[0] // 32 + 1, 3), dtype=np.uint8)
            Image.fromarray(noise).resize(size).save(stem.with_suffix(".jpg"), quality=60)


def write_masks(out: Path) -> None:
    """Write images with masks, for `segment`."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for part, count in (("train", 8), ("test", 4)):
        for name in ("images", "masks"):
            (out / part / name).mkdir(parents=True)
        for number in range(count):
            mask = np.kron(rng.integers(0, 2, (4, 4)), np.ones((8, 8))).astype(np.uint8)
            image = (mask[..., None] * 90 + rng.integers(0, 90, (32, 32, 3))).astype(np.uint8)
            Image.fromarray(image).save(out / part / "images" / f"{number}.png")
            Image.fromarray(mask).save(out / part / "masks" / f"{number}.png")


def command_of_build(inputs: Path, words: str, out: Path) -> list[str]:
    source, *options = shlex.split(words)
    return ["satmip-data", "build", str(inputs / source), str(out), "--workers", "1", *options]


def all_builds(inputs: Path) -> Iterator[tuple[str, Path, str]]:
    yield from ((name, inputs, words) for name, words in BUILDS.items())
    if (real := os.environ.get("SATMIP_REAL_DATA")) is not None:
        yield from ((name, Path(real), words) for name, words in REAL.items())


def record_builds(inputs: Path, work: Path) -> Iterator[tuple[str, Any]]:
    for name, root, words in all_builds(inputs):
        call(command_of_build(root, words, work / name), work)
        call(["satmip-data", "validate", str(work / name), "--workers", "1"], work)
        yield f"build/{name}", of_shards(work / name)
    for name, choices in CAPTIONS.items():
        for number, words in enumerate(choices):
            copy = shutil.copytree(work / name, work / f"{name}-captions-{number}")
            call(["satmip-data", "caption", str(copy), "--workers", "1", "--fields", *shlex.split(words)], work)
            call(["satmip-data", "validate", str(copy), "--workers", "1"], work)
            yield f"caption/{name}/{words}", of_shards(copy)
            shutil.rmtree(copy)


def train(shards: Path, run: Path, words: str, steps: int) -> None:
    options = [*TRAIN, "--max-steps", str(steps), *shlex.split(words)]
    call(["satmip-train", "--shards", str(shards), "--out", str(run), *options], run.parent)


def record_runs(work: Path) -> Iterator[tuple[str, Any]]:
    for name, words in RUNS.items():
        train(work / "fmow", work / "runs" / name, words, STEPS)
        yield f"run/{name}", of_run(work / "runs" / name)


def record_evaluations(inputs: Path, work: Path) -> Iterator[tuple[str, Any]]:
    common = ["--shards", str(work / "fmow"), "--device", "cpu", "--workers", "0"]
    for name, words in EVALUATIONS.items():
        out = work / "eval" / name
        call(["satmip-eval", *shlex.split(words.format(runs=work / "runs")), *common, "--out", str(out)], work)
        yield f"eval/{name}", {path.name: of_json(json.loads(path.read_text())) for path in sorted(out.glob("*.json"))}
    out = work / "eval/segment"
    masks = ["--train", str(inputs / "masks/train"), "--test", str(inputs / "masks/test")]
    segment = ["satmip-eval", "segment", str(work / "runs/satmips"), *masks, "--epochs", "3", "--random-seeds", "0"]
    call([*segment, "--device", "cpu", "--workers", "0", "--out", str(out)], work)
    yield "eval/segment", {path.name: of_json(json.loads(path.read_text())) for path in sorted(out.glob("*.json"))}
    for name, words in {"images": f"--images {inputs / 'folders'}", "shards": f"--shards {work / 'fmow'} --split val"}.items():
        file = work / f"{name}.parquet"
        embed = ["satmip-eval", "embed", str(work / "runs/satmips"), *shlex.split(words), "--device", "cpu", "--workers", "0"]
        call([*embed, "--out", str(file)], work)
        yield f"eval/embed-{name}", of_table(file)


def record_commands(shards: Path, work: Path) -> Iterator[tuple[str, Any]]:
    """Record the settings of every run that fills a table, as its printed command gives them, and those of every recipe."""
    for table in TABLES:
        found = []
        for words in _printed(table, shards, work, "0"):
            if words[0] == "satmip-train":
                settings = json.loads(call([*words, "--print-config"], work))
                found.append(of_json(settings))
        yield f"commands/{table}", sorted(found, key=lambda settings: json.dumps(settings, sort_keys=True))
    recipes = [*OBJECTIVES, "tiny"]
    yield (
        "recipes",
        {name: of_json(json.loads(call(["satmip-train", "--recipe", name, "--print-config"], work))) for name in recipes},
    )


def _printed(table: str, shards: Path, work: Path, seeds: str) -> list[list[str]]:
    """Return the commands that fill a table, as words."""
    hpt = work / "slip.pt"
    work.mkdir(parents=True, exist_ok=True)
    hpt.touch()
    sets = [word for name in SETS for word in ("--eval-shards", f"{name}={shards}")]
    words = ["satmip-eval", "reproduce", table, "--shards", str(shards), *sets, "--seeds", seeds, "--hpt", str(hpt)]
    lines = call([*words, "--out", str(work / "reproduce")], work).splitlines()
    return [shlex.split(line) for line in lines if line.startswith(("satmip-train ", "satmip-eval "))]


def make_tables(shards: Path, out: Path) -> None:
    """Write what the commands of every table would leave, with numbers drawn from their names."""
    fingerprint = json.loads((shards / "dataset.json").read_text())["shards"][0]["sha256"]
    for table in TABLES:
        for words in _printed(table, shards, out, "0,1"):
            words = [word.replace(str(out / "reproduce"), "reproduce") for word in words]
            (_made_run if words[0] == "satmip-train" else _made_result)(words, out, fingerprint)
    (out / "slip.pt").unlink()


def _option(words: list[str], name: str) -> str:
    return words[words.index(name) + 1]


def _drawn(*names: object) -> float:
    return int(sha256("/".join(map(str, names)).encode())[:8], 16) / 2**32


def _made_run(words: list[str], out: Path, fingerprint: str) -> None:
    run = out / _option(words, "--out")
    if (run / "backbone.json").exists():
        return
    run.mkdir(parents=True)
    settings = json.loads(call([*words, "--print-config"], out))
    settings = settings.get("settings", settings)
    described = {"settings": settings, "dataset": {"fingerprint": fingerprint}, "step": 7}
    (run / "backbone.json").write_text(json.dumps(described))
    (run / "config.json").write_text(json.dumps({"last_step": 7}))
    seconds, memory = 100 + 900 * _drawn(run.name, "seconds"), int(2**30 * (1 + _drawn(run.name, "memory")))
    session = {"first": 0, "last": 7, "steps": 7, "ranks": 2, "wall_seconds": seconds}
    cost = {"wall_seconds": seconds, "peak_memory_bytes": memory, "energy_joules": 5 * seconds}
    (run / "summary.json").write_text(json.dumps({"step": 7, "sessions": [session], **cost}))


def _made_result(words: list[str], out: Path, fingerprint: str) -> None:
    folder = out / _option(words, "--out")
    modality = _option(words, "--modality") if "--modality" in words else "image"
    probe, runs = words[1], [word for word in words if word.startswith("reproduce/runs/")]
    folder.mkdir(parents=True, exist_ok=True)
    models = []
    for run in runs:
        settings = json.loads((out / run / "backbone.json").read_text())["settings"]
        models.append(
            {"run": run, "kind": "run", "seed": settings["seed"], "settings": settings, "trained": {"shards": fingerprint}}
        )
    for seed in filter(None, _option(words, "--random-seeds").split(",")):
        for kind in ("random",) if modality != "metadata" else ("random", "identity"):
            encoder = {"metadata": {"metadata_encoder": "tabular"}} if modality == "metadata" else {}
            models.append({"run": None, "kind": kind, "seed": int(seed), "settings": encoder})
    for number, model in enumerate(models):
        name = model["run"] or f"{model['kind']}{model['seed']}"
        model["metrics"] = {metric: _drawn(name, folder, probe, metric, number) for metric in ("macro_f1", "top1", "map")}
        if probe == "knn":
            model["by_k"] = {
                k: {metric: _drawn(name, folder, k, metric) for metric in ("macro_f1", "top1", "map")} for k in (1, 5, 20, 100)
            }
    part = {"shards": "S", "samples": 10, "source": None}
    result = {"probe": probe, "modality": modality, "classes": 3, "train": part, "test": part, "models": models}
    (folder / f"{probe}{'' if modality == 'image' else f'-{modality}'}.json").write_text(json.dumps(result))


def record_tables(old: Path, work: Path) -> Iterator[tuple[str, Any]]:
    """Record the numbers of every table that `make_tables` wrote the results of."""
    for table in TABLES[:-1]:
        for k in ("paper", "best"):
            words = [
                "satmip-eval",
                "table",
                table,
                "--runs",
                "reproduce",
                "--format",
                "csv",
                "--k",
                k,
                "--out",
                str(work / "t.csv"),
            ]
            call(words, old / "tables")
            yield f"table/{table}/{k}", (work / "t.csv").read_text().splitlines()


def record_demo(work: Path) -> Iterator[tuple[str, Any]]:
    call(["satmip-data", "demo", str(work / "world"), "--places", "24", "--workers", "1"], work)
    yield "demo", {str(path.relative_to(work)): sha256(path.read_bytes()) for path in sorted((work / "world").rglob("*.*"))}
    shutil.rmtree(work / "world")


def run(inputs: Path, work: Path, only: str) -> Iterator[tuple[str, Any]]:
    """Record what commands make of the inputs."""
    yield from record_demo(work)
    if "builds" in only:
        yield from record_builds(inputs, work)
    else:
        call(command_of_build(inputs, BUILDS["fmow"], work / "fmow"), work)
    if "runs" in only:
        yield from record_runs(work)
    if "evaluations" in only:
        yield from record_evaluations(inputs, work)
    if "commands" in only:
        yield from record_commands(work / "fmow", work)


def keep(inputs: Path, old: Path) -> None:
    """Keep, by the old code: shards of every source, a build and a rewriting that stopped, runs that stopped, filled tables."""
    for name, words in BUILDS.items():
        call(command_of_build(inputs, words, old / "shards" / name), old)
    call([*command_of_build(inputs, BUILDS["imagefolder"], old / "half-build"), "--max-rejects", "0"],
         old, status=1)  # fmt: skip
    for name in RESUMED:
        train(old / "shards/fmow", old / "runs" / name, RUNS[name], HALF)
    make_tables(old / "shards/fmow", old / "tables")


def go_on(old: Path, work: Path, inputs: Path, only: str) -> Iterator[tuple[str, Any]]:
    """Go on with what was kept, in a copy: runs, tables, builds and captions."""
    for name in RESUMED if "runs" in only else ():
        copy = shutil.copytree(old / "runs" / name, work / "runs" / name)
        train(old / "shards/fmow", copy, RUNS[name], STEPS)
        yield f"old/run/{name}", of_run(copy)
    if "tables" in only:
        yield from record_tables(old, work)
    if "builds" in only:
        half = shutil.copytree(old / "half-build", work / "half-build")
        call(command_of_build(inputs, BUILDS["imagefolder"], half), work)
        yield "old/half-build", of_shards(half)
    for name, words in BUILDS.items() if "builds" in only else ():
        shards = shutil.copytree(old / "shards" / name, work / "shards" / name)
        call(["satmip-data", "validate", str(shards), "--workers", "1"], work)
        call(["satmip-data", "inspect", str(shards)], work)
        call(command_of_build(inputs, words, shards), work)  # it is finished, and stays as it is
        yield f"old/build/{name}", of_shards(shards)
        call(["satmip-data", "caption", str(shards), "--workers", "1", "--fields", "gsd,loc", "--style", "sentence"], work)
        call(["satmip-data", "validate", str(shards), "--workers", "1"], work)
        yield f"old/caption/{name}", of_shards(shards)


def renamed(value: Any, moco: bool = False) -> Any:
    """Return a record with the names of today: what old code wrote, and a file of it that new code has left as it is."""
    if isinstance(value, dict):
        moco = moco or "queue.keys" in value.get("model", {})
        return {_new_name(key, moco): renamed(inner, moco) for key, inner in value.items()}
    return [renamed(inner, moco) for inner in value] if isinstance(value, list) else value


def _new_name(name: str, moco: bool) -> str:
    for pattern, replacement in RENAMED[moco].items():
        name = re.sub(pattern, replacement, name)
    return name


def differences(before: Any, after: Any, path: str = "") -> Iterator[str]:
    """Yield one line for every leaf in which two records differ."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key in [*before, *(key for key in after if key not in before)]:
            where = f"{path} > {key}" if path else str(key)
            if key not in before:
                yield f"added    {where}: {_short(after[key])}"
            elif key not in after:
                yield f"missing  {where}: {_short(before[key])}"
            else:
                yield from differences(before[key], after[key], where)
    elif isinstance(before, list) and isinstance(after, list) and all(isinstance(line, str) for line in (*before, *after)):
        if Counter(before) == Counter(after) and before != after:
            yield f"order    {path}"
        yield from (f"missing  {path}: {_short(line)}" for line in (Counter(before) - Counter(after)).elements())
        yield from (f"added    {path}: {_short(line)}" for line in (Counter(after) - Counter(before)).elements())
    elif isinstance(before, list) and isinstance(after, list):
        if len(before) != len(after):
            yield f"length   {path}: {len(before)} -> {len(after)}"
        for number, (old, new) in enumerate(zip(before, after, strict=False)):
            yield from differences(old, new, f"{path} > {number}")
    elif before != after and not (before != before and after != after):
        yield f"changed  {path}: {_short(before)} -> {_short(after)}"


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) < 120 else f"{text[:120]}..."


def compare(before: Path, after: Path, shown: int) -> int:
    """Print what differs, by part of the record, and how much was changed on purpose; return 1 where something else differs."""
    old, new = ({path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")} for folder in (before, after))
    meant, parts = Counter[str](), 0
    for name in sorted(old):
        part = name.replace("|", "/")
        lines = list(differences(renamed(old[name]), renamed(new[name]))) if name in new else ["missing  as a whole"]
        reasons = [next((why for why, pattern in DELIBERATE.items() if re.search(pattern, f"{part} {line}")), "") for line in lines]
        meant.update(filter(None, reasons))
        lines = [line for line, why in zip(lines, reasons, strict=True) if not why]
        parts += bool(lines)
        if lines:
            print(f"{part}: {len(lines)} differences")
            print("".join(f"    {line}\n" for line in lines[:shown]), end="")
    for why, count in meant.items():
        print(f"on purpose: {why}: {count} differences")
    print(f"{len(old)} parts compared, {parts} differ")
    return int(parts > 0)


def write(parts: Callable[[Path], Iterator[tuple[str, Any]]], out: Path) -> None:
    """Write each part of a record to a file of its own as soon as it is there. What commands make is below `out`/work."""
    out.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(out / "work", ignore_errors=True)
    for name, content in parts(out / "work"):
        print(name, flush=True)
        text = json.dumps(content, indent=1, ensure_ascii=False).replace(str(out / "work"), "WORK")
        (out / f"{name.replace('/', '|')}.json").write_text(text)


def main() -> int:
    """Read the command line and do what it says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["inputs", "run", "keep", "go-on", "compare"])
    parser.add_argument("folders", nargs="+", type=lambda text: Path(text).absolute())
    parser.add_argument("--inputs", type=lambda text: Path(text).absolute(), help="go-on: the archives that OLD was built from")
    parser.add_argument("--only", default="builds,runs,evaluations,commands,tables", help="which parts, of these")
    parser.add_argument("--shown", type=int, default=12, help="differences shown of a part of the record")
    options = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "NO_COLOR": "1", "COLUMNS": "400"}
    one, *two = options.folders
    if options.what == "compare":
        return compare(one, two[0], options.shown)
    warm_up()
    if options.what == "inputs":
        make_inputs(one)
    elif options.what == "keep":
        keep(one, two[0])
    elif options.what == "run":
        write(lambda work: run(one, work, options.only), two[0])
    else:
        write(lambda work: go_on(one, work, options.inputs, options.only), two[0])
    return 0


if __name__ == "__main__":
    sys.exit(main())
