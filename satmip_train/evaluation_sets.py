"""The sets that the paper evaluates on: its metric, its k, and its counts of each."""

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Literal


@dataclass(frozen=True)
class EvaluationSet:
    """A data set that representations are evaluated on."""

    id: str
    title: str
    metric: Literal["macro_f1", "top1"]
    """Metric that the paper reports on it (section 4.1)."""
    k: int
    """Neighbours of kNN that the paper reports for contrastive models (supplement C)."""
    k_mae: int
    """The same for masked autoencoders."""
    train: int
    """Samples to learn from (Table S1)."""
    test: int
    classes: int
    test_splits: tuple[str, ...]
    """The split that the paper tests on (supplement A), and what stands in for it where shards have none of that name."""
    names: tuple[str, ...]
    """Other names of it."""

    @property
    def heading(self) -> str:
        """The heading of its column."""
        return f"{self.title} {'F1' if self.metric == 'macro_f1' else 'Acc.'}"


@cache
def evaluation_sets() -> dict[str, EvaluationSet]:
    """Return the paper's evaluation sets by id, in its order."""
    entries = tomllib.loads((files("satmip_train") / "evaluation_sets.toml").read_text(encoding="utf-8"))
    return {id: EvaluationSet(id=id, **{**entry, **_tuples(entry)}) for id, entry in entries.items()}


def _tuples(entry: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) for name, value in entry.items() if isinstance(value, list)}


def set_named(name: str) -> EvaluationSet | None:
    """Return the evaluation set of a name, None where the paper has none of that name."""
    plain = name.lower().replace("-", "_")
    return next((s for s in evaluation_sets().values() if plain in (s.id, *s.names)), None)
