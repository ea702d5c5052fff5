"""Temperature and regions of stated coverage, fitted on pictures of places that the network has never seen. Pure but for one file.

The held-out places are dealt by a hash of their names: half of them test; of the rest a third give the temperature and the widths
of the kernels, two thirds the regions. So a place has one role, the same in every run.

Regions are split-conformal (Lei et al. 2018, doi:10.1080/01621459.2017.1307116): the score of a picture is the mass of all cells
that are denser than the true one, and the region of a new picture holds the cells whose score is at most the ceil((n + 1) level)-th
smallest of n scores. One picture of each place is scored, as pictures of one place are alike. So a region holds the truth of a
picture of a new place with at least the stated probability, if new places are drawn as the held-out ones were.
"""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from satmip_data.records import Metadata
from satmip_train.errors import UsageError
from satmip_train.files import replace_file
from satmip_train.joint_space import posterior
from satmip_train.joint_space.posterior import Layout, Vectors
from satmip_train.joint_space.quantities import QUANTITIES
from satmip_train.joint_space.spaces import Categories, Indices, Masses, Numbers, Support, Values

LEVELS = (50, 80, 95)
"""Coverage of the regions, percent."""
TEMPERATURES = tuple(float(2**power) for power in np.arange(-2, 2.01, 0.25))
"""Temperatures that are tried, times that of the training."""
WIDTHS = (0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 9.0, 13.0)
"""Widths of a kernel that are tried, in spacings of the cells."""
VERSION = 2

Role = Literal["temperature", "regions", "test"]


@dataclass(frozen=True)
class Coverage:
    """How often regions held the truth of test pictures."""

    pictures: int
    places: int
    share: dict[int, float]
    """Of the pictures by level, each place counting as one: 0 to 1."""
    size: dict[int, float]
    """Median share of the cells that a region takes, by level; 0 to 1."""


@dataclass(frozen=True)
class Calibration:
    """What was fitted."""

    temperature: float
    """By which similarities are divided."""
    widths: dict[str, float]
    """Of the kernel of each quantity, in the unit of its distance."""
    thresholds: dict[str, dict[int, float]] = field(default_factory=dict)
    """Of each quantity by level: how much mass may lie above a cell of the region; infinite where there were too few places."""
    places: dict[str, int] = field(default_factory=dict)
    """Held-out places that the thresholds of a quantity come from."""
    coverage: dict[str, Coverage] = field(default_factory=dict)
    """Measured on the test places."""
    source: dict[str, Any] = field(default_factory=dict)
    """Where the pictures came from, and the fingerprint of what the numbers belong to."""

    @property
    def calibrated(self) -> bool:
        """Whether there are regions of stated coverage."""
        return bool(self.thresholds)


def uncalibrated(temperature: float, supports: dict[str, Support]) -> Calibration:
    """Return what is used without held-out pictures: the temperature of the training, kernels of two cells, no regions."""
    return Calibration(temperature, {name: 2 * support.spacing for name, support in supports.items()})


def role(place: str) -> Role:
    """Return what a held-out place is for."""
    number = int.from_bytes(hashlib.blake2b(place.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")
    return "test" if number % 2 else "temperature" if number // 2 % 3 == 0 else "regions"


def one_of_each(places: Sequence[str], keys: Sequence[str]) -> Indices:
    """Return the number of one picture of each place, chosen by a hash of its key whatever the order."""
    best: dict[str, tuple[bytes, int]] = {}
    for number, (place, key) in enumerate(zip(places, keys, strict=True)):
        mine = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest(), number
        best[place] = min(best.get(place, mine), mine)
    return np.array(sorted(number for _, number in best.values()), np.int64)


def fit_temperature(
    layout: Layout, references: Vectors, pictures: Vectors, truth: Sequence[Metadata], start: float, names: Sequence[str]
) -> Calibration:
    """Return temperature and kernel widths of the smallest mean surprise about the truth: -log of the mass of its cell.

    One temperature serves all quantities; each has its own width. Values that are unknown or lie in no cell do not count.

    Args:
        references: vectors of the layout's records, (N, D)
        pictures: vectors, (B, D)
        truth: records of the pictures
        start: the temperature of the training
        names: the quantities whose surprise is summed for the temperature; the widths of all are fitted
    """
    targets = {name: _Target.of(support, QUANTITIES[name].values(truth)) for name, support in layout.supports.items()}
    shape = len(TEMPERATURES), len(WIDTHS)
    loss = {name: np.zeros(shape) for name in targets}
    for part in posterior.chunks(len(pictures)):
        cosines = posterior.similarities(references, pictures[part])
        for row, factor in enumerate(TEMPERATURES):
            weighed = posterior.weights(cosines, start * factor)
            for name, target in targets.items():
                loss[name][row] += target.surprise(layout.binned(name, weighed), part)
    chosen = int(sum(loss[name].min(axis=1) for name in names if name in loss).argmin()) if targets else 0
    widths = {name: targets[name].widths[int(loss[name][chosen].argmin())] for name in targets}
    return Calibration(start * TEMPERATURES[chosen], widths)


@dataclass(frozen=True)
class _Target:
    """The true cells of pictures, and how much each cell gives to them."""

    index: Indices
    """(B,), -1 where unknown."""
    widths: tuple[float, ...]
    columns: tuple[Masses, ...]
    """For each width what of a cell's mass comes to the true one: (C, B)."""

    @classmethod
    def of(cls, support: Support, values: Values) -> "_Target":
        index = support.index(values)
        flat = isinstance(support.space, Categories) or len(support) == 1
        widths = (0.0,) * len(WIDTHS) if flat else tuple(support.spacing * width for width in WIDTHS)
        return cls(index, widths, tuple(support.smoother(width)[:, index] for width in widths))

    def surprise(self, binned: Masses, part: slice) -> Numbers:
        """Return for each width the sum of -log of the mass of the true cells, over the pictures of a chunk. Shape: (widths,)."""
        known = self.index[part] >= 0
        masses = (np.einsum("bc,cb->b", binned, column[:, part]) for column in self.columns)
        return np.array([-np.log(posterior.with_background(mass[known], binned.shape[1])).sum() for mass in masses], np.float64)


def scores(mass: Masses, index: Indices) -> Numbers:
    """Return the mass that is denser than the truth; infinite where the truth lies in no cell. Shape: (B, C), (B,) -> (B,)."""
    above = posterior.mass_above(mass)
    return np.where(index >= 0, above[np.arange(len(index)), np.maximum(index, 0)], np.inf).astype(np.float64)


def threshold(found: Numbers, level: int) -> float:
    """Return the split-conformal quantile of scores: the ceil((n + 1) level)-th smallest, infinite where there are too few.

    Args:
        level: coverage in percent
    """
    rank = math.ceil((len(found) + 1) * level / 100 - 1e-9)
    return float(np.sort(found)[rank - 1]) if 1 <= rank <= len(found) else math.inf


def coverage(found: Numbers, above: Masses, thresholds: dict[int, float], places: Sequence[str]) -> Coverage:
    """Return how often regions hold the truth.

    Args:
        found: the scores of the pictures, (B,)
        above: `posterior.mass_above` of the same pictures, (B, C)
        places: of the pictures
    """
    _, number, counts = np.unique(np.array(places), return_inverse=True, return_counts=True)
    weight = 1 / counts[number]  # what is promised is a picture of a new place, not one of the places with many pictures
    share = {level: float(np.average(found <= limit, weights=weight)) for level, limit in thresholds.items()}
    size = {level: float(np.median((above <= limit).mean(axis=1))) for level, limit in thresholds.items()}
    return Coverage(len(found), len(set(places)), share, size)


def write(calibration: Calibration, path: Path) -> None:
    """Write a calibration as JSON; infinite thresholds are null.

    Raises:
        OSError: the file cannot be written.
    """
    data = {"version": VERSION, **asdict(calibration)}
    data["thresholds"] = {n: {k: None if math.isinf(v) else v for k, v in t.items()} for n, t in calibration.thresholds.items()}
    text = json.dumps(data, indent=1, allow_nan=False).encode()
    replace_file(path, lambda file: file.write(text))


def read(path: Path) -> Calibration:
    """Read back what `write` wrote.

    Raises:
        UsageError: there is no such file, or it is none of these.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data.pop("version") != VERSION:
            raise ValueError("it was written by another version")
        by_level = {
            name: {int(level): math.inf if limit is None else float(limit) for level, limit in limits.items()}
            for name, limits in data.pop("thresholds").items()
        }
        measured = {
            name: Coverage(
                one["pictures"],
                one["places"],
                {int(k): v for k, v in one["share"].items()},
                {int(k): v for k, v in one["size"].items()},
            )
            for name, one in data.pop("coverage").items()
        }
        return Calibration(**data, thresholds=by_level, coverage=measured)
    except FileNotFoundError as error:
        raise UsageError(f"There is no calibration {path}. Leave --calibration out, or pass a --shards to make one.") from error
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UsageError(f"Cannot read the calibration {path}: {error}. Delete it; it is made again from --shards.") from error
