"""Numbers are standardized over the known values of the train split; categories become codes; both can be undone."""

import datetime as dt
import json
import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from satmip_data.metadata.fields import CATEGORICAL, NUMERIC
from satmip_data.metadata.tabular import Standardizer, fit, read_column
from satmip_data.records import Metadata


def maybe(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | values


PAIRS = st.tuples(st.floats(0.01, 30), st.floats(0.01, 30))
TIMES = st.datetimes(dt.datetime(2002, 1, 28), dt.datetime(2017, 7, 12), timezones=st.just(dt.UTC))
METADATA = st.builds(
    Metadata,
    gsd=maybe(PAIRS),
    multispectral_gsd=maybe(st.floats(0.1, 100)),
    pixel_size=maybe(PAIRS.map(lambda pair: (pair[0] * 1e-5, pair[1] * 1e-5))),
    datetime=maybe(TIMES),
    location=maybe(st.tuples(st.floats(-180, 180, exclude_max=True), st.floats(-90, 90))),
    utm_zone=maybe(st.sampled_from(["18M", "32T", "1N"])),
    country_code=maybe(st.sampled_from(["PER", "CHE", "FJI"])),
    cloud_cover=maybe(st.floats(0, 100)),
    scan_direction=maybe(st.sampled_from(["Forward", "Reverse"])),
    wavelengths=maybe(st.sampled_from([(661, 545, 477), (660, 546, 478)])),
    target_azimuth=maybe(st.floats(0, 360)),
    sun_azimuth=maybe(st.floats(0, 360)),
    sun_elevation=maybe(st.floats(-90, 90)),
    off_nadir=maybe(st.floats(0, 90)),
    platform=maybe(st.sampled_from(["GEOEYE01", "QUICKBIRD02"])),
)
CHIPS = st.lists(METADATA, max_size=12)


def raw(metadata: Metadata) -> dict[str, Any]:
    return {column.name: read_column(metadata, column) for column in (*NUMERIC, *CATEGORICAL)}


@given(CHIPS)
def test_transform_and_invert_give_every_value_back(chips: list[Metadata]) -> None:
    standardizer = fit(chips)
    scales = {s.name: s.std * 4 + abs(s.mean) for s in standardizer.numeric}
    for chip in chips:
        back = standardizer.invert(standardizer.transform(chip))
        for name, value in raw(chip).items():
            if isinstance(value, str) or value is None:
                assert back[name] == value
            else:
                assert back[name] == pytest.approx(value, rel=1e-6, abs=1e-6 * scales[name])


@given(CHIPS)
def test_features_have_the_written_types_and_zero_where_a_value_is_missing(chips: list[Metadata]) -> None:
    standardizer = fit(chips)
    for chip in chips:
        features = standardizer.transform(chip)
        assert (features.numeric.dtype, features.numeric.shape) == (np.float32, (len(NUMERIC),))
        assert (features.mask.dtype, features.mask.shape) == (np.bool_, (len(NUMERIC),))
        assert (features.categorical.dtype, features.categorical.shape) == (np.int64, (len(CATEGORICAL),))
        assert np.isfinite(features.numeric).all()
        for column, known, value in zip(NUMERIC, features.mask, features.numeric, strict=True):
            assert known == (read_column(chip, column) is not None)
            assert known or value == 0.0
        for column, code in zip(CATEGORICAL, features.categorical, strict=True):
            assert (code == 0) == (read_column(chip, column) is None)


@given(st.lists(METADATA, min_size=1, max_size=12))
def test_the_train_split_has_mean_zero_and_deviation_one(chips: list[Metadata]) -> None:
    standardizer = fit(chips)
    features = [standardizer.transform(chip) for chip in chips]
    for index, column in enumerate(NUMERIC):
        values = [read_column(chip, column) for chip in chips if read_column(chip, column) is not None]
        assert standardizer.numeric[index].known == len(values)
        standardized = np.array([f.numeric[index] for f in features if f.mask[index]], dtype=np.float64)
        if len(values) and np.std(values) > 1e-6 * (1 + abs(np.mean(values))):
            assert standardized.mean() == pytest.approx(0.0, abs=1e-5)
            assert standardized.std() == pytest.approx(1.0, rel=1e-5)


@given(CHIPS)
def test_statistics_are_those_of_the_formula(chips: list[Metadata]) -> None:
    for column, found in zip(NUMERIC, fit(chips).numeric, strict=True):
        values = [value for chip in chips if (value := read_column(chip, column)) is not None]
        if not values:
            assert (found.mean, found.std, found.known) == (0.0, 1.0, 0)
            continue
        assert found.mean == pytest.approx(np.mean(values), abs=1e-12)
        if len(set(values)) == 1:
            assert found.std == 1.0
        elif np.std(values) > 1e-7 * abs(np.mean(values)):
            assert found.std == pytest.approx(np.std(values))


@given(CHIPS, st.randoms(use_true_random=False))
def test_the_order_of_the_samples_changes_no_bit(chips: list[Metadata], shuffler: random.Random) -> None:
    shuffled = list(chips)
    shuffler.shuffle(shuffled)
    assert fit(shuffled) == fit(chips)


@given(CHIPS)
def test_json_brings_the_same_standardizer_back(chips: list[Metadata]) -> None:
    standardizer = fit(chips)
    assert Standardizer.from_json(json.loads(json.dumps(standardizer.to_json()))) == standardizer


def test_json_names_the_field_and_unit_of_every_column() -> None:
    data = fit([]).to_json()
    assert [entry["name"] for entry in data["numeric"]] == [column.name for column in NUMERIC]
    sizes = {entry["name"]: (entry["field"], entry["unit"]) for entry in data["numeric"]}
    assert sizes["gsd_x"] == ("gsd", "m")
    assert sizes["hour"] == ("timestamp", "hour, 0 to 23, UTC")
    assert sizes["latitude"] == ("location", "degree")
    assert [entry["name"] for entry in data["categorical"]] == [
        "utm_zone", "country_code", "scan_direction", "wavelengths", "sensor_platform",
    ]  # fmt: skip


def test_columns_of_another_version_are_refused() -> None:
    data = fit([]).to_json()
    data["numeric"][0]["name"] = "gsd"
    with pytest.raises(ValueError, match=r"columns of dataset.json"):
        Standardizer.from_json(data)


def test_a_constant_column_becomes_zero_and_comes_back() -> None:
    standardizer = fit([Metadata(cloud_cover=0.1)] * 10)
    index = [column.name for column in NUMERIC].index("cloud_cover")
    assert standardizer.numeric[index].std == 1.0
    features = standardizer.transform(Metadata(cloud_cover=0.1))
    assert features.numeric[index] == pytest.approx(0.0, abs=1e-12)
    assert features.mask[index]
    assert standardizer.invert(features)["cloud_cover"] == pytest.approx(0.1)


@pytest.mark.parametrize(("noise", "constant"), [(1e-15, True), (1e-10, True), (1e-6, False)])
def test_rounding_is_no_feature(noise: float, constant: bool) -> None:
    """The pixel size of one raster in metres, asked for at many places: the same but for its last digits."""
    chips = [Metadata(pixel_size=(9e-5 * (1 + noise * k), 9e-5)) for k in range(-50, 50)]
    index = [column.name for column in NUMERIC].index("pixel_size_x")
    numbers = [fit(chips).transform(chip).numeric[index] for chip in chips]
    assert np.std(numbers) == pytest.approx(0.0 if constant else 1.0, abs=1e-6)


def test_a_zero_is_known_and_a_missing_value_is_not() -> None:
    standardizer = fit([Metadata(cloud_cover=0.0), Metadata(cloud_cover=10.0), Metadata()])
    index = [column.name for column in NUMERIC].index("cloud_cover")
    assert (standardizer.numeric[index].mean, standardizer.numeric[index].std) == (5.0, 5.0)
    zero, missing = standardizer.transform(Metadata(cloud_cover=0.0)), standardizer.transform(Metadata())
    assert (zero.numeric[index], zero.mask[index]) == (-1.0, True)
    assert (missing.numeric[index], missing.mask[index]) == (0.0, False)
    assert standardizer.invert(missing)["cloud_cover"] is None


def test_a_category_that_train_never_saw_is_unknown() -> None:
    standardizer = fit([Metadata(country_code="PER"), Metadata(country_code="CHE")])
    index = [column.name for column in CATEGORICAL].index("country_code")
    assert standardizer.vocabularies[index] == ("CHE", "PER")
    codes = [standardizer.transform(Metadata(country_code=c)).categorical[index] for c in ("CHE", "PER", "FJI", None)]
    assert codes == [1, 2, 0, 0]
    assert standardizer.invert(standardizer.transform(Metadata(country_code="FJI")))["country_code"] is None


def test_a_time_gives_its_five_numbers_and_wavelengths_one_word() -> None:
    values = raw(Metadata(datetime=dt.datetime(2015, 9, 21, 15, 30, 8, tzinfo=dt.UTC), wavelengths=(661, 545, 477)))
    assert [values[name] for name in ("year", "month", "day", "hour", "weekday")] == [2015, 9, 21, 15, 0]
    assert values["wavelengths"] == "661-545-477"
