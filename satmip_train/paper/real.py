"""The commands of `reproduce real`: what SatMIP and SatMIPS are worth on real pictures, at a size that a laptop can repeat.

Shards are built, a rate is chosen for each method on the val split, all methods are trained on the same samples and evaluated on
the test split. Splits are blocks of degrees, so few test images lie near a train image. Temporal positives are left out: a `place`
of these sets is a cell of a quarter degree, or a scene, and not one spot on Earth that is seen again.

NOTE[DIFF] None of this is in the paper, which trains on fMoW.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from satmip_train.config import resolve
from satmip_train.data.dataset import Dataset, open_dataset
from satmip_train.errors import UsageError
from satmip_train.files import WEIGHTS, result_path
from satmip_train.paper.fill import identity
from satmip_train.paper.reproduce import Command

TARGET = "real"
RECIPE = "small"
RATES = (0.002, 0.004, 0.008)
"""Values of lr_base of which each method takes the one that is best on val."""
FULL, HALF, QUARTER = 1.0, 0.5, 0.25
"""Budgets: shares of the recipe's epochs."""
WARMUP_SHARE = 1 / 16
LABEL_SHARES = (0.01, 0.1)
_TOLD = ("epochs", "seed", "lr_base", "warmup_epochs")
"""Settings that tell runs apart beside those that tell the paper's rows apart."""
RATE = "RATE"
"""Stands in a printed command for a rate that is not chosen yet."""


@dataclass(frozen=True)
class Method:
    """What is compared."""

    name: str
    title: str
    objective: str
    encoder: str | None = None
    """Metadata encoder; None: it reads no metadata."""
    switches: tuple[str, ...] = ()
    """Further settings that are on."""
    rate_of: str | None = None
    """The method whose rate it takes; None: its own is chosen."""


@dataclass(frozen=True)
class Study:
    """One data set, how it is split, and what is run on it."""

    name: str
    title: str
    table: str
    images: str | None
    """Paths below the folder of the data; images None: they lie beside the table."""
    block_degrees: float
    fields: str
    runs: tuple[tuple[Method, float, bool], ...]
    """Methods with their budgets; whether all seeds are run, or the first alone."""
    view_size: int | None = None
    """None: the recipe's."""


SIMCLR = Method("simclr", "SimCLR", "simclr")
SATMIP = Method("satmip-text", "SatMIP, text", "satmip", "text")
SATMIPS = Method("satmips-text", "SatMIPS, text", "satmips", "text")
TABULAR = Method("satmips-tabular", "SatMIPS, tabular", "satmips", "tabular", rate_of=SATMIPS.name)
SAME_CELL = Method(
    "satmips-text-samecell", "SatMIPS, text, cells of 0.25° no negatives", "satmips", "text", ("mask_same_place",), SATMIPS.name
)
"""Against learning places by heart: images of one cell of a quarter degree (their `place`) are not negatives of each other."""

EUROSAT = Study(
    "eurosat", "EuroSAT with locations", "eurosat/eurosat_locations.csv", "EuroSAT_RGB.zip", 2.0, "loc",
    ((SIMCLR, FULL, True), (SATMIP, FULL, True), (SATMIPS, FULL, True), (TABULAR, FULL, False), (SIMCLR, HALF, False),
     (SATMIPS, HALF, False), (SIMCLR, QUARTER, False), (SATMIPS, QUARTER, False),
     (SAME_CELL, FULL, False)),
)  # fmt: skip
PLANESNET = Study(
    "planesnet", "PlanesNet", "planesnet/planesnet.csv", "planesnet/planesnet.zip", 0.5, "time,loc,sensor_platform",
    ((SIMCLR, FULL, False), (SATMIPS, FULL, False)), view_size=20,
)  # fmt: skip
STUDIES = (EUROSAT, PLANESNET)


@dataclass(frozen=True)
class Request:
    """What the study is made from."""

    data: Path
    """Folder with the raw data."""
    out: Path
    seeds: tuple[int, ...] = (0, 1, 2)
    recipe: str = RECIPE
    train_options: tuple[str, ...] = ()
    eval_options: tuple[str, ...] = ()


@dataclass(frozen=True)
class Group:
    """Runs that differ in their seed alone: a row of a table."""

    study: Study
    method: Method
    budget: float
    epochs: float
    rate: float | None
    """None: not chosen yet."""
    seeds: tuple[int, ...]

    @property
    def name(self) -> str:
        """Name of the folder of its results."""
        return f"{self.method.name}-{self.epochs:g}ep"

    def run(self, out: Path, seed: int) -> Path:
        """Folder of the run of a seed."""
        return run_folder(out, self.study, self.method, self.epochs, self.rate, seed)

    def runs(self, out: Path) -> list[Path]:
        """Folders of the runs."""
        return [self.run(out, seed) for seed in self.seeds]


def run_folder(out: Path, study: Study, method: Method, epochs: float, rate: float | None, seed: int) -> Path:
    """Return the folder of a run; its name says what it is."""
    return out / "runs" / study.name / f"{method.name}-{epochs:g}ep-lr{_spelled(rate)}-seed{seed}"


def _spelled(rate: float | None) -> str:
    return RATE if rate is None else f"{rate:g}"


def shards_of(request: Request, study: Study) -> Path:
    """Return the folder of a study's shards."""
    return request.out / "shards" / study.name


def results_of(request: Request, study: Study, group: str) -> Path:
    """Return the folder of the results of a group of runs, or of the controls."""
    return request.out / "eval" / study.name / group


def check_data(request: Request) -> None:
    """Check that the raw data are there.

    Raises:
        UsageError: a file is missing.
    """
    for study in STUDIES:
        for name in filter(None, (study.table, study.images)):
            if not (request.data / name).is_file():
                raise UsageError(
                    f"{request.data / name} is missing, which `reproduce real` reads. Use --data with a folder that holds "
                    f"{', '.join(name for part in STUDIES for name in (part.table, part.images) if name)} (docs/reproduce.md)"
                )


def epochs_of(request: Request, budget: float) -> float:
    """Return the epochs of a budget: a share of the recipe's."""
    return float(resolve(request.recipe, {}).epochs * budget)


def chosen_rates(request: Request, method: Method) -> dict[float, float | None]:
    """Return top-1 of kNN (k = 5) on val for each rate of a method; None where it is not measured."""
    found: dict[float, float | None] = {}
    for rate in RATES:
        path = _rate_result(request, method, rate)
        try:
            found[rate] = float(json.loads(path.read_text(encoding="utf-8"))["models"][0]["metrics"]["top1"])
        except (OSError, ValueError, KeyError, IndexError):
            found[rate] = None
    return found


def chosen_rate(request: Request, method: Method) -> float | None:
    """Return the rate that is best on val, of equal ones the lowest; None where one is not measured yet."""
    scores = chosen_rates(request, method_named(method.rate_of) if method.rate_of else method)
    known = {rate: score for rate, score in scores.items() if score is not None}
    return max(known, key=lambda rate: (known[rate], -rate)) if len(known) == len(RATES) else None


def method_named(name: str) -> Method:
    """Return a method by its name."""
    return next(method for study in STUDIES for method, _, _ in study.runs if method.name == name)


def groups_of(request: Request, study: Study) -> list[Group]:
    """Return the rows of a study, their rates as far as they are chosen."""
    return [
        Group(study, method, budget, epochs_of(request, budget), chosen_rate(request, method),
              request.seeds if every else request.seeds[:1])
        for method, budget, every in study.runs
    ]  # fmt: skip


def commands(request: Request) -> Iterator[Command]:
    """Give the commands in order. What a later one needs of an earlier one is read when it is asked for, so run each at once.

    Raises:
        UsageError: shards cannot be read.
    """
    for study in STUDIES:
        yield build_command(request, study)
    for method in dict.fromkeys(method for method, _, _ in EUROSAT.runs if method.rate_of is None):
        for rate in RATES:
            yield training(request, EUROSAT, method, epochs_of(request, QUARTER), rate, request.seeds[0])
            yield rate_command(request, method, rate)
    for study in STUDIES:
        for group in groups_of(request, study):
            for seed in group.seeds:
                yield training(request, study, group.method, group.epochs, group.rate, seed)
    for study in STUDIES:
        yield from control_commands(request, study)
        for group in groups_of(request, study):
            yield from evaluations(request, group)


def build_command(request: Request, study: Study) -> Command:
    """Return what builds the shards of a study."""
    out = shards_of(request, study)
    words = ["build", "--source", "table", str(request.data / study.table), str(out), "--block-degrees", f"{study.block_degrees:g}"]
    words += ["--images", str(request.data / study.images)] if study.images else []
    words += ["--shares", "train=60,val=20,test=20", "--fields", study.fields, "--size", "keep", "--samples-per-shard", "256"]
    return Command("satmip-data", tuple(words), out, (), {})


def training(request: Request, study: Study, method: Method, epochs: float, rate: float | None, seed: int) -> Command:
    """Return a training."""
    run = run_folder(request.out, study, method, epochs, rate, seed)
    flags: dict[str, Any] = {"objective": method.objective}
    if method.encoder is not None:
        flags |= {"metadata_encoder": method.encoder, "fields": study.fields}
    if study.view_size is not None:
        flags["view_size"] = study.view_size
    flags |= {"lr_base": _spelled(rate), "epochs": f"{epochs:g}", "warmup_epochs": f"{epochs * WARMUP_SHARE:g}", "seed": seed}
    words = ["--shards", str(shards_of(request, study)), "--recipe", request.recipe]
    for name, value in flags.items():
        words += [f"--{name.replace('_', '-')}", str(value)]
    words += [*(f"--{name.replace('_', '-')}" for name in method.switches), "--out", str(run), *request.train_options]
    settings: dict[str, Any] = {}
    if rate is not None:
        typed = {
            **flags,
            **({"fields": tuple(study.fields.split(","))} if method.encoder else {}),
            **dict.fromkeys(method.switches, True),
        }
        resolved = resolve(request.recipe, typed).model_dump()
        settings = {**identity(resolved), **{name: resolved[name] for name in (*_TOLD, *method.switches)}}
    return Command("satmip-train", tuple(words), run, (), {"train": _read(request, study, "train")}, settings)


def _read(request: Request, study: Study, split: str) -> tuple[str, str]:
    """Return fingerprint and split of a study's shards; no fingerprint where they are not built yet."""
    dataset = _opened(shards_of(request, study))
    return "" if dataset is None else dataset.fingerprint, split


def _opened(path: Path) -> Dataset | None:
    return open_dataset(path) if (path / "dataset.json").is_file() else None


def _rate_result(request: Request, method: Method, rate: float) -> Path:
    run = run_folder(request.out, EUROSAT, method, epochs_of(request, QUARTER), rate, request.seeds[0])
    return result_path(request.out / "eval" / "rates" / run.name, "knn")


def rate_command(request: Request, method: Method, rate: float) -> Command:
    """Return what measures a rate: kNN on val, the only use of that split."""
    run = run_folder(request.out, EUROSAT, method, epochs_of(request, QUARTER), rate, request.seeds[0])
    file = _rate_result(request, method, rate)
    words = ["knn", str(run), *_shards(request, EUROSAT, "val"), "--random-seeds", "", "--k", "5"]
    return _evaluation(request, EUROSAT, words, file, [run], "val")


def _shards(request: Request, study: Study, split: str) -> list[str]:
    return ["--shards", str(shards_of(request, study)), "--test-split", split]


def _evaluation(
    request: Request, study: Study, words: Sequence[str], file: Path, runs: Sequence[Path], split: str, learns: bool = True
) -> Command:
    arguments = (*words, "--out", str(file.parent), *request.eval_options)
    reads = {"test": _read(request, study, split), **({"train": _read(request, study, "train")} if learns else {})}
    return Command("satmip-eval", arguments, file, tuple(run / WEIGHTS for run in runs), reads)


def control_commands(request: Request, study: Study) -> Iterator[Command]:
    """Give what measures the controls: the location alone, raw pixels and random weights."""
    folder = results_of(request, study, "controls")
    where = _shards(request, study, "test")
    yield Command("satmip-eval", ("location", *where, "--out", str(folder)), folder / "location.json", (),
                  {part: _read(request, study, split) for part, split in (("train", "train"), ("test", "test"))})  # fmt: skip
    # The architecture with random weights, at the views of this study's runs.
    views = next(iter(groups_of(request, study)))
    run = views.run(request.out, views.seeds[0])
    seeds = ",".join(map(str, request.seeds))
    for probe, share in [("knn", 1.0), ("linear", 1.0), *(("linear", share) for share in LABEL_SHARES)]:
        few = [] if share == 1.0 else ["--label-share", f"{share:g}"]
        words = [probe, str(run), "--backbone", "pixels", *where, "--random-seeds", seeds, *few]
        yield _evaluation(request, study, words, result_path(folder, probe, share=share), [run], "test")


def evaluations(request: Request, group: Group) -> Iterator[Command]:
    """Give what measures the runs of a group on the test split; few labels and metadata of the full budget alone."""
    study, runs = group.study, group.runs(request.out)
    folder, where = results_of(request, study, group.name), _shards(request, study, "test")
    paths = [str(run) for run in runs]
    whole = group.budget == FULL
    for probe, share in [("knn", 1.0), ("linear", 1.0), *(("linear", share) for share in LABEL_SHARES if whole)]:
        few = [] if share == 1.0 else ["--label-share", f"{share:g}"]
        words = [probe, *paths, *where, "--random-seeds", "", *few]
        yield _evaluation(request, study, words, result_path(folder, probe, share=share), runs, "test")
    if group.method.encoder is None or not whole:
        return
    for modality in ("both", "metadata"):
        words = ["linear", *paths, *where, "--modality", modality, "--random-seeds", ""]
        yield _evaluation(request, study, words, result_path(folder, "linear", modality), runs, "test")
    for split in ("test", "train"):
        words = ["retrieve", *paths, "--shards", str(shards_of(request, study)), "--split", split]
        yield _evaluation(request, study, words, result_path(folder / split, "retrieval"), runs, split, learns=False)
