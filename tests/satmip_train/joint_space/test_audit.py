"""Audit on a world of two places whose network is known: pictures and records are vectors of place and season."""

import datetime as dt
import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from satmip_data.metadata.clock import hour_of_day
from satmip_data.records import Metadata
from satmip_train.joint_space.archive import Entry
from satmip_train.joint_space.audit import RECORD, Judge, Vectors, judge_records, log_mean_exp, make_pools, overall, score
from satmip_train.joint_space.candidates import mended, pool, quantities_of
from satmip_train.joint_space.contradictions import contradictions
from satmip_train.joint_space.quantities import QUANTITIES

NORTH, SOUTH = (10.0, 50.0), (20.0, -30.0)
FIELDS = ("gsd", "timestamp", "location")


def record(place: tuple[float, float], month: int, gsd: float = 1.0) -> Metadata:
    """A record at local noon, whose sun is up."""
    return Metadata(gsd=(gsd, gsd), datetime=dt.datetime(2016, month, 10, 11, tzinfo=dt.UTC), location=place)


def known_network(records: Sequence[Metadata]) -> Vectors:
    """Unit vectors whose products are the mean of the cosines of latitude, season and logarithm of the GSD, as angles."""
    angles = [
        (
            math.radians(r.location[1]),
            2 * math.pi * ((0 if r.datetime is None else r.datetime.month - 1) / 12),
            math.log(r.gsd[0]),
        )
        for r in records
    ]
    parts = np.array([[f(a) for a in row for f in (np.cos, np.sin)] for row in angles], np.float32)
    return (parts / math.sqrt(3)).reshape(len(records), 6)


def world(count: int = 40) -> list[Entry]:
    """Samples of two places in all months, whose pictures show what they say."""
    return [
        Entry(f"k{n:02d}", "val", "val/0.tar", n, f"p{n % 2}", record((NORTH, SOUTH)[n % 2], n % 12 + 1, (0.5, 1.0)[n // 2 % 2]))
        for n in range(count)
    ]


def judged(entries: list[Entry], told: dict[str, Metadata], fields: tuple[str, ...] = FIELDS):
    """Judge entries, some of which say something else than their pictures show."""
    images = known_network([entry.metadata for entry in entries])
    wrong = [Entry(e.key, e.split, e.shard, e.index, e.place, told.get(e.key, e.metadata)) for e in entries]
    pools = make_pools(quantities_of(fields), {e.key: e.metadata for e in wrong})
    return judge_records([Judge(tuple(wrong), images, known_network, 12.0)], pools)


def test_swapped_records_come_first_and_each_other_is_what_their_pictures_say() -> None:
    entries = world()
    one, other = entries[4], entries[11]  # north in May, south in December
    audit = judged(entries, {one.key: other.metadata, other.key: one.metadata})
    assert {suspect.entry.key for suspect in audit.suspects[:2]} == {one.key, other.key}
    first = next(suspect for suspect in audit.suspects if suspect.entry.key == one.key)
    assert (first.quantity, first.contradicts) == (RECORD, False)
    assert first.recorded.startswith("30.00° S")
    assert first.suggested.startswith("50.00° N, 10.00° E, 10 May")
    assert first.score > 1 > audit.suspects[2].score


@pytest.mark.parametrize(
    ("quantity", "value", "reason"),
    [
        ("location", (10.0, -50.0), "sign of the latitude wrong"),
        ("day", 365.25 * 3.3 / 12 + 365.25 / 2, "six months off"),
        ("gsd", 2.0, "twice too large"),
    ],
)
def test_a_usual_mistake_is_found_named_and_mended(quantity: str, value: object, reason: str) -> None:
    entries = world()
    true = entries[16].metadata  # north in May
    wrong = QUANTITIES[quantity].put(true, value)
    (first, *_) = judged(entries, {"k16": wrong}).suspects
    assert (first.entry.key, first.quantity, first.reason) == ("k16", quantity, reason)
    assert first.guess is not None
    space = QUANTITIES[quantity].space
    assert space.distance(np.array(first.guess.value), np.array(QUANTITIES[quantity].read(true))) < 31


def test_a_record_that_contradicts_itself_comes_before_all_others_with_the_reason() -> None:
    entries = world()
    night = entries[7].metadata.replaced(datetime=entries[7].metadata.datetime.replace(hour=23))
    audit = judged(entries, {"k07": night, "k04": entries[11].metadata})
    first, second = audit.suspects[:2]
    assert (first.entry.key, first.contradicts, second.entry.key) == ("k07", True, "k04")
    assert "below the horizon" in first.reason


@settings(max_examples=8)
@given(st.permutations(range(12)))
def test_neither_order_of_samples_nor_of_judges_changes_anything(order: list[int]) -> None:
    entries = world(12)
    told = {"k03": entries[6].metadata}
    expected = judged(entries, told)
    again = judged([entries[n] for n in order], told)
    assert [s.entry.key for s in again.suspects] == [s.entry.key for s in expected.suspects]
    assert [s.score for s in again.suspects] == pytest.approx([s.score for s in expected.suspects], abs=1e-6)


def test_scores_are_the_formula() -> None:
    """Against plain loops, for a quantity with usual mistakes, one without, and the whole record."""
    entries = world(12)
    records = {entry.key: entry.metadata for entry in entries}
    images, pools = known_network(list(records.values())), make_pools(quantities_of(FIELDS), records)
    got = score(Judge(tuple(entries), images, known_network, 12.0), [5], [entries[2].metadata], pools)
    assert got.names == ("location", "day", "gsd", RECORD)  # hour and year are the same everywhere

    def gain(other: Metadata) -> float:
        own, there = (float(known_network([r])[0] @ images[5]) for r in (entries[2].metadata, other))
        return math.exp(12 * (there - own))

    def mean(others: list[Metadata]) -> float:
        return sum(map(gain, others)) / len(others)

    for column, name in enumerate(("location", "day", "gsd")):
        quantity = QUANTITIES[name]
        drawn = [quantity.put(entries[2].metadata, quantity.read(other)) for other in records.values()]
        undone = list(mended(quantity, entries[2].metadata).values())
        assert got.values[0, column] == pytest.approx(math.log((mean(drawn) + mean(undone)) / 2), abs=1e-4)
    assert got.values[0, 3] == pytest.approx(math.log(mean(list(records.values()))), abs=1e-4)
    assert overall(got.values)[0] == pytest.approx(math.log(np.exp(got.values[0]).mean()))


def test_what_is_missing_has_no_score() -> None:
    entries = world()
    silent = entries[9].metadata.replaced(datetime=None)
    audit = judged(entries, {"k09": silent})
    row = [entry.key for entry in audit.entries].index("k09")
    values = dict(zip(audit.scores.names, audit.scores.values[row], strict=True))
    assert math.isnan(values["day"])
    assert math.isfinite(values["location"])
    assert audit.scores.guesses[row][audit.scores.names.index("day")] is None
    assert math.isnan(log_mean_exp(np.array([])))


def test_the_pool_depends_on_keys_and_not_on_order() -> None:
    records = {entry.key: entry.metadata for entry in world()}
    quantity = QUANTITIES["day"]
    assert pool(quantity, records, 7) == pool(quantity, dict(reversed(records.items())), 7)
    assert pool(quantity, records, 7) != pool(quantity, records, 7, seed=1)
    assert len(pool(quantity, records, 100)) == 40


def test_records_contradict_themselves_by_sun_zone_and_pixel_size() -> None:
    honest = record(NORTH, 6, 2.0).replaced(utm_zone="32U", pixel_size=(2 / 71_700, 2 / 111_230))
    assert contradictions(honest) == []
    assert [part for part, _ in contradictions(honest.replaced(utm_zone="33U"))] == ["utm_zone"]
    assert [part for part, _ in contradictions(honest.replaced(gsd=(4.0, 4.0)))] == ["gsd"]
    assert [part for part, _ in contradictions(honest.replaced(sun_azimuth=180.0, sun_elevation=5.0))] == ["timestamp"]
    assert [part for part, _ in contradictions(honest, ("footprint_shape", "country_code"))] == ["record"]
    assert hour_of_day(honest.datetime) == 11


def test_what_the_network_cannot_read_is_no_candidate_and_no_suspect() -> None:
    """A network that reads no southern records: those have no score, and the north gets that of northern values."""
    entries = world()

    def northern(records: Sequence[Metadata]) -> Vectors:
        south = np.array([record.location[1] < 0 for record in records])
        return np.where(south[:, None], np.float32(np.nan), known_network(records))

    images = known_network([entry.metadata for entry in entries])
    pools = make_pools(quantities_of(FIELDS), {e.key: e.metadata for e in entries})
    audit = judge_records([Judge(tuple(entries), images, northern, 12.0)], pools)
    for entry, values, guesses in zip(audit.entries, audit.scores.values, audit.scores.guesses, strict=True):
        readable = entry.metadata.location == NORTH
        assert np.isfinite(values).all() == readable
        assert np.isnan(values).all() == (not readable)
        assert not readable or all(guess is not None for guess in guesses)
    assert all(suspect.entry.metadata.location == NORTH for suspect in audit.suspects[:20])
