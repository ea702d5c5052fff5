"""A build from raw scenes to a shard directory: determinism, resumption, rejects, refusals."""

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from dataclasses import replace
from pathlib import Path

import geopandas
import numpy as np
import pandas as pd
import pytest
from helpers.fmow_builds import SETTINGS, request
from helpers.fmow_tree import contents, write_fmow_tree
from PIL import Image

from satmip_data.errors import BuildError
from satmip_data.execution.engines import Local
from satmip_data.execution.progress import Progress
from satmip_data.imagery import decoders
from satmip_data.pipeline import recaption
from satmip_data.pipeline.build import build
from satmip_data.pipeline.index import MAX_KEY, build_index, samples_of
from satmip_data.pipeline.journal import Journal, differences
from satmip_data.pipeline.recaption import CaptionRewrite
from satmip_data.pipeline.request import BuildRequest
from satmip_data.pipeline.settings import BuildSettings
from satmip_data.records import Aoi, Metadata, Reject, Sample, Scene
from satmip_data.shards.record import CaptionCount, ChannelSums, ShardRecord
from satmip_data.sources import SOURCES
from satmip_data.storage.store import LockedError, Store
from satmip_data.validation import validate


def test_the_index_is_the_same_however_its_items_are_divided(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = build_index(SOURCES["fmow"](), str(tree), SETTINGS, Local())
    assert len(whole.samples) == 36
    told: list[Progress] = []
    monkeypatch.setattr("satmip_data.pipeline.index.ITEMS_A_TASK", 7)
    assert build_index(SOURCES["fmow"](), str(tree), SETTINGS, Local(), show=told.append) == whole
    assert [(progress.done, progress.total) for progress in told] == [(i, 6) for i in range(1, 7)]
    assert [progress.samples for progress in told] == [7, 14, 21, 28, 35, 36]
    assert build_index(SOURCES["fmow"](), str(tree), SETTINGS, Local(), limit=9).samples == whole.samples[:9]


def test_a_key_that_is_too_long_for_a_file_is_a_reject() -> None:
    aois = (Aoi(0, 0, 9, 9, name="b1"), Aoi(0, 0, 9, 9, name="b12"))
    scene = Scene("k" * (MAX_KEY - 3), "train", "p", "a.jpg", 9, 9, Metadata(), None, aois)
    sample, reject = samples_of(scene, replace(SETTINGS, min_side=1))
    assert isinstance(sample, Sample)
    assert isinstance(reject, Reject)
    assert f"{MAX_KEY + 1} characters" in reject.message


def test_a_build_is_proven_by_validate(built: Path) -> None:
    report = validate.validate(str(built))
    assert report.problems == ()
    assert report.samples == 36
    assert report.shards == 8  # 18 samples a split, at most 5 a shard


def test_the_same_bytes_for_one_and_two_workers(tree: Path, built: Path, tmp_path: Path) -> None:
    build(request(tree, tmp_path / "two", workers=2))
    assert contents(tmp_path / "two") == contents(built)


def test_the_decoder_changes_no_shard_and_may_change_between_runs(tree: Path, built: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        build(request(tree, tmp_path / "pillow"), InterruptAfter(3))
    dataset = build(replace(request(tree, tmp_path / "pillow"), decoder="pillow"))
    assert dataset["decoder"] == decoders.decoder_info("pillow")
    assert json.loads((built / "dataset.json").read_text())["decoder"] == decoders.decoder_info("auto")
    assert {name: data for name, data in contents(tmp_path / "pillow").items() if name != "dataset.json"} == {
        name: data for name, data in contents(built).items() if name != "dataset.json"
    }


def test_damaged_images_are_rejects_or_are_kept_and_flagged(tmp_path: Path) -> None:
    path = write_fmow_tree(tmp_path / "fmow")[0]
    data = path.read_bytes()
    path.write_bytes(data[:-2] + b"left over\xff\xd9")
    assert build(request(tmp_path / "fmow", tmp_path / "out"))["rejects"] == {"image_damaged": 1}
    keep = replace(SETTINGS, keep_damaged=True)
    with pytest.raises(BuildError, match="keep_damaged"):
        build(request(tmp_path / "fmow", tmp_path / "out", settings=keep))
    dataset = build(request(tmp_path / "fmow", tmp_path / "kept", settings=keep))
    assert (dataset["rejects"], dataset["flags"]["image_damaged"]) == ({}, 1)
    assert validate.validate(str(tmp_path / "kept")).problems == ()
    flagged = pd.read_parquet(tmp_path / "kept/index.parquet").explode("flags").query("flags == 'image_damaged'")
    assert list(flagged["path"]) == [str(path.relative_to(tmp_path / "fmow"))]


def test_flags_of_damaged_images_outlive_a_retry(tmp_path: Path) -> None:
    paths = write_fmow_tree(tmp_path / "fmow")
    damaged, lost = paths[0], paths[20]
    damaged.write_bytes(damaged.read_bytes()[:-2] + b"left over\xff\xd9")
    whole = lost.read_bytes()
    lost.write_bytes(b"not an image")
    keep = replace(SETTINGS, keep_damaged=True)
    assert build(request(tmp_path / "fmow", tmp_path / "out", settings=keep))["rejects"] == {"image_unreadable": 1}
    lost.write_bytes(whole)
    dataset = build(replace(request(tmp_path / "fmow", tmp_path / "out", settings=keep), retry_rejects=True))
    assert (dataset["rejects"], dataset["flags"]["image_damaged"]) == ({}, 1)
    assert validate.validate(str(tmp_path / "out")).problems == ()


def test_members_of_a_sample(built: Path) -> None:
    with tarfile.open(built / "train/000000.tar") as tar:
        names = tar.getnames()
        key = names[0].split(".")[0]
        assert names[:7] == [f"{key}.{suffix}" for suffix in ("cat.npy", "cls", "jpg", "json", "mask.npy", "num.npy", "txt")]
        image = Image.open(io.BytesIO(tar.extractfile(f"{key}.jpg").read()))  # type: ignore[union-attr]
    assert image.size == (32, 32)
    assert not list(built.glob(".*"))


def test_index_opens_in_geopandas_and_matches_the_samples(built: Path) -> None:
    frame = geopandas.read_parquet(built / "index.parquet")
    assert len(frame) == 36
    assert frame.crs is not None
    for row in frame.itertuples():
        assert row.geometry.covers(geopandas.points_from_xy([row.location[0]], [row.location[1]])[0])
        assert row.gsd[0] == pytest.approx(row.scene_gsd[0] * row.window_width / 32)
        assert row.gsd[1] == pytest.approx(row.scene_gsd[1] * row.window_height / 32)


def test_a_finished_build_is_not_built_again_and_refuses_other_settings(tree: Path, built: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in built.rglob("*")}
    build(request(tree, built))
    assert {path: path.stat().st_mtime_ns for path in built.rglob("*")} == before
    with pytest.raises(BuildError, match=r"settings\.context: 0\.0 before, 0\.5 now"):
        build(request(tree, built, BuildSettings(samples_per_shard=5, size=32, context=0.5)))


def test_an_unfinished_build_refuses_other_settings_and_keeps_whole_shards(tree: Path, built: Path, tmp_path: Path) -> None:
    unfinished = tmp_path / "unfinished"
    interrupted = InterruptAfter(3)
    with pytest.raises(KeyboardInterrupt):
        build(request(tree, unfinished), interrupted)
    assert not (unfinished / "dataset.json").exists()
    whole = {path: path.stat().st_mtime_ns for path in unfinished.rglob("*.tar")}
    assert len(whole) == 3
    with pytest.raises(BuildError, match="unfinished build with other settings"):
        build(request(tree, unfinished, BuildSettings(samples_per_shard=6, size=32)))
    build(request(tree, unfinished))
    assert contents(unfinished) == contents(built)
    assert {path: path.stat().st_mtime_ns for path in whole} == whole


def test_a_source_has_the_same_settings_however_its_path_is_written(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tree.parent)
    out = tmp_path / "out"
    for root, after in ((f"{tree.name}/", 2), (tree.name, 3), (str(tree), 4)):
        with pytest.raises(KeyboardInterrupt):
            build(replace(request(tree, out), root=root), InterruptAfter(after))
    for root in (f"./{tree.name}", f"file://{tree}", f"{tree}/"):
        build(replace(request(tree, out), root=root))
    with pytest.raises(BuildError, match=r"source\.root"):
        build(replace(request(tree, out), root=str(tree / "train")))


class InterruptAfter:
    """Raise, as control-C does, when so many shards are done."""

    def __init__(self, shards: int, stage: str = "pack") -> None:
        self.shards, self.stage = shards, stage

    def __call__(self, progress: object) -> None:
        if progress.stage == self.stage and progress.done == self.shards:  # type: ignore[attr-defined]
            raise KeyboardInterrupt


def test_a_build_killed_at_any_moment_is_finished_by_the_same_command(tree: Path, built: Path, tmp_path: Path) -> None:
    out = tmp_path / "killed"
    arguments = ["build", str(tree), str(out), "--size", "32", "--samples-per-shard", "5", "--workers", "1"]
    command = [sys.executable, "-c", "from satmip_data.cli.commands import main; main()", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and len(list(out.glob("*/*.tar"))) < 2:
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert contents(out) == contents(built)


def test_a_build_killed_after_its_seal_is_finished_by_the_same_command(
    tree: Path, built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(built)
    journal = Journal(Store(str(built)), ".build")
    journal.begin({})
    assert [problem.check for problem in validate.validate(str(built)).problems] == ["finished"]
    build(request(tree, built))
    assert contents(built) == before
    assert validate.validate(str(built)).problems == ()


def test_a_build_that_another_process_finishes_meanwhile_is_not_written_over(tree: Path, built: Path, tmp_path: Path) -> None:
    """The other one holds the lock while this one still plans, and none when this one begins to write."""
    other = BuildSettings(samples_per_shard=5, size=32, quality=50)
    out = tmp_path / "out"

    def finish_first(progress: object) -> None:
        if not (out / "dataset.json").exists():
            build(request(tree, out))

    with pytest.raises(BuildError, match=r"settings\.quality: 95 before, 50 now"):
        build(request(tree, out, other), finish_first)
    assert contents(out) == contents(built)


def test_bad_scenes_become_rejects_and_stop_nothing(tmp_path: Path) -> None:
    root = tmp_path / "fmow"
    paths = write_fmow_tree(root)
    paths[0].write_bytes(paths[0].read_bytes()[:500])
    paths[1].unlink()
    paths[2].with_suffix(".json").write_text("{")
    paths[3].with_suffix(".json").unlink()
    Image.new("RGB", (10, 10), "red").save(paths[4])
    record = json.loads(paths[5].with_suffix(".json").read_text())
    record["bounding_boxes"][1]["box"] = [5000, 5000, 20, 20]
    paths[5].with_suffix(".json").write_text(json.dumps(record))
    dataset = build(request(root, tmp_path / "out"))
    reasons = ("image_unreadable", "image_missing", "metadata_unreadable", "metadata_missing", "size_mismatch", "aoi_outside")
    assert dataset["rejects"] == dict.fromkeys(sorted(reasons), 1)
    assert sum(split["samples"] for split in dataset["splits"].values()) == 30
    table = pd.read_parquet(tmp_path / "out/rejects.parquet")
    assert sorted(table["reason"]) == sorted(reasons)
    assert (table["message"].str.len() > 10).all()
    assert validate.validate(str(tmp_path / "out")).problems == ()


def test_an_archive_without_one_readable_image_is_an_error_and_can_be_mended(tmp_path: Path) -> None:
    """As one whose images are pointers of Git LFS."""
    mend = {path: path.read_bytes() for path in write_fmow_tree(tmp_path / "fmow", places=2, images=2)}
    for path in mend:
        path.write_text("version https://git-lfs.github.com/spec/v1")
    with pytest.raises(BuildError, match=r"(?s)8 x image_unreadable\. First: .*--retry-rejects"):
        build(request(tmp_path / "fmow", tmp_path / "out"))
    assert len(pd.read_parquet(tmp_path / "out/rejects.parquet")) == 8
    for path, data in mend.items():
        path.write_bytes(data)
    build(replace(request(tmp_path / "fmow", tmp_path / "out"), retry_rejects=True))
    build(request(tmp_path / "fmow", tmp_path / "clean"))
    assert contents(tmp_path / "out") == contents(tmp_path / "clean")


def test_text_that_is_no_unicode_becomes_a_reject(tmp_path: Path) -> None:
    """JSON may hold half of a character, and names of files any bytes; neither can be written into a shard."""
    path = write_fmow_tree(tmp_path / "fmow")[0].with_suffix(".json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"sensor_platform_name": "\ud800"}))
    dataset = build(request(tmp_path / "fmow", tmp_path / "out"))
    assert dataset["rejects"] == {"metadata_invalid": 1}

    folder = tmp_path / "images/forest"
    folder.mkdir(parents=True)
    for name in (b"a.png", b"\xe9.png"):
        Image.new("RGB", (8, 8), "red").save(folder / os.fsdecode(name))
    source = SOURCES["imagefolder"]()
    dataset = build(BuildRequest(source, str(tmp_path / "images"), str(tmp_path / "of_images"), replace(SETTINGS, size=None)))
    assert sum(split["samples"] for split in dataset["splits"].values()) == 1
    table = pd.read_parquet(tmp_path / "of_images/rejects.parquet")
    assert list(table["path"]) == ["forest/\\udce9.png"]
    assert r"forest/\udce9.png" in table["message"][0]


def test_too_many_rejects_fail_loudly(tmp_path: Path) -> None:
    paths = write_fmow_tree(tmp_path / "fmow")
    for path in paths[:3]:
        path.unlink()
    with pytest.raises(BuildError, match="3 rejects, and --max-rejects allows 2"):
        build(request(tmp_path / "fmow", tmp_path / "out", max_rejects=2))
    assert not (tmp_path / "out/dataset.json").exists()
    assert len(pd.read_parquet(tmp_path / "out/rejects.parquet")) == 3


def test_an_empty_archive_is_refused_with_advice(tmp_path: Path) -> None:
    paths = write_fmow_tree(tmp_path / "fmow", places=1, images=1)
    for path in paths:
        path.unlink()
    with pytest.raises(BuildError, match="2 x image_missing"):
        build(request(tmp_path / "fmow", tmp_path / "out"))


def test_statistics_of_channels_are_numpys_in_any_order() -> None:
    rng = np.random.default_rng(0)
    chips = [rng.integers(0, 200 + i, (4 + i, 7, 3), dtype=np.uint8) for i in range(5)]
    for chip in chips:
        chip[:, :, 2] = 9
    sums = [ChannelSums() for _ in range(2)]
    for number, chip in enumerate(chips):
        sums[number % 2].add_image(Image.fromarray(chip))
    sums[1].add(sums[0])
    pixels = np.concatenate([chip.reshape(-1, 3) for chip in chips]) / 255
    means, stds = sums[1].mean_std()
    assert means == pytest.approx(pixels.mean(0).tolist(), rel=1e-12)
    assert stds == pytest.approx([*pixels.std(0)[:2], 0.5 / 255], rel=1e-12)  # a constant channel must not divide by zero
    assert ChannelSums().mean_std() == ([0.5] * 3, [0.25] * 3)


def test_a_shard_that_is_gone_or_cut_is_not_finished_whatever_its_record_says(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    journal, name = Journal(store, ".build"), "train/000000.tar"
    record = ShardRecord(name, "train", 1, 5, "0" * 64, CaptionCount(), ChannelSums(), ())
    store.write(name, b"12345")
    journal.add(record)
    assert journal.finished() == {name: record}
    for content in (b"1234", b"123456"):
        store.write(name, content)
        assert journal.finished() == {}
    (tmp_path / name).unlink()
    assert journal.finished() == {}


def test_a_damaged_record_of_a_shard_is_none_and_the_shard_is_packed_again(tree: Path, built: Path, tmp_path: Path) -> None:
    """A changed digit once stood in the `dataset.json` that was sealed, or ended the build with a traceback."""
    out = tmp_path / "half"
    with pytest.raises(KeyboardInterrupt):
        build(request(tree, out), InterruptAfter(3))
    for path, change in zip(sorted(out.glob(".build/records/*/*.json")), (b"", b"{", None), strict=True):
        path.write_bytes(path.read_bytes().replace(b'"pixels": ', b'"pixels": 1') if change is None else change)
    assert Journal(Store(str(out)), ".build").finished() == {}
    build(request(tree, out))
    assert contents(out) == contents(built)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", None])
def test_a_damaged_journal_is_named(tree: Path, tmp_path: Path, content: bytes | None) -> None:
    out = tmp_path / "half"
    with pytest.raises(KeyboardInterrupt):
        build(request(tree, out), InterruptAfter(3))
    path = out / ".build/intent.json"
    path.write_bytes(path.read_bytes().replace(b'"seed": 0', b'"seed": 1') if content is None else content)
    with pytest.raises(BuildError, match=r"\.build/intent\.json is damaged.*Delete .*half and build again"):
        build(request(tree, out))


def test_a_damaged_journal_of_captions_begins_anew(built: Path) -> None:
    rewrite = CaptionRewrite(("gsd",), "sentence")
    with pytest.raises(KeyboardInterrupt):
        recaption.recaption(str(built), rewrite, show=InterruptAfter(3, "caption"))
    (built / ".caption/intent.json").write_bytes(b"{")
    recaption.recaption(str(built), rewrite)
    assert validate.validate(str(built)).problems == ()
    assert not (built / ".caption").exists()


def test_settings_differ_leaf_by_leaf() -> None:
    before = {"a": 1, "b": {"c": 2, "d": {"e": 3}}, "gone": 4}
    after = {"a": 1, "b": {"c": 5, "d": None}, "new": 6}
    assert differences(before, after) == [
        "  b.c: 2 before, 5 now",
        "  b.d: {'e': 3} before, None now",
        "  gone: 4 before, None now",
        "  new: None before, 6 now",
    ]
    assert differences(before, before) == []


@pytest.mark.parametrize("foreign", ["[1, 2]", '{"name": "mine"}'])
def test_a_dataset_json_of_another_program_is_refused_and_left_as_it_is(tree: Path, tmp_path: Path, foreign: str) -> None:
    (tmp_path / "dataset.json").write_text(foreign)
    for use in (
        lambda: build(request(tree, tmp_path)),
        lambda: recaption.recaption(str(tmp_path), CaptionRewrite(("gsd",), "key-value")),
        lambda: validate.validate(str(tmp_path)),
    ):
        with pytest.raises(BuildError, match=r"dataset\.json is of another version: .*another folder"):
            use()
    assert contents(tmp_path) == {"dataset.json": foreign.encode()}


@pytest.mark.parametrize("name", ["README.md", "notes.part", "train/holiday.jpg", ".git/config"])
def test_a_folder_that_holds_something_else_is_refused_and_left_as_it_is(tree: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "out" / name).parent.mkdir(parents=True)
    (tmp_path / "out" / name).write_text("mine")
    with pytest.raises(BuildError, match=r"out holds other files"):
        build(request(tree, tmp_path / "out"))
    assert contents(tmp_path / "out") == {name: b"mine"}


def test_leftovers_of_a_killed_build_are_removed_and_nothing_else(tree: Path, built: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    leftovers = [out / ".build/.intent.json.abcd1234.part", out / "train/.000000.tar.zy_x9876.part"]
    for path in leftovers[:1]:  # killed while it wrote the very first file
        path.parent.mkdir(parents=True)
        path.write_bytes(b"")
    with pytest.raises(KeyboardInterrupt):
        build(request(tree, out), InterruptAfter(1))
    leftovers[1].parent.mkdir(exist_ok=True)
    leftovers[1].write_bytes(b"half")
    mine = {"video.part": b"mine", "train/.hidden.part": b"mine", "notes/a.abcd1234.part": b"mine"}
    for name, data in mine.items():
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).write_bytes(data)
    build(request(tree, out))
    assert contents(out) == {**contents(built), **mine}


def test_two_processes_never_write_to_one_folder(tree: Path, built: Path) -> None:
    with Store(str(built)).locked(), pytest.raises(LockedError, match="Another process"):
        recaption.recaption(str(built), CaptionRewrite(("gsd",), "key-value"))
    with Store(str(built.parent / "new")).locked(), pytest.raises(LockedError, match="Wait for its end"):
        build(request(tree, built.parent / "new"))
    recaption.recaption(str(built), CaptionRewrite(("gsd",), "key-value"))  # the lock went with its holder


def test_files_are_for_whom_the_users_umask_says(tmp_path: Path) -> None:
    code = "import sys; from satmip_data.storage.store import Store; Store(sys.argv[1]).write('a', b'')"
    for umask, mode in ((0o022, 0o644), (0o077, 0o600), (0o002, 0o664)):
        subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, umask=umask)
        assert (tmp_path / "a").stat().st_mode & 0o777 == mode


def test_no_partial_file_stays_behind_an_error(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(source: object, target: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match=r"out.*: No space left on device\. Make room there and run"):
        build(request(tree, tmp_path / "out"))
    assert not list((tmp_path / "out").rglob("*.part"))


def test_chips_that_keep_their_size_have_one_where_all_windows_are_alike(tmp_path: Path) -> None:
    paths = write_fmow_tree(tmp_path / "fmow", places=3, images=1)
    keep = BuildSettings(samples_per_shard=5, size=None)
    assert build(request(tmp_path / "fmow", tmp_path / "different", keep))["size"] is None
    for path in paths:
        Image.new("RGB", (50, 40), "green").save(path)
        record = json.loads(path.with_suffix(".json").read_text())
        record.update(img_width=50, img_height=40)
        record["bounding_boxes"][1]["box"] = [3, 4, 20, 30]
        path.with_suffix(".json").write_text(json.dumps(record))
    assert build(request(tmp_path / "fmow", tmp_path / "alike", keep))["size"] == [20, 30]
    assert validate.validate(str(tmp_path / "alike")).problems == ()
