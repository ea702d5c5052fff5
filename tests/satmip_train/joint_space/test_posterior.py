"""Distributions and regions: worlds with known answers, and what must change nothing."""

import datetime as dt
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from satmip_data.records import Metadata
from satmip_train import UsageError
from satmip_train.joint_space import calibration, posterior
from satmip_train.joint_space.ask import Asker, Density, nearest
from satmip_train.joint_space.calibration import Calibration, Coverage
from satmip_train.joint_space.posterior import BACKGROUND, Layout
from satmip_train.joint_space.quantities import QUANTITIES
from satmip_train.joint_space.references import Collection
from satmip_train.joint_space.spaces import Circle, Line, Support

ROME, LIMA = (12.5, 41.9), (-77.0, -12.0)
RNG = np.random.default_rng(0)


def record(place: tuple[float, float], month: int, **more: Any) -> Metadata:
    return Metadata(location=place, datetime=dt.datetime(2016, month, 15, 10, tzinfo=dt.UTC), **more)


def collection(records: list[Metadata], vectors: np.ndarray) -> Collection:
    names = tuple(f"k{number}" for number in range(len(records)))
    return Collection(names, names, tuple(records), vectors.astype(np.float32), {})


def two_places(order: np.ndarray | None = None) -> Asker:
    """Rome in July and Lima in January, one direction of the joint space each; three times as many references are of Lima."""
    records = [record(ROME, 7, country_code="ITA")] * 2 + [record(LIMA, 1, country_code="PER")] * 6
    vectors = np.repeat(np.eye(2, 3), [2, 6], axis=0)
    order = np.arange(8) if order is None else order
    found = collection([records[i] for i in order], vectors[order])
    layout = Layout.of(found.records, ("location", "day", "country_code"))
    widths = {"location": 300.0, "day": 10.0, "country_code": 0.0}
    thresholds = {name: {50: 0.4, 95: 0.99} for name in widths}
    return Asker(None, found, layout, Calibration(0.5, widths, thresholds))  # type: ignore[arg-type]


def test_a_world_of_two_places_has_the_posterior_of_bayes() -> None:
    asker = two_places()
    pictures = collection([record(ROME, 7), Metadata()], np.array([[1, 0, 0], [0, 0, 1.0]]))
    first, second = asker.ask(pictures)
    ratio = math.exp(1 / 0.5)
    share = dict(zip(first.densities["country_code"].support.centres, first.densities["country_code"].mass, strict=True))
    assert share["ITA"] == pytest.approx((1 - BACKGROUND) * 2 * ratio / (2 * ratio + 6) + BACKGROUND / 2, rel=1e-5)
    assert first.densities["country_code"].best == "ITA"
    assert first.error("location") < 400
    assert first.error("day") < 10
    assert [one.key for one in first.nearest[:2]] == ["k0", "k1"]
    # A picture that is like none is answered by the prior, which Lima is most of.
    assert second.densities["country_code"].best == "PER"
    assert second.densities["location"].best == pytest.approx(LIMA, abs=4)
    assert second.error("location") is None
    assert all(density.mass.sum() == pytest.approx(1, abs=1e-4) for density in first.densities.values())


def test_the_order_of_references_changes_nothing() -> None:
    pictures = collection([Metadata()], np.array([[0.6, 0.8, 0.0]]))
    one, other = (next(two_places(order).ask(pictures)) for order in (None, RNG.permutation(8)))
    for name in one.densities:
        assert other.densities[name].mass == pytest.approx(one.densities[name].mass, abs=1e-6)
        assert (other.densities[name].support.centres == one.densities[name].support.centres).all()
        assert np.all(other.densities[name].best == one.densities[name].best)


def test_unknown_values_count_for_nothing() -> None:
    records = [record(ROME, 7), Metadata(), Metadata()]
    layout = Layout.of(records, ("location", "gsd"))
    assert list(layout.supports) == ["location"]
    weights = np.array([[0.1], [0.5], [0.4]], np.float32)
    assert layout.binned("location", weights).max() == 1
    assert layout.binned("location", np.array([[0], [1], [0]], np.float32)).std() < 1e-8  # nothing is known: all is as likely


def test_the_mass_above_is_the_plain_loop() -> None:
    mass = RNG.dirichlet(np.ones(7), size=5).astype(np.float32)
    mass[:, 3] = mass[:, 5]
    mass[0] = 1 / 7
    loop = [[sum(float(m) for m in row if m > own) for own in row] for row in mass]
    assert posterior.mass_above(mass) == pytest.approx(np.array(loop), abs=1e-6)


@pytest.mark.parametrize("shift", [0, 1, 60, 119])
def test_a_circle_has_no_seam(shift: int) -> None:
    """Regions across the new year are those of midsummer, turned."""
    support = Circle(360.0).support(np.zeros(1))
    mass = np.roll(np.exp(-0.5 * ((np.arange(120) - 60) / 5) ** 2), shift)
    mass = (mass / mass.sum()).astype(np.float32)
    density = Density("sun_azimuth_angle", support, mass, posterior.mass_above(mass[None])[0], 0.0, {80: 0.8})
    ((low, high),) = density.spans(80)
    assert (high - low) % 360 == pytest.approx(density.share(80) * 360)
    assert ((low + (high - low) % 360 / 2) % 360) == pytest.approx((181.5 + 3 * shift) % 360, abs=1e-6)
    assert support.centre(mass[None]) == [(60 + shift) % 120]


def test_spans_at_the_ends_of_a_line() -> None:
    support = Line().support(np.array([0.0, 1.0]))
    mass = np.zeros(128, np.float32)
    mass[[0, 127]] = 0.5
    density = Density("cloud_cover", support, mass, posterior.mass_above(mass[None])[0], 0.0, {50: 0.0, 95: 1.0})
    assert len(density.spans(50)) == 2
    assert len(density.spans(95)) == 1
    assert density.share(95) == 1


@pytest.mark.parametrize("level", calibration.LEVELS)
def test_coverage_on_scores_of_any_kind(level: int) -> None:
    """Over many draws a new score is covered as often as is stated, and no more than that by 1 / (n + 1)."""
    count, draws = 39, 4000
    scores = RNG.beta(0.4, 2.0, size=(draws, count + 1))
    covered = np.mean([row[-1] <= calibration.threshold(row[:-1], level) for row in scores])
    deviation = math.sqrt(level * (100 - level)) / 100 / math.sqrt(draws)
    assert level / 100 - 4 * deviation < covered < level / 100 + 1 / (count + 1) + 4 * deviation


def test_the_threshold_is_the_rank_of_split_conformal_prediction() -> None:
    scores = np.arange(19.0)
    assert [calibration.threshold(scores, level) for level in (50, 80, 95)] == [9, 15, 18]  # ceil(20 * level) = 10, 16, 19
    assert calibration.threshold(scores[:18], 95) == math.inf
    assert calibration.threshold(scores[:0], 50) == math.inf
    masses, index = np.array([[0.5, 0.3, 0.2]] * 3, np.float32), np.array([0, 2, -1])
    assert calibration.scores(masses, index).tolist() == pytest.approx([0, 0.8, math.inf])


def test_roles_belong_to_places_and_are_dealt_as_told() -> None:
    roles = [calibration.role(f"place {number}") for number in range(6000)]
    counts = {name: roles.count(name) / 6000 for name in ("test", "temperature", "regions")}  # type: ignore[arg-type]
    assert counts == pytest.approx({"test": 1 / 2, "temperature": 1 / 6, "regions": 1 / 3}, abs=0.03)
    places, keys = ["a", "b", "a", "a"], ["1", "2", "3", "4"]
    chosen = calibration.one_of_each(places, keys)
    turned = calibration.one_of_each(places[::-1], keys[::-1])
    assert {keys[i] for i in chosen} == {keys[::-1][i] for i in turned}
    assert sorted(places[i] for i in chosen) == ["a", "b"]


def test_the_temperature_that_made_the_pictures_is_found() -> None:
    """Pictures whose records are drawn by a softmax of known temperature are best explained by that temperature."""
    rng = np.random.default_rng(1)
    words = np.array([f"W{number}" for number in range(30)])
    vectors = rng.normal(size=(30, 8))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    pictures = rng.normal(size=(1500, 8))
    pictures /= np.linalg.norm(pictures, axis=1, keepdims=True)
    chances = posterior.weights((vectors @ pictures.T).astype(np.float32), 0.25)
    drawn = [int(rng.choice(30, p=column / column.sum())) for column in chances.T.astype(np.float64)]
    records = [Metadata(country_code=str(word)) for word in words]
    layout = Layout.of(records, ("country_code",))
    truth = [records[number] for number in drawn]
    parts = vectors.astype(np.float32), pictures.astype(np.float32)
    found = calibration.fit_temperature(layout, *parts, truth, 0.1, ("country_code",))
    assert found.temperature == pytest.approx(0.25, rel=0.2)


def test_the_width_is_that_of_what_is_read() -> None:
    """Truths that lie about their reference as a Gaussian get its deviation as the width of the kernel."""
    records = [Metadata(cloud_cover=20.0), Metadata(cloud_cover=80.0), Metadata(cloud_cover=0.0), Metadata(cloud_cover=100.0)]
    layout = Layout.of(records, ("cloud_cover",))
    truth = [Metadata(cloud_cover=float(np.clip(20 + 4 * step, 0, 100))) for step in RNG.normal(size=400)]
    parts = np.eye(4, dtype=np.float32), np.repeat(np.eye(4, dtype=np.float32)[:1], 400, axis=0)
    found = calibration.fit_temperature(layout, *parts, truth, 0.02, ("cloud_cover",))
    assert 2.8 < found.widths["cloud_cover"] < 5.7


def test_coverage_counts_places_alike() -> None:
    scores, above = np.array([0.1, 0.9, 0.9, 0.9]), np.array([[0.0, 0.6]] * 4, np.float32)
    found = calibration.coverage(scores, above, {50: 0.5, 95: math.inf}, ["a", "b", "b", "b"])
    assert (found.pictures, found.places) == (4, 2)
    assert found.share == pytest.approx({50: 0.5, 95: 1.0})
    assert found.size == pytest.approx({50: 0.5, 95: 1.0})


def test_a_calibration_is_read_as_it_was_written(tmp_path: Path) -> None:
    measured = {"day": Coverage(9, 4, {50: 0.5, 95: 1.0}, {50: 0.2, 95: 1.0})}
    made = Calibration(0.07, {"day": 9.0}, {"day": {50: 0.3, 95: math.inf}}, {"day": 7}, measured, {"shards": "a"})
    calibration.write(made, tmp_path / "c.json")
    assert calibration.read(tmp_path / "c.json") == made
    (tmp_path / "c.json").write_text("{}")
    with pytest.raises(UsageError, match=r"c\.json"):
        calibration.read(tmp_path / "c.json")


def test_the_nearest_of_equals_is_the_first() -> None:
    cosines = np.array([[0.1, 0.5], [0.9, 0.5], [0.9, 0.2], [0.3, 0.5]], np.float32)
    assert nearest(cosines, 3).T.tolist() == [[1, 2, 3], [0, 1, 3]]
    assert nearest(cosines, 9).shape == (4, 2)


def test_the_poles_and_the_date_line_separate_nothing() -> None:
    """A world turned across the date line gives the same distances between cells and answers, turned."""
    space = QUANTITIES["location"].space
    places = np.array([[179.9, 10.0], [-179.9, 10.1], [30.0, 89.9], [-150.0, 89.9]])
    support: Support = space.support(places)
    index = support.index(places)
    near = support.distances[index[0], index[1]], support.distances[index[2], index[3]]
    assert max(near) < 2 * support.spacing
    mass = support.smoother(500.0)[index[[0]]]
    assert mass[0, index[1]] > 0.3 * mass[0, index[0]]
