"""Errors put into records, and what is said of how well they are found, against plain counts."""

import datetime as dt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from satmip_data.records import Metadata
from satmip_train.joint_space import measurement
from satmip_train.joint_space.archive import Entry
from satmip_train.joint_space.audit import Judge, make_pools
from satmip_train.joint_space.candidates import quantities_of
from satmip_train.joint_space.injection import EXCHANGED, KINDS, inject, kinds_of
from satmip_train.joint_space.measurement import auroc, forest_scores, measure, measurement_table, precision_at
from satmip_train.joint_space.quantities import QUANTITIES

FIELDS = ("gsd", "timestamp", "location")


def archive(count: int = 300) -> dict[str, Metadata]:
    """Records all over the Earth at local noon."""
    rng = np.random.default_rng(3)
    found = {}
    for number in range(count):
        lon, lat = float(rng.uniform(-170, 170)), float(rng.uniform(-50, 60))
        time = dt.datetime(2016, 1, 1, 12, tzinfo=dt.UTC) + dt.timedelta(days=int(rng.integers(365)), hours=-lon / 15)
        found[f"k{number:03d}"] = Metadata(gsd=(float(rng.uniform(0.5, 2)),) * 2, datetime=time, location=(lon, lat))
    return found


PLACES = {key: f"p{number // 3}" for number, key in enumerate(archive())}


@pytest.mark.parametrize("kind", [EXCHANGED, *KINDS])
@pytest.mark.parametrize("share", [0.02, 0.1])
def test_an_error_is_in_the_stated_share_and_in_its_quantity_alone(kind: str, share: float) -> None:
    records = archive()
    injected = inject(kind, records, PLACES, share, seed=5)
    assert len(injected.records) == round(share * len(records))
    for key, wrong in injected.records.items():
        changed = {name for name, quantity in QUANTITIES.items() if quantity.read(wrong) != quantity.read(records[key])}
        if kind == EXCHANGED:
            (source,) = (other for other, record in records.items() if record == wrong)
            assert PLACES[source] != PLACES[key]
        else:
            # A year with its fraction moves with the day.
            assert KINDS[kind][0] in changed
            assert {QUANTITIES[name].field for name in changed} == {QUANTITIES[KINDS[kind][0]].field}


def test_errors_do_not_depend_on_the_order_of_records() -> None:
    records = archive()
    backwards = dict(reversed(records.items()))
    for kind in (EXCHANGED, *KINDS):
        assert inject(kind, records, PLACES, 0.05, 1).records == inject(kind, backwards, PLACES, 0.05, 1).records
        assert inject(kind, records, PLACES, 0.05, 1).records != inject(kind, records, PLACES, 0.05, 2).records


def test_what_each_error_does() -> None:
    record = Metadata(gsd=(1.0, 2.0), datetime=dt.datetime(2016, 2, 3, 21, 15, tzinfo=dt.UTC), location=(-10.0, -20.0))
    records = {"a": record, "b": record}
    wrong = {kind: inject(kind, records, {"a": "p", "b": "q"}, 1.0, 0).records["a"] for kind in KINDS}
    assert wrong["longitude and latitude swapped"].location == (-20.0, -10.0)
    assert wrong["sign lost"].location == (10.0, 20.0)
    assert wrong["12 hours off"].datetime == dt.datetime(2016, 2, 3, 9, 15, tzinfo=dt.UTC)
    assert (wrong["6 months off"].datetime.year, wrong["6 months off"].datetime.month) == (2016, 8)
    assert wrong["GSD doubled"].gsd == (2.0, 4.0)


def test_only_quantities_that_vary_get_errors() -> None:
    records = [Metadata(gsd=(10.0, 10.0), location=(float(n), 50.0)) for n in range(5)]
    assert kinds_of(FIELDS, records) == (EXCHANGED, "longitude and latitude swapped", "sign lost")
    assert kinds_of(("gsd",), records) == ()
    assert kinds_of(FIELDS, list(archive().values())) == (EXCHANGED, *KINDS)
    with pytest.raises(ValueError, match="sign lost"):
        inject("sign lost", {str(n): record for n, record in enumerate(records)}, {}, 0.5, 0)


@settings(max_examples=15)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5)), min_size=3, max_size=30))
def test_auroc_is_that_of_scikit_learn_and_equal_scores_share_precision(rows: list[tuple[bool, int]]) -> None:
    wrong, scores = np.array([bad for bad, _ in rows]), np.array([value for _, value in rows], float)
    if wrong.all() or not wrong.any():
        assert np.isnan(auroc(wrong, scores))
        return
    assert auroc(wrong, scores) == pytest.approx(roc_auc_score(wrong, scores))
    count = int(wrong.sum())
    rng = np.random.default_rng(0)
    orders = [np.lexsort((rng.random(len(scores)), -scores))[:count] for _ in range(600)]
    assert precision_at(wrong, scores, count) == pytest.approx(np.mean([wrong[order].mean() for order in orders]), abs=0.1)


def test_the_forest_finds_what_stands_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measurement, "TREES", 20)
    records = [*(Metadata(location=(10 + n / 100, 50.0), utm_zone="32U") for n in range(60)), Metadata(location=(50.0, 10.0))]
    assert forest_scores(records, ("location", "utm_zone"), 0).argmax() == 60


def test_measure_finds_what_a_perfect_network_shows_and_not_what_it_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that sees latitude alone: exchanges and lost signs are found, a GSD is not."""

    def latitude(records: list[Metadata]) -> np.ndarray:
        angles = np.radians([record.location[1] for record in records])
        return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)

    monkeypatch.setattr(measurement, "TREES", 5)
    records = archive(150)
    entries = tuple(Entry(key, "val", "a", n, PLACES[key], record) for n, (key, record) in enumerate(records.items()))
    judges = [Judge(part, latitude([e.metadata for e in part]), latitude, 200.0) for part in (entries[:50], entries[50:])]
    result = measure(judges, FIELDS, make_pools(quantities_of(FIELDS), records), 0.04, range(2))
    kinds = result["kinds"]
    assert list(kinds) == [EXCHANGED, *KINDS]
    assert kinds[EXCHANGED]["auroc"]["pictures"]["mean"] > 0.9
    assert kinds["longitude and latitude swapped"]["auroc"]["pictures, this quantity"]["mean"] > 0.9
    assert kinds["longitude and latitude swapped"]["named"]["mean"] > 0.4
    assert abs(kinds["GSD doubled"]["auroc"]["pictures"]["mean"] - 0.5) < 0.2
    assert kinds["12 hours off"]["auroc"]["checks, fields read"]["mean"] > 0.9
    assert kinds["12 hours off"]["precision"]["audit"]["mean"] == 1
    assert kinds[EXCHANGED]["errors"] == 6
    assert kinds[EXCHANGED]["named"] is None
    table = measurement_table(result)
    assert table.models[0][0] == f"{EXCHANGED} (6)"
    assert {len(row) for row in table.models} == {4}
