"""Arrows of import go one way."""

import ast
import json
import pickle
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from satmip_data.metadata.tabular import Standardizer
from satmip_data.pipeline import index, pack
from satmip_data.pipeline.settings import BuildSettings
from satmip_data.pipeline.shard_plan import ShardPlan
from satmip_data.sources.base import Item
from satmip_data.sources.fmow.source import Fmow
from satmip_data.storage.store import Store

ROOT = Path(__file__).parents[2]
MODULES = sorted(path for package in ("satmip_data", "satmip_train", "schemas") for path in (ROOT / package).rglob("*.py"))
FLOORS = {
    "satmip_data": (
        "names errors", "storage execution pages", "records", "geometry land imagery", "metadata", "sources shards demo",
        "pipeline validation explorer", "api", "cli",
    ),
    "satmip_train": (
        "errors choices evaluation_sets objective_names policies", "files config distributed", "data", "views", "models",
        "objectives runs", "evaluation paper", "joint_space", "training encoder export", "cli",
    ),
}  # fmt: skip
"""Folders and top modules from the ground up: each imports only what stands below it, or stands in it."""
DOOR = {"names", "errors", "storage", "execution", "pages", "records", "geometry", "land", "imagery", "metadata"}
"""The rooms of `satmip_data` that `satmip_train` may enter."""
PURE = {
    "satmip_data": (
        "records", "names", "geometry", "land", "imagery/jpeg", "imagery/png", "metadata/fields", "metadata/captions",
        "metadata/tabular", "metadata/serialize", "metadata/checks", "metadata/sun", "pages/charts", "pipeline/shard_plan",
        "validation/samples", "explorer/arrays", "explorer/captions", "explorer/columns", "explorer/charts",
    ),
    "satmip_train": ("objectives/losses", "evaluation/probes", "training/optim", "models/heads", "models/weight_decay"),
}  # fmt: skip
OPENS_FILES = {"os", "pathlib", "fsspec", "webdataset", "tarfile", "shutil", "tempfile", "rasterio"}


def imports(path: Path) -> set[str]:
    """Return the dotted names a module imports, at any depth of its code."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are written in full"
            assert node.module is not None
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def test_there_are_modules_to_walk() -> None:
    assert len(MODULES) > 30


def rooms(names: set[str]) -> set[tuple[str, str]]:
    """Return (package, folder or top module) of the imports that are ours."""
    return {(parts[0], parts[1]) for parts in (name.split(".") for name in names) if parts[0] in FLOORS and len(parts) > 1}


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_down(path: Path) -> None:
    package, *inner = path.relative_to(ROOT).with_suffix("").parts
    found = rooms(imports(path))
    if package == "schemas":
        assert not found
        return
    floors = {room: number for number, rooms in enumerate(FLOORS[package]) for room in rooms.split()}
    own = inner[0]
    allowed = {own} | {room for room, number in floors.items() if number < floors.get(own, len(floors))}
    assert {room for name, room in found if name == package and room in floors} <= allowed
    others = {(name, room) for name, room in found if name != package}
    assert others <= ({("satmip_data", room) for room in DOOR} if package == "satmip_train" else set())


def test_every_room_has_a_floor() -> None:
    for package, floors in FLOORS.items():
        paths = [path.relative_to(ROOT / package) for path in MODULES if path.is_relative_to(ROOT / package)]
        inner = {path.parts[0].removesuffix(".py") for path in paths}
        assert inner - {"__init__", "__main__", "recipes"} == {room for rooms in floors for room in rooms.split()}


def test_no_modules_import_in_a_circle() -> None:
    modules = {module_name(path): path for path in MODULES}
    graph = {module: {defining(name, modules) for name in imports(path)} - {module, ""} for module, path in modules.items()}
    while graph:
        leaves = {module for module, names in graph.items() if not names & graph.keys()}
        assert leaves, f"a circle among {sorted(graph)}"
        graph = {module: names for module, names in graph.items() if module not in leaves}


def defining(name: str, modules: dict[str, Path]) -> str:
    """Return the module that an imported name is, or is taken from; "" where it is not ours."""
    if name in modules and modules[name].name != "__init__.py":
        return name
    package = name.rpartition(".")[0]
    return package if package in modules and name not in modules else ""


def module_name(path: Path) -> str:
    """Return the dotted name of a module."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def test_no_test_imports_another() -> None:
    paths = [path for path in (ROOT / "tests").rglob("*.py") if "benchmarks" not in path.parts]
    assert not {(path, name) for path in paths for name in imports(path) if re.search(r"(^|\.)test_", name)}


def test_the_data_side_knows_no_network() -> None:
    offending = {
        (path, name) for path in MODULES if "satmip_train" not in path.parts for name in imports(path)
        if name.split(".")[0] in ("torch", "timm", "open_clip")
    }  # fmt: skip
    assert not offending


def test_command_lines_know_their_options_without_the_networks() -> None:
    """Help and errors come at once: torch and what needs it take seconds to import."""
    code = "import sys, satmip_train.cli.train, satmip_train.cli.evaluate; "
    code += "print({'torch', 'timm', 'sklearn', 'scipy'} & sys.modules.keys())"
    shown = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert shown.stdout == "set()\n"


DISTRIBUTIONS = {
    "PIL": "pillow",
    "open_clip": "open-clip-torch",
    "pynvml": "nvidia-ml-py",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
}
"""Packages by the module in them, where their names differ."""

NOT_NEEDED = {"geopandas", "huggingface_hub", "triton"}
"""Imported only where they are installed; else the command says so, or does without."""


def declared(extras: tuple[str, ...]) -> set[str]:
    """Return the packages that come with an installation that names these extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = [*project["dependencies"], *(line for extra in extras for line in project["optional-dependencies"][extra])]
    return {re.split(r"[^\w.-]", line)[0].lower().replace("_", "-") for line in lines}


@pytest.mark.parametrize(
    ("package", "extras"),
    [
        ("satmip_data", ("fast", "h5", "http", "ray", "wandb")),
        ("satmip_train", ("train", "hf", "nvml", "wandb")),
        ("schemas", ()),
    ],
)
def test_what_is_imported_is_declared(package: str, extras: tuple[str, ...]) -> None:
    modules = [path for path in MODULES if path.relative_to(ROOT).parts[0] == package]
    names = {name.split(".")[0] for path in modules for name in imports(path)} - sys.stdlib_module_names - NOT_NEEDED
    others = {name for name in names if not name.startswith("satmip_")}
    assert not {DISTRIBUTIONS.get(name, name.replace("_", "-")) for name in others} - declared(extras)


def test_every_file_of_the_packages_is_installed() -> None:
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    listed = {package: tools["package-dir"].get(package, package.replace(".", "/")) for package in tools["packages"]}
    taken = {
        path
        for package, folder in listed.items()
        for pattern in ("*.py", *tools["package-data"].get(package, ()))
        for path in (ROOT / folder).glob(pattern)
    }
    kept = {
        path for package in ("satmip_data", "satmip_train", "schemas") for path in (ROOT / package).rglob("*") if path.is_file()
    }
    assert {path for path in kept if path.suffix != ".pyc"} == taken


@pytest.mark.parametrize(("package", "name"), [(package, name) for package, names in PURE.items() for name in names])
def test_pure_modules_open_no_file(package: str, name: str) -> None:
    path = ROOT / package / f"{name}.py"
    offending = {imported for imported in imports(path) if imported.split(".")[0] in OPENS_FILES}
    assert not offending
    calls = [
        node.func.id
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    ]
    assert "open" not in calls
    assert "print" not in calls


def test_importing_does_nothing() -> None:
    code = "import os, signal; os.umask = signal.signal = None; "
    code += "import satmip_data, satmip_data.pipeline.build, satmip_train, satmip_train.config"
    run = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == run.stderr == ""


def test_the_data_side_runs_without_torch() -> None:
    code = (
        "import sys; sys.modules.update(torch=None, timm=None, open_clip=None); import satmip_data.cli.commands; "
        "assert not {m for m in sys.modules if m.split('.')[0] == 'torchvision'}"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


PACKING = pack.pack_shard, pack.PackTask(
    ShardPlan("train/000000.tar", "train", ()), Fmow(), "in", Store("out"), BuildSettings(), Standardizer((), ()), ()
)  # fmt: skip
INDEXING = index._run, index._Task(Fmow(), "in", (Item("a.json", "a.jpg"),), BuildSettings())


@pytest.mark.parametrize("work", [PACKING, INDEXING], ids=["pack", "index"])
def test_a_worker_imports_what_it_needs_and_no_more(work: tuple[object, object], tmp_path: Path) -> None:
    """The process that takes the work up holds none of the libraries that the main process needs for tables, rasters and words."""
    code = "import json, pickle, sys; pickle.load(sys.stdin.buffer); print(json.dumps([*sys.modules]))"
    run = subprocess.run([sys.executable, "-c", code], input=pickle.dumps(work), capture_output=True, check=True)
    found = {name.split(".")[0] for name in json.loads(run.stdout)}
    heavy = {
        "pandas",
        "pyarrow",
        "rasterio",
        "boto3",
        "botocore",
        "s3fs",
        "click",
        "rich",
        "pydantic",
        "ray",
        "wandb",
        "torch",
        "jinja2",
    }
    assert not found & (heavy | {"simplejpeg", "instant_clip_tokenizer"})
    assert {"numpy", "PIL", "pyproj", "satmip_data"} <= found


def test_the_main_module_that_workers_import_again_imports_nothing_of_ours() -> None:
    code = "import signal, sys, satmip_data; before = {*sys.modules}; import satmip_data.__main__; print({*sys.modules} - before)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "{'satmip_data.__main__'}"
    run = subprocess.run([sys.executable, "-m", "satmip_data", "--version"], capture_output=True, text=True, check=True)
    assert "satmip" in run.stdout


@pytest.mark.parametrize(
    ("command", "words"), [("main", "--shards x"), ("evaluate", "knn --shards x"), ("evaluate", "retrieve . --shards x")]
)
def test_without_the_extra_train_the_commands_say_so(command: str, words: str) -> None:
    code = f"import sys; sys.modules['torch'] = None; sys.argv[1:] = {words.split()}; "
    code += f"from satmip_train.__main__ import {command} as run; run()"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert result.stderr.startswith("Error: torch is not installed, which training and evaluation need.")
    assert result.stderr.endswith("pip install -e '.[train]'\n")
