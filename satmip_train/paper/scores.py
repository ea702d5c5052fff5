"""Scores of evaluations and costs of trainings in a folder of runs, each with the file it was read from."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from satmip_train.errors import UsageError
from satmip_train.evaluation_sets import set_named
from satmip_train.files import CONFIG, RUN_CONFIG
from satmip_train.runs.cost import Cost, read_cost

BUDGET = "reproduce.json"
"""Says in the folder of a reproduction how many epochs stand for the paper's 200."""


@dataclass(frozen=True)
class Samples:
    """On what a score was measured."""

    shards: str
    train: int
    test: int
    classes: int


@dataclass(frozen=True)
class Score:
    """The metrics of one model on one evaluation set."""

    file: Path
    run: str | None
    """Folder of the run; None of a control."""
    kind: str
    """"run", or which control: "random", "identity", "pixels"."""
    seed: int
    settings: dict[str, Any]
    """All of a run; of a control those of its architecture."""
    shards: str | None
    """Fingerprint of the shards that the run was trained on."""
    dataset: str
    """Id of the evaluation set."""
    samples: Samples
    probe: Literal["knn", "linear"]
    modality: str
    metrics: dict[str, float]
    by_k: dict[int, dict[str, float]]
    """Metrics of kNN by number of neighbours."""
    modified: float
    """When the file was written, in seconds since 1970."""
    whole: bool = True
    """Whether the run was at its last step."""


@dataclass(frozen=True)
class Training:
    """A finished run and what it cost."""

    folder: Path
    settings: dict[str, Any]
    shards: str | None
    cost: Cost | None

    @property
    def seed(self) -> int:
        """The seed of the run."""
        return int(self.settings["seed"])


def read_scores(root: Path, named: Mapping[str, str] | None = None) -> list[Score]:
    """Return every score of the kNN and linear probes below a folder.

    The evaluation set of a file is that of the nearest folder above it that bears a set's name, else of the shards that `named`
    gives a set to (root -> id), else of the source that the shards were built from. Files of other sets are left out.

    Raises:
        UsageError: a file is not a result of satmip-eval.
    """
    paths = sorted({*root.rglob("knn*.json"), *root.rglob("linear*.json")})
    return [score for path in paths for score in _scores(path, root, named or {})]


def _scores(path: Path, root: Path, named: Mapping[str, str]) -> list[Score]:
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
        dataset = _dataset(path, root, result, named)
        return [] if dataset is None else [_score(path, result, model, dataset) for model in result["models"]]
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(f"{path} is no result of satmip-eval ({_cause(error)}). Evaluate again, or move the file away") from error


def _cause(error: Exception) -> str:
    """Return in words what is wrong with a JSON file."""
    return f"{error} is missing" if isinstance(error, KeyError) else str(error)


def _dataset(path: Path, root: Path, result: dict[str, Any], named: Mapping[str, str]) -> str | None:
    folders = reversed(path.relative_to(root).parts[:-1])
    words = [*folders, named.get(result["test"]["shards"], ""), result["test"].get("source") or ""]
    return next((found.id for word in words if (found := set_named(word)) is not None), None)


def _score(path: Path, result: dict[str, Any], model: dict[str, Any], dataset: str) -> Score:
    by_k = {int(k): values for k, values in (model.get("by_k") or {}).items()}
    return Score(
        file=path,
        run=model["run"],
        kind=model.get("kind") or ("run" if model["run"] else "random"),
        seed=int(model["seed"] or 0),
        settings=model["settings"],
        shards=(model.get("trained") or {}).get("shards"),
        dataset=dataset,
        samples=Samples(result["test"]["shards"], result["train"]["samples"], result["test"]["samples"], result["classes"]),
        probe=result["probe"],
        modality=result.get("modality", "image"),
        metrics=model["metrics"],
        by_k=by_k,
        modified=path.stat().st_mtime,
        whole=model["run"] is None or _is_whole(Path(model["run"]), (model.get("trained") or {}).get("step")),
    )


def _is_whole(run: Path, step: int | None) -> bool:
    """Whether a step is a run's last one, by the `config.json` of its folder; where that does not tell, it is taken to be."""
    if step is None:
        return True
    try:
        plan = json.loads(((run.parent if run.is_file() else run) / RUN_CONFIG).read_text(encoding="utf-8"))
        return bool(step == plan["last_step"])
    except (OSError, KeyError, TypeError, ValueError):
        return True


def read_trainings(root: Path) -> list[Training]:
    """Return every finished run below a folder.

    Raises:
        UsageError: a file that describes a backbone is damaged.
    """
    return [training for path in sorted(root.rglob(CONFIG)) if (training := _training(path)) is not None]


def _training(path: Path) -> Training | None:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        settings, shards, step = config["settings"], config["dataset"]["fingerprint"], config.get("step")
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(f"{path} describes no backbone ({_cause(error)}). Run: satmip-train export {path.parent}") from error
    # Somebody else's backbone has no training of ours.
    if shards is None or not _is_whole(path.parent, step):
        return None
    return Training(path.parent, settings, shards, read_cost(path.parent))


def read_budget(roots: Iterable[Path]) -> float | None:
    """Return how many epochs stand for the paper's 200 in a reproduction; None where no folder says so.

    Raises:
        UsageError: a file that says so is damaged.
    """
    return next((float(kept["full_epochs"]) for root in roots if (kept := read_kept(root)) is not None), None)


def read_kept(root: Path) -> dict[str, Any] | None:
    """Return what `reproduce.json` says; None where there is none.

    Raises:
        UsageError: it is damaged.
    """
    path = root / BUDGET
    if not path.is_file():
        return None
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        return {**kept, "full_epochs": kept["full_epochs"]}
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(
            f"{path} does not say how a reproduction began ({_cause(error)}). Delete it: the same reproduce command writes it anew"
        ) from error
