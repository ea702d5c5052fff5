"""The table of the 15 fields, and captions made of it."""

import datetime as dt
import string

import pytest
from helpers.poster import POSTER, TIME
from hypothesis import given
from hypothesis import strategies as st

from satmip_data.metadata import clip_tokens
from satmip_data.metadata.captions import STYLES, caption
from satmip_data.metadata.clip_tokens import token_counter
from satmip_data.metadata.fields import ALIASES, BY_NAME, CATEGORICAL, DEFAULT_FIELDS, FIELDS, NUMERIC, parse_fields
from satmip_data.records import Metadata

ALL = tuple(field.name for field in FIELDS)
POSTER_CAPTION = (
    "gsd: [11.4546, 9.1344], multispectral_gsd: 41.1896, pixel_size: [1.03e-04, 8.23e-05], timestamp: 2015-09-21T15:30:08Z, "
    "location: [-73.310776, -3.785814], utm_zone: 18M, country_code: PER, cloud_cover: 14, scan_direction: Reverse, "
    "wavelengths: [661, 545, 477], target_azimuth_angle: 39.12, sun_azimuth_angle: 77.28, sun_elevation_angle: 70.44, "
    "off_nadir_angle: 27.70, sensor_platform: GEOEYE01"
)
ZEROS = Metadata(
    gsd=(0.0, 0.0), multispectral_gsd=0.0, pixel_size=(0.0, 0.0), location=(0.0, -0.0), cloud_cover=0.0,
    target_azimuth=0.0, sun_azimuth=-0.0, sun_elevation=0.0, off_nadir=0.0,
)  # fmt: skip


def test_the_posters_record_is_written_as_on_the_poster() -> None:
    assert caption(POSTER, ALL) == POSTER_CAPTION
    assert caption(POSTER, DEFAULT_FIELDS) == (
        "gsd: [11.4546, 9.1344], timestamp: 2015-09-21T15:30:08Z, location: [-73.310776, -3.785814]"
    )


def test_the_posters_caption_is_207_clip_tokens_and_its_default_fields_67() -> None:
    count = token_counter()
    if count is None:
        pytest.skip("neither instant_clip_tokenizer nor open_clip is installed")
    assert count(caption(POSTER, ALL)) == 207 + 2  # with start and end
    assert count(caption(POSTER, DEFAULT_FIELDS)) == 67 + 2


@pytest.mark.parametrize("installed", ["instant_clip_tokenizer", "open_clip"])
def test_either_tokenizer_counts_alike(monkeypatch: pytest.MonkeyPatch, installed: str) -> None:
    pytest.importorskip(installed)
    monkeypatch.setattr(clip_tokens, "find_spec", lambda name: name if name == installed else None)
    count = clip_tokens.token_counter.__wrapped__()
    assert count is not None
    assert count(caption(POSTER, ALL)) == 207 + 2


def test_without_a_tokenizer_nothing_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clip_tokens, "find_spec", lambda name: None)
    assert clip_tokens.token_counter.__wrapped__() is None


def test_sentences_say_the_same_record_in_words() -> None:
    assert caption(POSTER, ALL, "sentence") == (
        "Each pixel covers 11.45 m by 9.13 m on the ground. The multispectral ground sample distance is 41.19 m. "
        "A pixel spans 1.03e-04 degrees of longitude and 8.23e-05 degrees of latitude. "
        "The image was taken on Monday 21 September 2015 at 15:30 UTC. "
        "It is centred at latitude 3.7858 degrees south and longitude 73.3108 degrees west. It lies in UTM zone 18M. "
        "The country code is PER. Clouds cover 14 percent of the scene. The scan direction is reverse. "
        "The bands are centred at 661, 545, 477 nm. The target azimuth is 39.1 degrees. The sun stands at azimuth 77.3 degrees. "
        "The sun's elevation is 70.4 degrees. The view is off nadir by 27.7 degrees. The sensor is GEOEYE01."
    )


def test_the_four_quarters_of_the_earth_have_their_words() -> None:
    words = [caption(Metadata(location=(lon, lat)), ("location",), "sentence") for lon, lat in ((8.5, 47.0), (-8.5, -47.0), (0, 0))]
    assert words == [
        "It is centred at latitude 47.0000 degrees north and longitude 8.5000 degrees east.",
        "It is centred at latitude 47.0000 degrees south and longitude 8.5000 degrees west.",
        "It is centred at latitude 0.0000 degrees north and longitude 0.0000 degrees east.",
    ]


@pytest.mark.parametrize("style", STYLES)
def test_a_missing_field_is_left_out_and_changes_no_other(style: str) -> None:
    for field in FIELDS:
        values = {other.attribute: other.value(POSTER) for other in FIELDS if other is not field}
        others = tuple(name for name in ALL if name != field.name)
        assert caption(Metadata(**values), ALL, style) == caption(POSTER, others, style)
    assert caption(Metadata(), ALL, style) == ""


def test_zero_is_a_value_and_has_no_sign() -> None:
    assert caption(ZEROS, ALL) == (
        "gsd: [0.0000, 0.0000], multispectral_gsd: 0.0000, pixel_size: [0.00e+00, 0.00e+00], location: [0.000000, 0.000000], "
        "cloud_cover: 0, target_azimuth_angle: 0.00, sun_azimuth_angle: 0.00, sun_elevation_angle: 0.00, off_nadir_angle: 0.00"
    )
    assert caption(Metadata(sun_elevation=-0.001), ("sun_elevation_angle",)) == "sun_elevation_angle: 0.00"
    assert caption(Metadata(sun_elevation=-0.006), ("sun_elevation_angle",)) == "sun_elevation_angle: -0.01"


def test_fractions_of_a_second_are_not_written() -> None:
    assert caption(Metadata(datetime=TIME.replace(microsecond=999_999)), ("timestamp",)) == "timestamp: 2015-09-21T15:30:08Z"


def test_a_year_has_four_digits() -> None:
    """Also that of the first date there is, which some write for a missing one."""
    first = TIME.replace(year=1, month=1, day=1)
    assert caption(Metadata(datetime=first), ("timestamp",)) == "timestamp: 0001-01-01T15:30:08Z"


@given(st.lists(st.sampled_from(ALL), unique=True))
def test_a_caption_holds_the_asked_fields_in_the_asked_order(names: list[str]) -> None:
    text = caption(POSTER, names)
    assert text == ", ".join(f"{name}: {BY_NAME[name].text(BY_NAME[name].value(POSTER))}" for name in names)
    assert all(f"{name}: " in text for name in names)


@given(st.floats(-180, 180, exclude_max=True), st.floats(-90, 90))
def test_a_location_is_written_to_a_tenth_of_a_metre(lon: float, lat: float) -> None:
    numbers = caption(Metadata(location=(lon, lat)), ("location",)).removeprefix("location: [").removesuffix("]").split(", ")
    assert [float(number) for number in numbers] == pytest.approx([lon, lat], abs=0.50001e-6)
    assert all(len(number.split(".")[1]) == 6 for number in numbers)


def test_every_column_reads_its_own_number_of_the_posters_record() -> None:
    values = {column.name: column.read(field.value(POSTER)) for field in FIELDS for column in field.columns}
    assert values == {
        "gsd_x": 11.4546, "gsd_y": 9.1344, "multispectral_gsd": 41.1896, "pixel_size_x": 1.03e-04, "pixel_size_y": 8.23e-05,
        "year": 2015, "month": 9, "day": 21, "hour": 15, "weekday": 0, "longitude": -73.310776, "latitude": -3.785814,
        "cloud_cover": 14, "target_azimuth_angle": 39.12, "sun_azimuth_angle": 77.28, "sun_elevation_angle": 70.44,
        "off_nadir_angle": 27.70,
        "utm_zone": "18M", "country_code": "PER", "scan_direction": "Reverse", "wavelengths": "661-545-477",
        "sensor_platform": "GEOEYE01",
    }  # fmt: skip


def test_every_field_is_complete_and_every_name_means_one_thing() -> None:
    assert len(FIELDS) == 15
    assert len(BY_NAME) == 15
    assert [field.attribute for field in FIELDS] == list(Metadata.__slots__)
    columns = [column.name for column in (*NUMERIC, *CATEGORICAL)]
    assert len(set(columns)) == len(columns)
    aliases = [alias for field in FIELDS for alias in field.aliases]
    assert len(set(aliases)) == len(aliases)
    assert not set(aliases) & set(BY_NAME)
    for field in FIELDS:
        assert field.about
        assert field.columns
        assert set(field.name) <= set(string.ascii_lowercase + "_")
        assert field.value(POSTER) is not None
        assert all(column.read(field.value(POSTER)) is not None for column in field.columns)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("gsd", ("gsd",)),
        ("time", ("timestamp",)),
        ("loc", ("location",)),
        ("loc,time, GSD", ("gsd", "timestamp", "location")),
        ("gsd,gsd", ("gsd",)),
        ("angles", ("target_azimuth_angle", "sun_azimuth_angle", "sun_elevation_angle", "off_nadir_angle")),
        ("angles,sun_azimuth", ("target_azimuth_angle", "sun_azimuth_angle", "sun_elevation_angle", "off_nadir_angle")),
        ("all", ALL),
        ("location,", ("location",)),
    ],
)
def test_names_and_aliases_stand_for_fields_in_the_tables_order(text: str, names: tuple[str, ...]) -> None:
    assert parse_fields(text) == names


def test_every_name_and_alias_is_understood() -> None:
    for name in (*BY_NAME, *ALIASES):
        assert set(parse_fields(name)) <= set(ALL)
        assert parse_fields(name)


@pytest.mark.parametrize(
    ("text", "told"), [("", "satmip-data fields"), (" , ", "satmip-data fields"), ("gsd,tme", '"tme".*"time"')]
)
def test_other_names_are_refused_with_the_nearest_one(text: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        parse_fields(text)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_metadata_refuse_what_is_no_number(value: float) -> None:
    scalars = "multispectral_gsd", "cloud_cover", "target_azimuth", "sun_azimuth", "sun_elevation", "off_nadir"
    points = [{name: point} for name in ("gsd", "pixel_size", "location") for point in ((1.0, value), (value, 0.0))]
    for values in (*({name: value} for name in scalars), *points):
        with pytest.raises(ValueError, match=f"^{next(iter(values))} .*finite"):
            Metadata(**values)


@pytest.mark.parametrize("time", [TIME.replace(tzinfo=None), TIME.replace(tzinfo=dt.timezone(dt.timedelta(hours=2)))])
def test_metadata_refuse_times_that_are_not_utc(time: dt.datetime) -> None:
    with pytest.raises(ValueError, match=r"datetime .*UTC"):
        Metadata(datetime=time)
