"""Where, when and how a picture was taken: densities, regions of stated coverage, and the nearest reference records."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from satmip_data.records import Metadata
from satmip_train.data.dataset import Dataset, open_dataset
from satmip_train.errors import UsageError
from satmip_train.evaluation.metadata_features import Running
from satmip_train.files import METADATA_WEIGHTS, RUN_CONFIG, WEIGHTS
from satmip_train.joint_space import calibration as calibrating
from satmip_train.joint_space import posterior, references
from satmip_train.joint_space.calibration import Calibration, role
from satmip_train.joint_space.description import Description
from satmip_train.joint_space.posterior import Layout, Vectors
from satmip_train.joint_space.quantities import QUANTITIES, Quantity, with_values
from satmip_train.joint_space.references import Collection, Joint
from satmip_train.joint_space.spaces import EARTH_KM, Categories, Circle, Logarithm, Masses, Sphere, Support

NEAREST = 8
"""Reference records that an answer names."""
MOST_CHANGED = 20_000
"""References that are encoded anew where some of their values are given."""
CONTEXTS = 6
"""Reference records over which the grid of the sphere sums out what is not the location."""
MOST_PICTURES = 2_000
"""Held-out pictures of a role that calibrate or test."""

Span = tuple[float, float]


@dataclass(frozen=True)
class Density:
    """The distribution of one quantity."""

    name: str
    support: Support
    mass: Masses
    """Of each cell, (C,); they sum to 1."""
    above: Masses
    """The mass of denser cells, (C,), see `posterior.mass_above`."""
    best: Any
    """The value from which the mass lies least far on average; of categories the likeliest."""
    thresholds: Mapping[int, float]
    """By level, see `Calibration.thresholds`; none where regions are not calibrated."""

    @property
    def quantity(self) -> Quantity:
        """What it is a distribution of."""
        return QUANTITIES[self.name]

    def region(self, level: int) -> npt.NDArray[np.bool_]:
        """Return which cells are in the region of a coverage, percent. Shape: (C,)."""
        return np.asarray(self.above <= self.thresholds[level])

    def share(self, level: int) -> float:
        """Return which share of the cells a region takes, 0 to 1."""
        return float(self.region(level).mean())

    def area(self, level: int) -> float:
        """Return the square kilometres of a region on the sphere."""
        return float(self.region(level).sum()) * self.support.spacing**2

    def words(self, level: int) -> list[str]:
        """Return the categories of a region, the likeliest first."""
        chosen = np.flatnonzero(self.region(level))
        return [str(self.support.centres[i]) for i in chosen[np.argsort(-self.mass[chosen], kind="stable")]]

    def spans(self, level: int) -> list[Span]:
        """Return the intervals of a region on a line or circle, from low to high; one across the seam of a circle goes down."""
        inside, count = self.region(level), len(self.support)
        circle = isinstance(self.support.space, Circle)
        if inside.all() or count == 1:
            return [self._edges(0, count - 1)] if inside.any() else []
        shift = int(np.flatnonzero(~inside)[0]) if circle else 0
        turned = np.roll(inside, -shift)
        edges = np.diff(np.concatenate([[0], turned.astype(np.int8), [0]]))
        pairs = zip(np.flatnonzero(edges == 1), np.flatnonzero(edges == -1) - 1, strict=True)
        found = [self._edges((int(a) + shift) % count, (int(b) + shift) % count) for a, b in pairs]
        return sorted(found)

    def _edges(self, first: int, last: int) -> Span:
        low, high, half = self.support.centres[first], self.support.centres[last], self.support.spacing / 2
        if len(self.support) == 1:
            return float(low), float(high)
        if isinstance(self.support.space, Logarithm):
            return float(low * math.exp(-half)), float(high * math.exp(half))
        return float(low - half), float(high + half)

    def to_json(self) -> dict[str, Any]:
        """Return what it says, for JSON."""
        best = self.best.tolist() if isinstance(self.best, np.generic | np.ndarray) else self.best
        regions: dict[str, Any] = {}
        for level in self.thresholds:
            about: dict[str, Any] = {"share": round(self.share(level), 4)}
            if isinstance(self.support.space, Sphere):
                about["km2"] = round(self.area(level))
            elif isinstance(self.support.space, Categories):
                about["values"] = self.words(level)
            else:
                about["spans"] = [[float(f"{end:.6g}") for end in span] for span in self.spans(level)]
            regions[str(level)] = about
        likely = np.argsort(-self.mass, kind="stable")[:10]
        values = [[*np.atleast_1d(self.support.centres[i]).tolist(), round(float(self.mass[i]), 5)] for i in likely]
        return {"best": best, "unit": self.quantity.unit, "regions": regions, "likeliest": values}


@dataclass(frozen=True)
class Nearest:
    """A reference record that suits a picture."""

    number: int
    """Of the reference."""
    key: str
    similarity: float
    """Cosine, 1 at most."""
    record: Metadata


@dataclass(frozen=True)
class Answer:
    """What a picture tells."""

    name: str
    """Of the picture: its path or key."""
    densities: dict[str, Density]
    """By quantity."""
    nearest: tuple[Nearest, ...]
    """The nearest first."""
    truth: Metadata = field(default_factory=Metadata)
    """What is known of the picture, where it comes from shards or its file says where it lies."""

    def error(self, name: str) -> float | None:
        """Return how far the best answer is from the truth, in the quantity's distance; None where that is not known."""
        density = self.densities[name]
        true = density.quantity.values([self.truth])
        if not density.support.space.known(true)[0]:
            return None
        return float(density.support.space.distance(true, np.asarray([density.best]))[0])

    def to_json(self) -> dict[str, Any]:
        """Return the answer for JSON."""
        told = {name: density.to_json() for name, density in self.densities.items()}
        for name, density in self.densities.items():
            true = density.quantity.values([self.truth])
            if density.support.space.known(true)[0]:
                told[name]["truth"], told[name]["error"] = true[0].tolist(), self.error(name)
        nearest = [{"key": one.key, "similarity": round(one.similarity, 5)} for one in self.nearest]
        return {"image": self.name, "quantities": told, "nearest": nearest}


@dataclass(frozen=True)
class Asker:
    """A run with its references, ready to be asked."""

    encoder: Joint
    references: Collection
    layout: Layout
    calibration: Calibration
    grid: tuple[Collection, Layout] | None = None
    """Where the location is looked for on an even grid of the sphere: records there, and their cells."""
    given: Description | None = None
    """What was said of the pictures beforehand."""

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The quantities that are answered."""
        told = self.given.names if self.given is not None else ()
        return tuple(name for name in self.layout.supports if name not in told)

    @cached_property
    def _smoothers(self) -> dict[str, Masses]:
        return {name: self.layout.supports[name].smoother(self.calibration.widths[name]) for name in self.names}

    def densities(self, pictures: Vectors) -> tuple[dict[str, Masses], Masses]:
        """Return the distributions of each quantity, (B, C), and the similarities with the references, (N, B).

        Shape: pictures (B, D), of length 1 in the joint space.
        """
        cosines = posterior.similarities(self.references.vectors, pictures)
        weighed = posterior.weights(cosines, self.calibration.temperature)
        found = {}
        for name in self.names:
            if name == "location" and self.grid is not None:
                there = posterior.similarities(self.grid[0].vectors, pictures)
                binned = self.grid[1].binned(name, posterior.weights(there, self.calibration.temperature))
            else:
                binned = self.layout.binned(name, weighed)
            found[name] = posterior.smoothed(binned, self._smoothers[name])
        return found, cosines

    def ask(self, pictures: Collection) -> Iterator[Answer]:
        """Give an answer for each picture, whose records are the truth, as far as it is known."""
        for part in posterior.chunks(len(pictures)):
            masses, cosines = self.densities(pictures.vectors[part])
            above = {name: posterior.mass_above(mass) for name, mass in masses.items()}
            best = {name: self.layout.supports[name].centre(mass) for name, mass in masses.items()}
            near = nearest(cosines, NEAREST)
            for row, number in enumerate(range(part.start, part.stop)):
                densities = {
                    name: Density(
                        name, support := self.layout.supports[name], masses[name][row], above[name][row],
                        support.centres[best[name][row]], self.calibration.thresholds.get(name, {}),
                    )
                    for name in self.names
                }  # fmt: skip
                found = tuple(
                    Nearest(int(i), self.references.keys[i], float(cosines[i, row]), self.references.records[i])
                    for i in near[:, row]
                )
                yield Answer(pictures.keys[number], densities, found, pictures.records[number])

    def told(self, description: Description) -> "Asker":
        """Return what is asked where something is known of the pictures: references that agree with it, their other values kept.

        Regions are calibrated without such knowledge, so none of stated coverage are left.
        """
        step = max(1, -(-len(self.references) // MOST_CHANGED))
        chosen = self.references.some(np.arange(0, len(self.references), step))
        changed = references.with_records(chosen, description.fulfilled(chosen.records, chosen.records), self.encoder)
        layout = Layout.of(changed.records, tuple(self.layout.supports), self.layout.supports)
        grid = None
        if self.grid is not None and "location" not in description.names:
            records = description.fulfilled(self.grid[0].records, chosen.records)
            grid = references.with_records(self.grid[0], records, self.encoder), self.grid[1]
        bare = replace(self.calibration, thresholds={}, coverage={})
        return Asker(self.encoder, changed, layout, bare, grid, description)


def nearest(cosines: Masses, count: int) -> npt.NDArray[np.int64]:
    """Return the numbers of the most similar references, the nearest first, of equals the lower. Shape: (N, B) -> (count, B)."""
    count = min(count, len(cosines))
    few = np.sort(np.argpartition(-cosines, count - 1, axis=0)[:count], axis=0)
    order = np.argsort(-np.take_along_axis(cosines, few, axis=0), axis=0, kind="stable")
    return np.take_along_axis(few, order, axis=0)


def asked_quantities(fields: Sequence[str]) -> tuple[str, ...]:
    """Return the quantities that a network of these fields is asked for; where it knows time and location, of the sun too."""
    known = set(fields)
    if {"timestamp", "location"} <= known:
        known |= {"sun_elevation_angle", "sun_azimuth_angle"}
    return tuple(name for name, quantity in QUANTITIES.items() if quantity.field in known)


def trained_on(run: Path) -> Dataset | None:
    """Return the shards that a run learned from, where they are still at hand."""
    try:
        root = json.loads((run / RUN_CONFIG).read_text(encoding="utf-8"))["dataset"]["root"]
        return open_dataset(root)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def split_of(run: Path) -> str:
    """Return the split that a run learned from."""
    try:
        return str(json.loads((run / RUN_CONFIG).read_text(encoding="utf-8"))["settings"]["split"])
    except (OSError, ValueError, KeyError, TypeError):
        return "train"


def open_asker(
    encoder: Joint,
    run: Path,
    dataset: Dataset | None,
    running: Running,
    *,
    split: str | None = None,
    file: Path | None = None,
    grid: bool = False,
) -> Asker:
    """Return a run ready to be asked: references, and the calibration on held-out places, made where they are not kept yet.

    Args:
        dataset: the references' shards; None: those that the run learned from or, where they are gone, what was kept of them
        split: of the references; None: that which the run learned from
        file: of the calibration; None: beside the references
        grid: look for the location on an even grid of the sphere instead of at the references

    Raises:
        UsageError: the run learned nothing from metadata, there are no references, or shards or the calibration cannot be read.
    """
    networks, split = references.encoder_fingerprint(encoder), split or split_of(run)
    if not all((run / name).is_file() for name in (WEIGHTS, METADATA_WEIGHTS)):
        raise UsageError(f"{run} is no folder of a run that learned from metadata. Pass the folder of a run of satmip or satmips.")
    dataset = dataset or trained_on(run)
    found = (
        references.last_kept(run, networks) if dataset is None else references.references(run, dataset, split, running, networks)
    )
    if found is None:
        raise UsageError(f"The shards that {run} learned from are not at hand. Use --shards DIRECTORY for references.")
    layout = Layout.of(found.records, asked_quantities(encoder.fields))
    layout = Layout({n: s for n, s in layout.supports.items() if len(s) > 1}, layout.bins)
    assert encoder.projections is not None
    start = calibrating.uncalibrated(1 / encoder.projections.logit_scale, layout.supports)
    spread = _grid(encoder, run, found, layout) if grid and "location" in layout.supports else None
    asker = Asker(encoder, found, layout, start, spread)
    path = file or calibration_path(run, found.source, grid)
    if path.exists():
        return replace(asker, calibration=_fitting(calibrating.read(path), asker, path))
    if file is not None and dataset is None:
        raise UsageError(f"There is no calibration {file}. Use --shards DIRECTORY to make it, or leave --calibration out.")
    made = None if dataset is None else calibrate(asker, run, dataset, running, networks)
    if made is not None:
        try:
            calibrating.write(made, path)
        except OSError as error:
            raise UsageError(f"The calibration cannot be written to {path}: {error.strerror}. Use --calibration FILE.") from error
    return replace(asker, calibration=made or start)


def calibration_path(run: Path, source: Mapping[str, Any], grid: bool) -> Path:
    """Return where the calibration that belongs to references is kept."""
    name = references.kept_path(run, dict(source)).stem.removeprefix("references-")
    return run / references.FOLDER / f"calibration-{name}{'-grid' if grid else ''}.json"


def _fitting(read: Calibration, asker: Asker, path: Path) -> Calibration:
    """Return a calibration that was read, if it is one of these networks, references and quantities."""
    wanted = {**{k: asker.references.source[k] for k in ("shards", "split", "networks")}, "grid": asker.grid is not None}
    if {name: read.source.get(name) for name in wanted} != wanted or not asker.layout.supports.keys() <= read.widths.keys():
        raise UsageError(f"{path} belongs to another run or other references. Delete it, or pass another --calibration.")
    return read


def held_out(run: Path, dataset: Dataset, known: Collection, running: Running, networks: str) -> Collection | None:
    """Return the pictures of all other splits whose places are not among the references'; None where there are none."""
    seen, parts = set(known.places), []
    for split, samples in dataset.splits.items():
        if samples and split != known.source["split"]:
            found = references.pictures(run, dataset, split, running, networks)
            parts.append(found.some([place not in seen for place in found.places]))
    parts = [part for part in parts if len(part)]
    if not parts:
        return None
    keys, places = (tuple(chain.from_iterable(getattr(part, name) for part in parts)) for name in ("keys", "places"))
    records = tuple(chain.from_iterable(part.records for part in parts))
    source = {**parts[0].source, "split": "+".join(part.source["split"] for part in parts)}
    return Collection(keys, places, records, np.concatenate([part.vectors for part in parts]), source)


def pictures_of(found: Collection, wanted: calibrating.Role) -> Collection:
    """Return the pictures that have a role, `MOST_PICTURES` at most, which are chosen evenly by key."""
    numbers = [i for i, place in enumerate(found.places) if role(place) == wanted]
    numbers.sort(key=lambda i: found.keys[i])
    step = max(1, -(-len(numbers) // MOST_PICTURES))
    return found.some(np.array(numbers[::step], np.int64))


def calibrate(asker: Asker, run: Path, dataset: Dataset, running: Running, networks: str) -> Calibration | None:
    """Return temperature, widths, regions and their measured coverage; None where there are no held-out places."""
    found = held_out(run, dataset, asker.references, running, networks)
    if found is None:
        return None
    fit, regions, test = (pictures_of(found, wanted) for wanted in ("temperature", "regions", "test"))
    made = asker.calibration
    if len(fit):
        names = [name for name in asker.names if QUANTITIES[name].field in asker.encoder.fields]
        made = calibrating.fit_temperature(
            asker.layout, asker.references.vectors, fit.vectors, fit.records, made.temperature, names
        )
        if asker.grid is not None:
            alone = calibrating.fit_temperature(
                asker.grid[1], asker.grid[0].vectors, fit.vectors, fit.records, made.temperature, ["location"]
            )
            made = replace(made, widths={**made.widths, "location": alone.widths["location"]})
    asker = replace(asker, calibration=made)
    regions = regions.some(calibrating.one_of_each(regions.places, regions.keys))
    thresholds, places = {}, {}
    for name, (scored, _) in scored_pictures(asker, regions).items():
        thresholds[name] = {level: calibrating.threshold(scored, level) for level in calibrating.LEVELS}
        places[name] = len(scored)
    measured = {}
    for name, (scored, above) in scored_pictures(asker, test).items():
        known = QUANTITIES[name].space.known(QUANTITIES[name].values(test.records))
        there = [place for place, is_known in zip(test.places, known, strict=True) if is_known]
        if name in thresholds and there:
            measured[name] = calibrating.coverage(scored, above, thresholds[name], there)
    source = {**{k: asker.references.source[k] for k in ("shards", "split", "networks")}, "grid": asker.grid is not None}
    return replace(
        made, thresholds=thresholds, places=places, coverage=measured, source={**source, "held_out": found.source["split"]}
    )


def scored_pictures(asker: Asker, pictures: Collection) -> dict[str, tuple[npt.NDArray[np.float64], Masses]]:
    """Return for each quantity the scores of the pictures of which it is known, (K,), and the mass above each cell, (K, C)."""
    parts: dict[str, list[tuple[Any, Masses]]] = {name: [] for name in asker.names}
    for part in posterior.chunks(len(pictures)):
        masses, _ = asker.densities(pictures.vectors[part])
        for name, mass in masses.items():
            values = QUANTITIES[name].values(pictures.records[part])
            known = QUANTITIES[name].space.known(values)
            index = asker.layout.supports[name].index(values)
            if known.any():
                parts[name].append((calibrating.scores(mass, index)[known], posterior.mass_above(mass[known])))
    return {
        name: (np.concatenate([scored for scored, _ in found]), np.concatenate([above for _, above in found]))
        for name, found in parts.items()
        if found
    }


def _grid(encoder: Joint, run: Path, found: Collection, layout: Layout) -> tuple[Collection, Layout]:
    """Return records at every cell of the sphere, all else as in a few references, and their layout; kept beside the references."""
    support = layout.supports["location"]
    source = {**found.source, "split": f"{found.source['split']}, grid of {CONTEXTS}"}
    path = references.kept_path(run, source)
    kept = references.read(path)
    if kept is None or kept.source != source:
        known = [record for record in found.records if record.location is not None]
        contexts = [known[i] for i in np.linspace(0, len(known) - 1, min(CONTEXTS, len(known))).round().astype(int)]
        records = tuple(
            with_values(record, {"location": tuple(place)}) for record in contexts for place in support.centres.tolist()
        )
        names = tuple(str(number) for number in range(len(records)))
        kept = Collection(names, names, records, encoder.encode_metadata(records, joint=True), source)
        references.keep(kept, path)
    return kept, Layout.of(kept.records, ("location",), {"location": support})


def earth_share(square_km: float) -> float:
    """Return which share of the whole Earth an area is, 0 to 1."""
    return square_km / (4 * math.pi * EARTH_KM**2)
