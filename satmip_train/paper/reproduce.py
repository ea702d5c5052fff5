"""The commands that fill a table of the paper, in order, and whether each is done."""

import json
import shlex
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from satmip_data.names import without_secrets
from satmip_train.choices import Larger
from satmip_train.config import FREE_SETTINGS
from satmip_train.data.dataset import Dataset, open_dataset
from satmip_train.errors import UsageError
from satmip_train.evaluation_sets import evaluation_sets
from satmip_train.files import CONFIG, RUN_CONFIG, WEIGHTS, result_path, write_atomically
from satmip_train.paper.checks import check_metadata, check_shards, paper_split
from satmip_train.paper.fill import TELLING, Budget, identity
from satmip_train.paper.layout import (
    COST_KINDS,
    FIGURE_3,
    TABLES,
    Column,
    Row,
    TableLayout,
    recipe_settings,
    run_names,
    table_layout,
)
from satmip_train.paper.scores import BUDGET, read_kept

TARGETS = (*TABLES, FIGURE_3)
"""Tables and figures that can be reproduced."""
TINY_EPOCHS = 8
"""Epochs that stand for the paper's 200 under the budget "tiny": 25 of the paper's are then one."""
_WARMUP_SHARE = 1 / 25
"""Largest share of a run that warms up: what the paper's shortest runs have."""
_FREE_OF_TRAINING = {"device", "threads", *FREE_SETTINGS} - {"max_steps"}
_OF_ROWS = {*TELLING, "init", "epochs", "seed", "out"}
"""Options of a training that its row and its seed decide."""
_FREE_OF_EVALUATION = {"device", "workers", "batch_size"}
"""Options that change no result, so that a reproduction may go on with others."""


@dataclass(frozen=True)
class Request:
    """Settings of a reproduction."""

    shards: str
    """The shards to train on."""
    out: Path
    evaluation: dict[str, str]
    """Shard directory of each evaluation set at hand, by id."""
    budget: Budget
    seeds: tuple[int, ...] = (0, 1, 2)
    recipe: str | None = None
    """The recipe of every run, with what its row says; None: that of its row."""
    external: dict[str, str] = field(default_factory=dict)
    """Weight files of others' backbones, by name."""
    hpt: str | None = None
    """Weight file that hierarchical pretraining starts from."""
    train_options: tuple[str, ...] = ()
    """Further options of every satmip-train."""
    eval_options: tuple[str, ...] = ()
    """Further options of every satmip-eval."""
    larger_images: Larger = "keep"
    """Treatment of images larger than a view; the paper keeps their size (supplement A)."""


@dataclass(frozen=True)
class Command:
    """One command, and by what one sees that it is done."""

    program: Literal["satmip-data", "satmip-train", "satmip-eval"]
    arguments: tuple[str, ...]
    output: Path
    """Folder of the run, or file of the result."""
    inputs: tuple[Path, ...]
    """Inputs of the result, which must be older than it."""
    reads: dict[str, tuple[str, str]]
    """Fingerprint of the shards, and split: "train", what is learned from; of an evaluation also "test"."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Identity of a training, with its epochs and seed."""


@dataclass(frozen=True)
class Commands:
    """The commands of a table, and what is left out of it."""

    commands: tuple[Command, ...]
    notes: tuple[str, ...]

    @property
    def epochs(self) -> float:
        """Epochs of all trainings together."""
        return float(sum(command.settings["epochs"] for command in self.commands if command.program == "satmip-train"))


def commands_of(target: str, request: Request) -> Commands:
    """Return the commands that fill a table, trainings of a row before its evaluations; a command is there once.

    Raises:
        UsageError: shards cannot be read, or do not hold what an evaluation of the table reads.
    """
    return _Lister(table_layout(target), request).listed()


class _Lister:
    """Goes through the rows of a table and says what fills them."""

    def __init__(self, layout: TableLayout, request: Request) -> None:
        self._layout, self._request = layout, request
        self._notes: dict[str, None] = {}
        self._opened: dict[str, Dataset] = {}

    def listed(self) -> Commands:
        commands: dict[Path, Command] = {}
        for command in self._commands():
            commands.setdefault(command.output, command)
        return Commands(tuple(commands.values()), tuple(self._notes))

    def _commands(self) -> Iterator[Command]:
        if self._layout.baseline is not None:
            yield from self._trainings(self._layout.baseline, recipe_settings(self._layout.baseline)["epochs"])
        for row in self._layout.rows:
            if row.recipe is not None:
                yield from self._row(row, row.recipe)
            elif row.external is not None:
                yield from self._external(row, row.external)
            elif row.control == "random" and self._modality(row) == "image":
                yield from self._random(row)

    def _modality(self, row: Row) -> str:
        return str(self._layout.cell_of(row, self._layout.columns[0])["modality"])

    def _row(self, row: Row, recipe: str) -> Iterator[Command]:
        if identity(recipe_settings(recipe))["hpt"] and self._request.hpt is None:
            self._notes["Rows with HPT are left out: pass --hpt with SLIP's weight file."] = None
            return
        for epochs in dict.fromkeys(self._layout.cell_of(row, column)["epochs"] for column in self._layout.columns):
            yield from self._trainings(recipe, epochs)
            runs = [self._run(recipe, epochs, seed) for seed in self._request.seeds]
            for cell in self._scores(row, epochs):
                self._check_metadata(cell, recipe)
                yield self._evaluation(cell, runs, f"{run_names()[recipe]}-{epochs:g}ep")

    def _trainings(self, recipe: str, epochs: float) -> Iterator[Command]:
        for seed in self._request.seeds:
            yield self._training(recipe, epochs, seed)

    def _run(self, recipe: str, epochs: float, seed: int) -> Path:
        return self._request.out / "runs" / f"{run_names()[recipe]}-{epochs:g}ep-seed{seed}"

    def _training(self, recipe: str, epochs: float, seed: int) -> Command:
        request, run, own = self._request, self._run(recipe, epochs, seed), identity(recipe_settings(recipe))
        count = request.budget.epochs(epochs)
        base = request.recipe or option_of(request.train_options, "--recipe")
        flags = ["--shards", request.shards, "--recipe", base or recipe]
        flags += _spelled(own) if base else ()
        flags += ["--init", str(request.hpt)] if own["hpt"] else ()
        flags += ["--epochs", f"{count:g}", "--knn-every", "0"]
        if count * _WARMUP_SHARE < 1:
            flags += ["--warmup-epochs", f"{count * _WARMUP_SHARE:g}"]
        flags += ["--seed", str(seed), "--out", str(run), *request.train_options]
        reads = {"train": self._read(flags, "split", "--shards")}
        return Command("satmip-train", tuple(flags), run, (), reads, {**own, "epochs": count, "seed": seed})

    def _read(self, arguments: Sequence[str], split: str, *roots: str) -> tuple[str, str]:
        """Return fingerprint and split of the shards that the first option named among `roots` stands for."""
        root = next(value for name in roots if (value := option_of(arguments, name)) is not None)
        name = option_of(arguments, f"--{split}") or "train"
        self._shards(root).split(name)
        return self._shards(root).fingerprint, name

    def _shards(self, root: str) -> Dataset:
        if root not in self._opened:
            self._opened[root] = open_dataset(root)
        return self._opened[root]

    def _scores(self, row: Row, epochs: float | None = None) -> Iterator[dict[str, Any]]:
        """Give the cells that are measured, of a training at one number of epochs, where their shards are at hand."""
        for column in self._layout.columns:
            cell = self._layout.cell_of(row, column)
            if column.kind in COST_KINDS or cell.get("epochs") != epochs:
                continue
            for dataset in self._sets(cell, column):
                if dataset in self._request.evaluation:
                    yield {**cell, "dataset": dataset}
                else:
                    title = evaluation_sets()[dataset].title
                    self._notes[f"{title} is left out: pass --eval-shards {dataset}=DIR."] = None

    @staticmethod
    def _sets(cell: Mapping[str, Any], column: Column) -> Sequence[str]:
        return column.sets or ((cell["dataset"],) if "dataset" in cell else ())

    def _check_metadata(self, cell: Mapping[str, Any], recipe: str) -> None:
        if cell["modality"] != "image":
            name, fields = cell["dataset"], recipe_settings(recipe)["fields"]
            shards = self._shards(self._request.evaluation[name])
            self._notes |= dict.fromkeys(check_metadata(evaluation_sets()[name], shards, fields))

    def _evaluation(self, cell: Mapping[str, Any], runs: Sequence[Path], name: str) -> Command:
        modality = cell["modality"]
        special = [] if modality == "image" else ["--modality", modality]
        # Metadata alone are measured beside their controls, which rows of the table are.
        seeds = _listed(self._request.seeds) if modality == "metadata" else ""
        arguments = [cell["probe"], *map(str, runs), *special, "--random-seeds", seeds]
        return self._measured(cell, arguments, name, tuple(run / WEIGHTS for run in runs))

    def _measured(self, cell: Mapping[str, Any], arguments: list[str], name: str, inputs: tuple[Path, ...]) -> Command:
        request, dataset = self._request, cell["dataset"]
        folder = request.out / "eval" / name / dataset
        file = result_path(folder, cell["probe"], cell["modality"])
        root, evaluation = request.evaluation[dataset], evaluation_sets()[dataset]
        arguments += ["--shards", root, "--test-split", paper_split(evaluation, self._shards(root)), "--out", str(folder)]
        arguments += ["--larger-images", request.larger_images, *request.eval_options]
        larger = option_of(arguments, "--larger-images") or ""
        self._notes |= dict.fromkeys(check_shards(evaluation, self._shards(root), larger))
        reads = {
            "train": self._read(arguments, "train-split", "--shards"),
            "test": self._read(arguments, "test-split", "--test-shards", "--shards"),
        }
        return Command("satmip-eval", tuple(arguments), file, inputs, reads)

    def _random(self, row: Row) -> Iterator[Command]:
        recipe = self._request.recipe or "simclr"
        for cell in self._scores(row):
            arguments = [cell["probe"], "--backbone", recipe, "--random-seeds", _listed(self._request.seeds)]
            yield self._measured(cell, arguments, "random", ())

    def _external(self, row: Row, name: str) -> Iterator[Command]:
        weights = self._request.external.get(name)
        if weights is None:
            self._notes[f"{row.labels[0]} is left out: pass --external {name}=FILE."] = None
            return
        for cell in self._scores(row):
            arguments = [cell["probe"], "--external", name, "--weights", weights, "--random-seeds", ""]
            yield self._measured(cell, arguments, name.replace("+", "p"), (Path(weights),))


def _spelled(own: Mapping[str, Any]) -> list[str]:
    """Return the options of satmip-train that make any recipe a row's: one for each setting that tells rows apart."""
    words = []
    for name in TELLING:
        option, value = name.replace("_", "-"), own.get(name)
        if isinstance(value, bool):
            words.append(f"--{option}" if value else f"--no-{option}")
        elif value is not None:
            words += [f"--{option}", ",".join(value) if isinstance(value, tuple) else str(value)]
    return words


def _listed(seeds: Sequence[int]) -> str:
    return ",".join(map(str, seeds))


def option_of(arguments: Sequence[str], name: str) -> str | None:
    """Return the value of an option among the words of a command, the last where there are several; None where there is none."""
    found = None
    for word, following in pairwise((*arguments, "")):
        if word == name:
            found = following
        elif word.startswith(f"{name}="):
            found = word.removeprefix(f"{name}=")
    return found


def is_done(command: Command) -> bool:
    """Whether a command has nothing left to do.

    Raises:
        UsageError: the folder of a training holds an exported run of other settings, other first weights or other shards.
    """
    if command.program == "satmip-data":
        return (command.output / "dataset.json").is_file()  # which a build writes last
    return _is_trained(command) if command.program == "satmip-train" else _is_evaluated(command)


def _is_trained(command: Command) -> bool:
    run = command.output
    if not all((run / name).is_file() for name in (CONFIG, WEIGHTS, RUN_CONFIG)):
        return False
    try:
        exported, described = (json.loads((run / name).read_text(encoding="utf-8")) for name in (CONFIG, RUN_CONFIG))
    except ValueError:
        return False  # damaged: the training writes both anew
    settings = exported["settings"]
    own = identity(settings)
    there = {**own, **{name: settings[name] for name in command.settings if name in settings and name not in own}}
    if there != command.settings:
        different = sorted(name for name in {*there, *command.settings} if there.get(name) != command.settings.get(name))
        raise UsageError(f"{run} is not the run that its name says: it has another {', '.join(different)}. Use another --out")
    # Which weights: what a row tells is only whether there are any.
    if (first := option_of(command.arguments, "--init")) is not None and settings["init"] != first:
        raise UsageError(f"{run} started from the weights {settings['init']}, and {first} is asked for. Use another --out")
    learned, wanted = exported["dataset"]["fingerprint"], command.reads["train"][0]
    if learned != wanted:
        raise UsageError(
            f"{run} learned from other shards: their fingerprint is {learned[:12]}, and that of --shards {wanted[:12]}. "
            "Use another --out"
        )
    return bool(exported["step"] == described["last_step"])


def _is_evaluated(command: Command) -> bool:
    if not command.output.is_file():
        return False
    written = command.output.stat().st_mtime
    if any(not path.is_file() or path.stat().st_mtime > written for path in command.inputs):
        return False
    try:
        result = json.loads(command.output.read_text(encoding="utf-8"))
    except ValueError:
        return False  # damaged
    if any((result[part]["fingerprint"], result[part]["split"]) != shards for part, shards in command.reads.items()):
        return False
    if result["settings"].get("larger_images", "resize") != (option_of(command.arguments, "--larger-images") or "resize"):
        return False
    models = result["models"]
    there = {Path(model["run"]) for model in models if model["run"]}
    wanted = {path.parent for path in command.inputs if path.name == WEIGHTS}
    seeds = {str(model["seed"]) for model in models}
    asked = option_of(command.arguments, "--random-seeds") or ""
    return wanted <= there and set(filter(None, asked.split(","))) <= seeds


def keep_request(request: Request) -> None:
    """Write `reproduce.json` into the folder where there is none yet.

    Raises:
        UsageError: as `check_request`.
    """
    check_request(request)
    path = request.out / BUDGET
    if not path.is_file():
        content = json.dumps(_kept(request), indent=1).encode()
        write_atomically(path, lambda file: file.write(content))


def _kept(request: Request) -> dict[str, Any]:
    """Return what is the same for all commands of a reproduction."""
    return {
        "full_epochs": request.budget.full_epochs,
        "shards": without_secrets(request.shards),
        "recipe": request.recipe,
        "train": _binding(request.train_options, _FREE_OF_TRAINING),
        "eval": _binding(request.eval_options, _FREE_OF_EVALUATION),
    }


def _binding(words: Sequence[str], free: Collection[str]) -> str:
    """Return options as they are typed, without those that are free."""
    options: list[list[str]] = []
    for word in words:
        if word.startswith("--") or not options:
            options.append([])
        options[-1].append(word)
    return shlex.join(word for option in options if _name_of(option[0]) not in free for word in option)


def _name_of(word: str) -> str:
    """Return the setting that an option stands for."""
    return word.partition("=")[0].removeprefix("--").removeprefix("no-").replace("-", "_")


def check_request(request: Request) -> None:
    """Check that a folder's `reproduce.json`, where there is one, is of the same reproduction.

    Raises:
        UsageError: the folder holds runs of another budget, other shards, another recipe or other options, or the file is damaged;
            or the options of trainings decide what the rows do.
    """
    if decided := [word for word in request.train_options if word.startswith("--") and _name_of(word) in _OF_ROWS]:
        raise UsageError(f"--train has {', '.join(decided)}, which the rows of the table and --seeds decide. Leave it out")
    now = _kept(request)
    # An older file does not tell the options.
    then = {**now, **(read_kept(request.out) or {})}
    if changed := [name for name in now if now[name] != then[name]]:
        evidence = "; ".join(f'{name} was "{then[name]}" and is now "{now[name]}"' for name in changed)
        raise UsageError(f"{request.out} holds another reproduction: {evidence}. Use another --out, or what it began with")
