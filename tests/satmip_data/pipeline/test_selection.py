"""Selections of samples, and the retry of pixel failures."""

import itertools
import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from helpers.fmow_tree import contents, write_fmow_tree
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from satmip_data.errors import BuildError
from satmip_data.execution.progress import Progress
from satmip_data.pipeline import recaption
from satmip_data.pipeline.build import build, plan_build
from satmip_data.pipeline.estimate import estimate, spread_by_size
from satmip_data.pipeline.pack import EncodedSample
from satmip_data.pipeline.recaption import CaptionRewrite
from satmip_data.pipeline.request import BuildRequest
from satmip_data.pipeline.selection import Selection, SelectionError, select
from satmip_data.pipeline.settings import BuildSettings
from satmip_data.records import Reject
from satmip_data.sources import SOURCES
from satmip_data.validation import validate

SETTINGS = BuildSettings(samples_per_shard=5, size=32)


def request(root: Path, out: Path, **options: object) -> BuildRequest:
    return replace(BuildRequest(SOURCES["fmow"](), str(root), str(out), SETTINGS), **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("fmow")
    write_fmow_tree(root)
    return root


@pytest.mark.parametrize(
    ("selection", "keep"),
    [
        (Selection(splits=("val",)), lambda s: s.split == "val"),
        (Selection(categories=("airport", "solar_farm")), lambda s: s.category in ("airport", "solar_farm")),
        (Selection(where="cloud_cover < 30"), lambda s: s.metadata.cloud_cover < 30),
        (
            Selection(where="cloud_cover < 30 and latitude > 0"),
            lambda s: s.metadata.cloud_cover < 30 and s.metadata.location[1] > 0,
        ),
        (Selection(where="country_code == 'FRA'"), lambda s: s.metadata.country_code == "FRA"),
        (Selection(where="year in [2011, 2013]"), lambda s: s.metadata.datetime.year in (2011, 2013)),
        (Selection(where="timestamp >= '2013-01-01'"), lambda s: s.metadata.datetime.year >= 2013),
        (Selection(where="gsd_x < 1 and scene_width > 80"), lambda s: s.metadata.gsd[0] < 1 and s.scene_width > 80),
    ],
)
def test_a_selection_is_a_loop(tree: Path, tmp_path: Path, selection: Selection, keep: object) -> None:
    samples = plan_build(request(tree, tmp_path / "out")).index.samples
    expected = tuple(sample for sample in samples if keep(sample))  # type: ignore[operator]
    chosen, dropped = select(samples, selection)
    assert 0 < len(expected) < len(samples)
    assert chosen == expected
    assert sum(dropped.values()) == len(samples) - len(expected)


def test_missing_values_fail_every_comparison(tree: Path, tmp_path: Path) -> None:
    samples = plan_build(request(tree, tmp_path / "out")).index.samples[:2]
    unknown = replace(samples[0], metadata=replace(samples[0].metadata, cloud_cover=None, country_code=None, datetime=None))
    for where in ("cloud_cover < 200", "cloud_cover >= 0", "country_code > ''", "year > 0", "timestamp > '1900-01-01'"):
        assert select([unknown, samples[1]], Selection(where=where))[0] == (samples[1],), where


@pytest.mark.parametrize(
    ("where", "kept"),
    [
        ("cloud_cover != -1", False),
        ("not cloud_cover < 0", False),
        ("~(cloud_cover < 0)", False),
        ("not (cloud_cover < 0 or country_code == 'ZZZ')", False),
        ("country_code != 'ZZZ'", False),
        ("country_code not in ['ZZZ', 'YYY']", False),
        ("timestamp != '1900-01-01'", False),
        ("-1 < cloud_cover < 200", False),
        ("not not cloud_cover >= 0", False),
        ("cloud_cover < 0 or scene_width > 0", True),  # what is known decides
        ("(cloud_cover < 0) | (scene_width > 0)", True),
        ("not (cloud_cover < 0 and scene_width < 0)", True),
        ("cloud_cover > -1 and scene_width > 0", False),
        ("gsd_x > 0 & scene_width > 0", True),  # as pandas reads it
        ("cloud_cover.isna() or year > 0", True),  # asked for
    ],
)
def test_what_is_not_known_neither_holds_nor_fails(tree: Path, tmp_path: Path, where: str, kept: bool) -> None:
    samples = plan_build(request(tree, tmp_path / "out")).index.samples[:2]
    unknown = replace(samples[0], metadata=replace(samples[0].metadata, cloud_cover=None, country_code=None, datetime=None))
    assert select([unknown, samples[1]], Selection(where=where))[0] == ((unknown, samples[1]) if kept else (samples[1],))


@pytest.mark.parametrize(
    ("where", "kept"),
    [
        ("timestamp == '{0}'", "first"),
        ("'{0}' == timestamp", "first"),
        ("timestamp in ['{0}']", "first"),
        ("timestamp in ('{0}', '1900-01-01')", "first"),
        ("timestamp != '{0}'", "others"),
        ("not timestamp == '{0}'", "others"),
        ("timestamp not in ['{0}', '1900-01-01']", "others"),
        ("timestamp == '{0}Z'", "first"),
        ("timestamp == '2014-02-03T06:05:06+02:00'", "first"),
        ("timestamp in ['2014-02-03T06:05:06+02:00', '1900-01-01']", "first"),
        ("'1900-01-01T00:00:00+02:00' < timestamp <= '{0}'", "first"),
    ],
)
def test_a_date_equals_its_time(tree: Path, tmp_path: Path, where: str, kept: str) -> None:
    samples = plan_build(request(tree, tmp_path / "out")).index.samples
    times = [datetime(2014 + i, 2, 3, 4, 5, 6, tzinfo=UTC) for i in range(3)]
    three = [replace(s, metadata=replace(s.metadata, datetime=t)) for s, t in zip(samples, times, strict=False)]
    chosen, _ = select(three, Selection(where=where.format("2014-02-03T04:05:06")))
    assert chosen == tuple({"first": three[:1], "others": three[1:]}[kept])


NUMBERS, TEXTS = ("cloud_cover", "scene_width", "off_nadir_angle"), ("country_code", "path")


@st.composite
def conditions(draw: st.DrawFn, depth: int = 3) -> str:
    """A random condition that pandas reads, too."""
    number = st.sampled_from(["-1", "0", "2.5", "1e1", "30", "+7", "64"])
    text = st.sampled_from(["'FRA'", '"USA"', "''", "'a/b.jpg'"])
    order = st.sampled_from(["<", "<=", ">", ">=", "==", "!="])
    kind = draw(st.integers(0, 4 if depth == 0 else 9))
    column, value = (st.sampled_from(NUMBERS), number) if draw(st.booleans()) else (st.sampled_from(TEXTS), text)
    if kind < 2:
        return f"{draw(column)} {draw(order)} {draw(value | column)}"
    if kind == 2:
        return f"{draw(column)} {draw(st.sampled_from(['in', 'not in', '==', '!=']))} [{draw(value)}, {draw(value)}]"
    if kind == 3:
        return f"{draw(value)} {draw(order)} {draw(column)} {draw(order)} {draw(value)}"
    if kind == 4:
        return f"{draw(column)}.{draw(st.sampled_from(['isna', 'notna']))}()"
    inner = conditions(depth - 1)
    if kind == 5:
        return f"({draw(inner)})"
    if kind == 6:
        return draw(st.sampled_from(["not {}", "~({})"])).format(draw(inner))
    return f"{draw(inner)} {draw(st.sampled_from(['and', 'or', '&', '|']))} {draw(inner)}"


def test_conditions_are_those_of_pandas_where_nothing_is_missing(tree: Path, tmp_path: Path) -> None:
    found = plan_build(request(tree, tmp_path / "out")).index.samples
    samples = [
        replace(s, path=path, scene_width=width, metadata=replace(s.metadata, cloud_cover=cloud, country_code=code, off_nadir=off))
        for s, (path, width, cloud, code, off) in zip(
            found,
            itertools.product(("a/b.jpg", ""), (64, 7), (0.0, 2.5, 30.0), ("FRA", "USA"), (2.5, 10.0)),
            strict=False,
        )
    ]
    table = pd.DataFrame(
        {
            "path": [s.path for s in samples],
            "scene_width": [s.scene_width for s in samples],
            "cloud_cover": [s.metadata.cloud_cover for s in samples],
            "country_code": [s.metadata.country_code for s in samples],
            "off_nadir_angle": [s.metadata.off_nadir for s in samples],
        }
    )

    @given(conditions())
    @settings(max_examples=200, deadline=None)
    def check(where: str) -> None:
        expected = table.query(where, engine="python").index
        assert select(samples, Selection(where=where))[0] == tuple(samples[i] for i in expected)

    check()


@pytest.mark.parametrize(
    ("where", "place", "told"),
    [
        ("clouds < 30", 0, "cloud_cover"),
        ("cloud_cover <", 13, "early"),
        ("cloud_cover + 1 < 3", 12, "calculated"),
        ("3", 0, "condition"),
        ("country_code < 5", 15, "'FRA'"),
        ("timestamp == 'now'", 13, "date"),
        ("timestamp >= 2016", 13, "year"),
        ("timestamp.dt.year == 2016", 9, "timestamp.isna()"),
        ("cloud_cover > 0 and cloud_cover", 20, "condition"),
        ("not (cloud_cover > 1", 20, "character 5"),
        ("cloud_cover = 3", 12, "=="),
        ("country_code == 'FRA", 16, "end"),
        ("cloud_cover.to_pickle('x')", 11, "isna()"),
        ("@pd.read_pickle('x')", 0, "@"),
        ("__import__('os').system('touch x')", 0, "__import__"),
        ("year > 0 year < 1", 9, "year"),
        ("year in path", 5, "list"),
        ("cloud_cover < country_code", 14, "text"),
        (60 * "(" + "year > 0", 50, "50"),
        (9999 * "~" + "(year > 0)", 50, "50"),
    ],
)
def test_what_is_no_condition_is_pointed_at(where: str, place: int, told: str) -> None:
    with pytest.raises(SelectionError) as caught:
        Selection(where=where)
    problem, shown, pointer = str(caught.value).split("\n")
    assert told in problem
    assert shown[pointer.index("^") :] == where[place:]


def test_a_wrong_name_or_an_empty_selection_is_refused_with_advice(tree: Path, tmp_path: Path) -> None:
    with pytest.raises(SelectionError, match=r'Unknown split "test".*train, val'):
        plan_build(request(tree, tmp_path / "out", selection=Selection(splits=("test",))))
    with pytest.raises(SelectionError, match=r'Unknown category "port".*Did you mean "airport"'):
        plan_build(request(tree, tmp_path / "out", selection=Selection(categories=("airport", "port"))))
    with pytest.raises(BuildError, match="of 36: --where drops 36"):
        plan_build(request(tree, tmp_path / "out", selection=Selection(where="cloud_cover > 100")))


def test_a_selection_is_recorded_counted_and_part_of_the_settings(tree: Path, tmp_path: Path) -> None:
    chosen = request(tree, tmp_path / "out", selection=Selection(splits=("train",), where="cloud_cover < 30"))
    dataset = build(chosen)
    assert dataset["settings"]["selection"] == {"splits": ["train"], "categories": [], "where": "cloud_cover < 30"}
    assert list(dataset["splits"]) == ["train"]
    assert dataset["dropped"]["split"] == 18
    assert dataset["dropped"]["where"] == 18 - dataset["splits"]["train"]["samples"] > 0
    assert dataset["rejects"] == {}
    assert validate.validate(str(tmp_path / "out")).problems == ()
    with pytest.raises(BuildError, match="where: 'cloud_cover < 30' before, '' now"):
        build(replace(chosen, selection=Selection(splits=("train",))))


# --- retries ---


@pytest.fixture
def broken(tmp_path: Path) -> tuple[Path, dict[Path, bytes]]:
    """A tree with two images that cannot be read, and one without metadata; with what mends the two."""
    paths = write_fmow_tree(tmp_path / "fmow")
    mend = {path: path.read_bytes() for path in (paths[0], paths[20])}
    for path in mend:
        path.write_bytes(b"not an image")
    paths[5].with_suffix(".json").unlink()
    return tmp_path / "fmow", mend


def repair(mend: dict[Path, bytes]) -> None:
    for path, data in mend.items():
        path.write_bytes(data)


def test_a_retry_of_a_finished_build_writes_the_shards_concerned_alone(
    broken: tuple[Path, dict[Path, bytes]], tmp_path: Path
) -> None:
    root, mend = broken
    out = tmp_path / "out"
    assert build(request(root, out))["rejects"] == {"image_unreadable": 2, "metadata_missing": 1}
    written = {path: path.stat().st_mtime_ns for path in out.rglob("*.tar")}
    repair(mend)
    assert build(request(root, out))["rejects"]["image_unreadable"] == 2  # without the flag nothing is read again
    dataset = build(request(root, out, retry_rejects=True))
    assert dataset["rejects"] == {"metadata_missing": 1}
    changed = [path for path, time in written.items() if path.stat().st_mtime_ns != time]
    assert len(changed) == 2
    assert validate.validate(str(out)).problems == ()
    build(request(root, tmp_path / "clean"))
    assert contents(out) == contents(tmp_path / "clean")


def test_a_retry_that_fails_again_leaves_the_same_build(broken: tuple[Path, dict[Path, bytes]], tmp_path: Path) -> None:
    root, _ = broken
    out = tmp_path / "out"
    build(request(root, out))
    before = contents(out)
    build(request(root, out, retry_rejects=True))
    assert contents(out) == before


def test_a_retry_of_an_unfinished_build(broken: tuple[Path, dict[Path, bytes]], tmp_path: Path) -> None:
    root, mend = broken
    out = tmp_path / "out"
    with pytest.raises(BuildError, match="--retry-rejects"):
        build(request(root, out, max_rejects=1))
    repair(mend)
    with pytest.raises(BuildError, match="3 rejects, and --max-rejects allows 1"):
        build(request(root, out, max_rejects=1))
    assert build(request(root, out, max_rejects=1, retry_rejects=True))["rejects"] == {"metadata_missing": 1}
    build(request(root, tmp_path / "clean"))
    assert contents(out) == contents(tmp_path / "clean")


def test_a_retry_stopped_half_way_is_finished_with_and_without_the_flag(
    broken: tuple[Path, dict[Path, bytes]], tmp_path: Path
) -> None:
    root, mend = broken
    for again in (True, False):
        out = tmp_path / f"out{again}"
        for path in mend:
            path.write_bytes(b"not an image")
        total = len(build(request(root, out))["shards"])
        repair(mend)

        def stop(progress: Progress, total: int = total) -> None:
            if progress.stage == "pack" and progress.done == total - 1:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            build(request(root, out, retry_rejects=True), stop)
        assert not (out / "dataset.json").exists()
        assert build(request(root, out, retry_rejects=again))["rejects"] == {"metadata_missing": 1}
        assert validate.validate(str(out)).problems == ()


def test_a_retry_keeps_captions_that_were_rewritten(broken: tuple[Path, dict[Path, bytes]], tmp_path: Path) -> None:
    root, mend = broken
    out = tmp_path / "out"
    build(request(root, out))
    recaption.recaption(str(out), CaptionRewrite(("location",), "sentence"))
    repair(mend)
    dataset = build(request(root, out, retry_rejects=True))
    assert dataset["caption"]["fields"] == ["location"]
    assert validate.validate(str(out)).problems == ()
    wanted = replace(SETTINGS, fields=("location",), style="sentence")
    build(request(root, tmp_path / "clean", settings=wanted))
    assert contents(out) == contents(tmp_path / "clean")


def test_a_retry_refuses_other_metadata(broken: tuple[Path, dict[Path, bytes]], tmp_path: Path) -> None:
    root, mend = broken
    build(request(root, tmp_path / "out"))
    before = contents(tmp_path / "out")
    repair(mend)
    record = next(iter(mend)).with_suffix(".json")
    record.write_text(json.dumps({**json.loads(record.read_text()), "cloud_cover": 99}))
    with pytest.raises(BuildError, match="have changed since"):
        build(request(root, tmp_path / "out", retry_rejects=True))
    assert contents(tmp_path / "out") == before


def test_a_shard_without_any_sample_comes_back(tmp_path: Path) -> None:
    paths = write_fmow_tree(tmp_path / "fmow", places=2, images=2)
    mend = {path: path.read_bytes() for path in paths if "/val/" in str(path)}
    for path in mend:
        path.write_bytes(b"not an image")
    assert list(build(request(tmp_path / "fmow", tmp_path / "out"))["splits"]) == ["train"]
    repair(mend)
    assert list(build(request(tmp_path / "fmow", tmp_path / "out", retry_rejects=True))["splits"]) == ["train", "val"]
    build(request(tmp_path / "fmow", tmp_path / "clean"))
    assert contents(tmp_path / "out") == contents(tmp_path / "clean")


# --- the dry run ---


def test_an_estimate_is_near_what_a_build_writes(tree: Path, tmp_path: Path) -> None:
    wanted = request(tree, tmp_path / "out")
    expected = estimate(wanted, plan_build(wanted))
    assert not (tmp_path / "out").exists()
    dataset = build(wanted)
    written = sum(shard["bytes"] for shard in dataset["shards"])
    # A tar is filled up to 10,240 bytes.
    assert expected.bytes == pytest.approx(written, rel=0.05, abs=10_240 * len(dataset["shards"]))
    assert expected.tried == 32
    assert expected.seconds > 0
    assert expected.problems == ()


def test_an_estimate_finds_problems_and_counts_workers(broken: tuple[Path, dict[Path, bytes]], tmp_path: Path) -> None:
    root, mend = broken
    wanted = request(root, tmp_path / "out")
    plan = plan_build(wanted)
    found = estimate(wanted, plan, tried=35)
    assert {root / problem.path for problem in found.problems} == set(mend)


def test_the_time_of_the_samples_tried_is_that_of_all_on_so_many_workers(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([0.0, 10.0])
    wanted = replace(request(tree, tmp_path / "out"), workers=5)
    plan = plan_build(wanted)
    monkeypatch.setattr("satmip_data.pipeline.estimate.time", SimpleNamespace(perf_counter=lambda: next(clock)))
    assert estimate(wanted, plan, tried=4).seconds == pytest.approx(10.0 / 4 * 36 / 5)


@pytest.mark.parametrize("chips", [0, 1, 4])
def test_bytes_are_those_of_the_samples_that_gave_a_chip(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chips: int
) -> None:
    wanted = request(tree, tmp_path / "out")
    plan = plan_build(wanted)
    chip = EncodedSample({"jpg": bytes(600), "txt": bytes(512)}, "", Image.new("RGB", (1, 1)))
    tried = [(None, chip)] * chips + [(None, Reject("a.jpg", "pack", "decode", "broken"))] * (4 - chips)
    clock = iter([0.0, 10.0])
    monkeypatch.setattr("satmip_data.pipeline.estimate.time", SimpleNamespace(perf_counter=lambda: next(clock)))
    monkeypatch.setattr("satmip_data.pipeline.estimate.encode_samples", lambda *_: tried)
    found = estimate(wanted, plan, tried=4)
    # A header and whole blocks for each member.
    assert (found.bytes, found.tried, len(found.problems)) == (36 * (512 + 1024 + 512 + 512) * bool(chips), 4, 4 - chips)
    assert found.seconds == pytest.approx(10.0 / 4 * 36)  # those that failed took time, too


def test_the_samples_tried_are_spread_over_all_sizes(tree: Path, tmp_path: Path) -> None:
    samples = plan_build(request(tree, tmp_path / "out")).index.samples
    sizes = [s.scene_width * s.scene_height for s in spread_by_size(samples, 6)]
    ordered = sorted(s.scene_width * s.scene_height for s in samples)
    for group, size in enumerate(sizes):
        assert ordered[group * 6] <= size <= ordered[group * 6 + 5]
    assert len(spread_by_size(samples, 1000)) == 36
    (middle,) = spread_by_size(samples, 1)
    assert middle.scene_width * middle.scene_height == ordered[18]


def test_rejects_of_a_build_are_listed_once(broken: tuple[Path, dict[Path, bytes]], tmp_path: Path) -> None:
    root, _ = broken
    build(request(root, tmp_path / "out"))
    table = pd.read_parquet(tmp_path / "out/rejects.parquet")
    assert sorted(table["stage"]) == ["pack", "pack", "scan"]
    assert not table["message"].str.contains("0x").any()
