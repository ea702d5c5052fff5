"""How well suspects are found: errors of known kinds in a share of the records, several draws of each, beside two baselines."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from satmip_data.metadata.fields import BY_NAME, FIELDS
from satmip_data.metadata.tabular import read_column
from satmip_data.records import Metadata
from satmip_train.evaluation.tables import Result, Table
from satmip_train.joint_space.audit import Judge, Numbers, Pools, Scores, overall, score
from satmip_train.joint_space.contradictions import contradictions
from satmip_train.joint_space.injection import Injected, inject, kinds_of

METHODS = {
    "pictures": "the network: the score of a sample",
    "pictures, this quantity": "the same, where one knows which quantity to look at",
    "isolation forest": "on the tabular features of the fields that the network reads; sees no picture",
    "checks": "physical checks of every field that the records have; see no picture",
    "checks, fields read": "the same, where records have no other fields than the network reads",
    "audit": "pictures and checks of every field: the list that audit prints",
    "audit, fields read": "the same, where records have no other fields than the network reads",
}
"""What ranks the records, and what that is."""
TREES = 200
"""Of an isolation forest."""


@dataclass(frozen=True)
class Draw:
    """What one draw of errors gave: AUROC and precision of each method, and how often the wrong quantity was named."""

    errors: int
    auroc: dict[str, float]
    precision: dict[str, float]
    named: float | None


def measure(
    judges: Sequence[Judge],
    fields: Sequence[str],
    pools: Pools,
    share: float,
    seeds: Iterable[int],
    progress: Callable[[str, int], None] = lambda kind, done: None,
) -> Result:
    """Return for each kind of error that the archive can have how well each method finds it.

    The pools are those of the archive as it is. Only records in memory change.

    Args:
        judges: networks, with the samples that each may judge
        fields: that the networks read
        pools: see `make_pools`
        share: of the records that get an error, in 0..1
        seeds: of the draws
        progress: told of a kind, and of draws done

    Raises:
        ValueError: no two records can have one of the errors.
    """
    bench, seeds = Bench.of(judges, fields, pools), list(seeds)
    kinds: Result = {}
    for kind in kinds_of(fields, list(bench.records.values())):
        draws = list[Draw]()
        for seed in seeds:
            progress(kind, len(draws))
            draws.append(bench.draw(inject(kind, bench.records, bench.places, share, seed), seed))
        kinds[kind] = _summary(draws)
    return {"share": share, "seeds": seeds, "records": len(bench.records), "kinds": kinds, "methods": METHODS}


@dataclass(frozen=True)
class Bench:
    """An archive that was judged once as it is; of each draw only the records with errors are judged anew."""

    judges: tuple[Judge, ...]
    fields: tuple[str, ...]
    pools: Pools
    scores: tuple[Scores, ...]
    records: dict[str, Metadata]
    places: dict[str, str]
    flags: dict[str, tuple[str, ...]]

    @classmethod
    def of(cls, judges: Sequence[Judge], fields: Sequence[str], pools: Pools) -> "Bench":
        """Judge the archive as it is."""
        entries = [entry for judge in judges for entry in judge.entries]
        scores = [score(judge, range(len(judge.entries)), [entry.metadata for entry in judge.entries], pools) for judge in judges]
        return cls(
            tuple(judges),
            tuple(fields),
            pools,
            tuple(scores),
            {entry.key: entry.metadata for entry in entries},
            {entry.key: entry.place for entry in entries},
            {entry.key: entry.flags for entry in entries},
        )

    def draw(self, injected: Injected, seed: int) -> Draw:
        """Return how well the errors of one draw are found."""
        told = {**self.records, **injected.records}
        wrong = np.array([key in injected.records for key in told])
        scores = np.concatenate([self._scores(judge, of, injected) for judge, of in zip(self.judges, self.scores, strict=True)])
        names = self.scores[0].names
        pictures = overall(scores)
        read = [_only(record, self.fields) for record in told.values()]
        checks = np.array([bool(contradictions(record, self.flags[key])) for key, record in told.items()], float)
        fewer = np.array([bool(contradictions(record)) for record in read], float)
        ranked = {
            "pictures": pictures,
            "isolation forest": forest_scores(list(told.values()), self.fields, seed),
            "checks": checks,
            "checks, fields read": fewer,
            "audit": _first(checks, pictures),
            "audit, fields read": _first(fewer, pictures),
        }
        named = None
        if injected.quantity is not None:
            column = names.index(injected.quantity)
            ranked["pictures, this quantity"] = scores[:, column]
            named = float(np.mean(np.where(np.isnan(scores), -np.inf, scores)[wrong, :-1].argmax(axis=1) == column))
        ranked = {name: np.nan_to_num(ranked[name], nan=-np.inf) for name in METHODS if name in ranked}
        found = {name: (auroc(wrong, values), precision_at(wrong, values, int(wrong.sum()))) for name, values in ranked.items()}
        return Draw(int(wrong.sum()), {n: a for n, (a, _) in found.items()}, {n: p for n, (_, p) in found.items()}, named)

    def _scores(self, judge: Judge, scores: Scores, injected: Injected) -> Numbers:
        """Return the scores of a judge's samples, some of which have errors now."""
        rows = [row for row, entry in enumerate(judge.entries) if entry.key in injected.records]
        values = scores.values.copy()
        if rows:
            wrong = [injected.records[judge.entries[row].key] for row in rows]
            values[rows] = score(judge, rows, wrong, self.pools).values
        return values


def _only(record: Metadata, fields: Sequence[str]) -> Metadata:
    """Return what a record says of some fields."""
    return record.replaced(**{field.attribute: None for field in FIELDS if field.name not in fields})


def _first(refuted: Numbers, scores: Numbers) -> Numbers:
    """Return scores that rank refuted records before all others, and equals by score."""
    known = np.nan_to_num(scores, nan=-np.inf)
    order = np.lexsort((known, refuted))
    ranks = np.empty(len(order))
    ranks[order] = np.arange(len(order))
    return ranks


def forest_scores(records: Sequence[Metadata], fields: Sequence[str], seed: int) -> Numbers:
    """Return how far records stand apart from the others by an isolation forest (Liu et al. 2008); higher is more so.

    It sees the tabular columns of the fields: numbers with their median where missing, categories as their frequency. Shape: (N,).
    """
    from sklearn.ensemble import IsolationForest  # late: it takes a second

    columns = [column for name in fields for column in BY_NAME[name].columns]
    numbers = np.stack([_numbers([read_column(record, column) for record in records], column.kind) for column in columns], axis=1)
    forest = IsolationForest(n_estimators=TREES, random_state=seed).fit(numbers)
    return -np.asarray(forest.score_samples(numbers), np.float64)


def _numbers(values: Sequence[Any], kind: str) -> Numbers:
    if kind == "categorical":
        counts: dict[Any, int] = {}
        for value in values:
            counts[value] = counts.get(value, 0) + 1
        return np.array([counts[value] / len(values) for value in values])
    known = [value for value in values if value is not None]
    middle = float(np.median(known)) if known else 0.0
    return np.array([middle if value is None else value for value in values], np.float64)


def auroc(wrong: npt.NDArray[np.bool_], scores: Numbers) -> float:
    """Return how often a wrong record has a higher score than a right one, equals counting half; NaN without either."""
    from scipy.stats import rankdata

    bad, good = int(wrong.sum()), int((~wrong).sum())
    if not bad or not good:
        return float("nan")
    return float((rankdata(scores)[wrong].sum() - bad * (bad + 1) / 2) / (bad * good))


def precision_at(wrong: npt.NDArray[np.bool_], scores: Numbers, count: int) -> float:
    """Return the share of wrong records among the `count` of the highest scores; of equals at its end the expected one."""
    if not count:
        return float("nan")
    last = np.sort(scores)[::-1][count - 1]
    above, equal = scores > last, scores == last
    return float((wrong[above].sum() + (count - above.sum()) * wrong[equal].mean()) / count)


def _summary(draws: Sequence[Draw]) -> Result:
    """Return mean and standard deviation (n - 1; None of one draw) over draws."""

    def over(values: Sequence[float]) -> Result:
        return {"mean": float(np.mean(values)), "std": float(np.std(values, ddof=1)) if len(values) > 1 else None}

    methods = [name for name in METHODS if name in draws[0].auroc]
    named = [draw.named for draw in draws if draw.named is not None]
    return {
        "errors": draws[0].errors,
        "auroc": {name: over([draw.auroc[name] for draw in draws]) for name in methods},
        "precision": {name: over([draw.precision[name] for draw in draws]) for name in methods},
        "named": over(named) if named else None,
    }


def measurement_table(result: Result) -> Table:
    """Return the table of a result of `measure`."""
    rows = []
    for kind, found in result["kinds"].items():
        for number, name in enumerate(found["auroc"]):
            first = f"{kind} ({found['errors']})" if number == 0 else ""
            rows.append((first, name, _spread(found["auroc"][name]), _spread(found["precision"][name])))
        if found["named"] is not None:
            rows.append(("", "names the right quantity", "", _spread(found["named"])))
    share, seeds = f"{100 * result['share']:g} %", len(result["seeds"])
    notes = (
        f"An error in {share} of {result['records']:,} records, their number in brackets; mean ± deviation of {seeds} draws.",
        f"Precision: the share of errors among as many most suspect records. Chance: AUROC 0.5, precision {result['share']:g}.",
        *(f"{name}: {text}." for name, text in result["methods"].items()),
    )
    return Table("Errors found", ("error", "found by", "# AUROC", "# precision"), tuple(rows), (), notes)


def _spread(values: Mapping[str, float | None]) -> str:
    spread = "" if values["std"] is None else f" ± {values['std']:.2f}"
    return f"{values['mean']:.2f}{spread}"
