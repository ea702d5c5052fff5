"""Drawn samples, excluded ones, equal chips in two splits, lists of others, and destinations that cannot be written to."""

import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from satmip_data.cli import commands
from satmip_data.execution.engines import Local
from satmip_data.pipeline.build import build
from satmip_data.pipeline.equal_chips import equal_chips
from satmip_data.pipeline.index import build_index
from satmip_data.pipeline.request import BuildRequest
from satmip_data.pipeline.selection import Selection, SelectionError, read_exclusions, select
from satmip_data.pipeline.settings import BuildSettings
from satmip_data.records import Metadata, Sample, Window
from satmip_data.shards.tar import read_samples
from satmip_data.sources import SOURCES
from satmip_data.validation import validate
from tests.data.archives.make import pixels, write_class_folders, write_raster

KEEP = BuildSettings(size=None)


def sample(number: int, split: str, category: str) -> Sample:
    nothing = Metadata()
    return Sample(f"s{number}", split, f"s{number}", category, f"{number}.jpg", 8, 8, Window(0, 0, 8, 8), nothing, nothing, None)


@given(st.lists(st.tuples(st.sampled_from(["train", "val"]), st.sampled_from("abc")), min_size=1, max_size=60), st.integers(1, 70))
def test_each_class_of_each_split_keeps_its_share_of_what_is_drawn(kinds: list[tuple[str, str]], count: int) -> None:
    samples = [sample(number, *kind) for number, kind in enumerate(kinds)]
    drawn, dropped = select(samples, Selection(sample=count), seed=3)
    assert len(drawn) == min(count, len(samples))
    assert dropped == {"sample": len(samples) - len(drawn)}
    assert list(drawn) == [one for one in samples if one in drawn]
    assert drawn == select(samples, Selection(sample=count), seed=3)[0]
    before, after = Counter(kinds), Counter((one.split, one.category) for one in drawn)
    for kind, all_of_it in before.items():
        assert abs(after[kind] - all_of_it * len(drawn) / len(samples)) < 2


def test_a_sample_of_an_archive_that_is_sorted_by_class_has_all_classes(tmp_path: Path) -> None:
    write_class_folders(tmp_path / "set", ("Forest", "River", "SeaLake"), 6)
    command = ["build", str(tmp_path / "set"), str(tmp_path / "out"), "--source", "eurosat", "--workers", "1", "--sample", "6"]
    run = CliRunner().invoke(commands.main, command)
    assert run.exit_code == 0, run.output
    assert "--sample" in run.output
    assert json.loads((tmp_path / "out/dataset.json").read_text())["classes"] == ["Forest", "River", "SeaLake"]
    run = CliRunner().invoke(commands.main, [*command[:-1], "7"])
    assert run.exit_code == 1
    assert "settings.selection.sample" in run.output


def keys_of(out: Path) -> dict[str, str]:
    return {key: path.parent.name for path in out.rglob("*.tar") for key, _ in read_samples(path.read_bytes())}


def test_equal_chips_in_two_splits_are_listed_as_exclude_takes_them(tmp_path: Path) -> None:
    root = tmp_path / "set"
    for number, name in enumerate(("train/a/1", "train/a/2", "train/b/3", "val/a/4", "test/b/5", "test/b/6")):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(number).integers(0, 255, (16, 16, 3), np.uint8)).save(root / f"{name}.png")
    for copy, name in {"test/b/7": "train/a/1", "val/a/8": "train/a/1", "val/a/9": "train/b/3", "train/a/10": "train/a/2"}.items():
        shutil.copy(root / f"{name}.png", root / f"{copy}.png")
    command = ["build", str(root), str(tmp_path / "out"), "--source", "imagefolder", "--workers", "1"]
    run = CliRunner().invoke(commands.main, command)
    listed = tmp_path / "out/equal_chips.txt"
    assert "3 chips" in run.output
    assert str(listed) in run.output
    names = {line.split(" # ")[0]: line.split(" # ")[1] for line in listed.read_text().splitlines() if not line.startswith("#")}
    assert names == {"train_a_1": "test/test_b_7", "val_a_8": "test/test_b_7", "train_b_3": "val/val_a_9"}
    assert validate.validate(str(tmp_path / "out")).problems == ()
    run = CliRunner().invoke(commands.main, [*command[:2], str(tmp_path / "other"), *command[3:], "--exclude", str(listed)])
    assert run.exit_code == 0, run.output
    assert keys_of(tmp_path / "other") == {key: split for key, split in keys_of(tmp_path / "out").items() if key not in names}
    assert not (tmp_path / "other/equal_chips.txt").exists()
    assert json.loads((tmp_path / "other/dataset.json").read_text())["dropped"] == {"exclude": 3}


def test_a_list_of_exclusions_names_keys_or_paths(tmp_path: Path) -> None:
    samples = [sample(number, "train", "a") for number in range(4)]
    (tmp_path / "list.txt").write_text("# comment\ns0\n 2.jpg \n\ns9\n")
    exclude = read_exclusions(str(tmp_path / "list.txt"))
    assert [one.key for one in select(samples, Selection(exclude=exclude))[0]] == ["s1", "s3"]
    (tmp_path / "empty.txt").write_text("# nothing\n")
    for path in ("empty.txt", "none.txt"):
        with pytest.raises(SelectionError, match=path):
            read_exclusions(str(tmp_path / path))
    with pytest.raises(SelectionError, match="--exclude"):
        select(samples, Selection(exclude=frozenset({"s7"})))


@given(st.lists(st.tuples(st.sampled_from(["test", "train", "val", "x"]), st.integers(0, 3)), max_size=12))
def test_without_what_is_listed_no_chip_stands_in_two_splits(chips: list[tuple[str, int]]) -> None:
    rows = [(split, f"k{number}", str(digest)) for number, (split, digest) in enumerate(chips)]
    equal = equal_chips(rows)
    kept = [row for row in rows if row[1] not in equal]
    assert equal_chips(kept) == {}
    assert {digest for _, _, digest in kept} == {digest for _, _, digest in rows}
    assert all(other.partition("/")[2] not in equal for other in equal.values())


def test_lists_of_torchgeo_fit_the_13_bands_of_eurosat_and_uc_merced(tmp_path: Path) -> None:
    values = pixels(np.random.default_rng(0), 8, 8, 13, 1, 3000)
    for number in range(3):
        write_raster(tmp_path / f"eurosat/River/River_{number}.tif", values.astype(np.uint16))
    lists = tmp_path / "lists"
    lists.mkdir()
    for number, split in enumerate(("train", "val", "test")):
        (lists / f"eurosat-{split}.txt").write_text(f"River_{number}.jpg\n")
    source = SOURCES["eurosat"](split_file=str(lists), stretch="minmax:0,3000")
    found = build_index(source, str(tmp_path / "eurosat"), KEEP, Local())
    assert [one.split for one in found.samples] == ["train", "val", "test"]
    folder = tmp_path / "merced/Images/river"
    folder.mkdir(parents=True)
    merced = tmp_path / "uc"
    merced.mkdir()
    for number, (split, height) in enumerate((("train", 256), ("val", 256), ("test", 242))):
        Image.fromarray(np.random.default_rng(number).integers(1, 255, (height, 256, 3), np.uint8)).save(
            folder / f"river0{number}.tif"
        )
        (merced / f"uc_merced-{split}.txt").write_text(f"river0{number}.tif\n")
    out = tmp_path / "out"
    command = ["build", str(tmp_path / "merced"), str(out), "--source", "ucmerced", "--split-file", str(merced), "--workers", "1"]
    run = CliRunner().invoke(commands.main, command)
    dataset = json.loads((out / "dataset.json").read_text())
    assert {split: entry["samples"] for split, entry in dataset["splits"].items()} == {"train": 1, "test": 2}
    assert dataset["size"] == [256, 256]
    assert "satmip-train --shards" in run.output


def test_a_destination_that_cannot_be_written_to_is_found_before_anything_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_class_folders(tmp_path / "set", ("a",), 2)
    (tmp_path / "file").write_text("x")
    (tmp_path / "closed").mkdir()
    monkeypatch.setattr("os.access", lambda path, mode: "closed" not in str(path))
    source = SOURCES["imagefolder"]()
    monkeypatch.setattr(type(source), "list_items", lambda *_: pytest.fail("the source was read"))
    for out, word in (("file", "is a file"), ("file/out", "is a file"), ("closed/a/b", "may not be written")):
        with pytest.raises(OSError, match=word):
            build(BuildRequest(source, str(tmp_path / "set"), str(tmp_path / out), KEEP))
    with pytest.raises(OSError, match="web server"):
        build(BuildRequest(source, str(tmp_path / "set"), "http://127.0.0.1:1/out", KEEP))


def test_what_follows_a_build_is_what_can_follow_it(tmp_path: Path) -> None:
    for number, size in enumerate((8, 9)):
        (tmp_path / "set/train/a").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (size, size), (9, number, 9)).save(tmp_path / f"set/train/a/{number}.png")
    command = ["build", str(tmp_path / "set"), "--source", "imagefolder", "--workers", "1"]
    run = CliRunner().invoke(commands.main, [*command[:2], str(tmp_path / "mixed"), *command[2:]])
    assert "satmip-train" not in run.output.splitlines()[-1]
    assert "--size 224" in run.output.splitlines()[-1]
    (tmp_path / "set/train").rename(tmp_path / "set/val")
    run = CliRunner().invoke(commands.main, [*command[:2], str(tmp_path / "val"), *command[2:], "--size", "8"])
    assert "satmip-train" not in run.output.splitlines()[-1]
