"""BigEarthNet: several classes a sample, from the record to the multi-hot member of a shard and its proof."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import rasterio

from satmip_data.execution.engines import Local
from satmip_data.pipeline.build import build
from satmip_data.pipeline.index import Index, build_index
from satmip_data.pipeline.request import BuildRequest
from satmip_data.pipeline.settings import BuildSettings
from satmip_data.shards.members import multi_hot
from satmip_data.shards.tar import read_samples
from satmip_data.sources.base import LayoutError
from satmip_data.sources.bigearthnet import CLASSES_OF_19, CORINE, DROPPED, BigEarthNet
from satmip_data.validation import validate
from tests.data.archives.make import write_bigearthnet

KEEP = BuildSettings(size=None)


def index_of(root: Path, **options: Any) -> Index:
    return build_index(BigEarthNet(**options), str(root), KEEP, Local())


def test_the_nomenclatures_have_19_and_43_classes() -> None:
    assert (len(CLASSES_OF_19), len(DROPPED), len(CORINE)) == (19, 11, 43)


def test_a_patch_knows_its_classes_place_and_time(tmp_path: Path) -> None:
    names = write_bigearthnet(tmp_path)
    index = index_of(tmp_path)
    assert not index.rejects
    first, second, third, _ = index.samples[:4]
    assert first.key == names[0].lower()
    # Pastures and sea; sea and an airport, which has no place among the 19; an airport and rice.
    assert first.labels == ("Marine waters", "Pastures")
    assert second.labels == ("Marine waters",)
    assert third.labels == ("Arable land",)
    assert {sample.category for sample in index.samples} == {None}
    assert index_of(tmp_path, nomenclature="43").samples[1].labels == ("Airports", "Sea and ocean")
    assert first.metadata.platform == "SENTINEL-2A"
    assert f"{first.metadata.datetime:%Y-%m-%dT%H:%M:%S}" == "2017-06-13T10:10:31"
    assert first.metadata.gsd == pytest.approx((10, 10), rel=1e-3)
    assert first.metadata.location == pytest.approx((9.0076, 45.1471), abs=1e-3)


def test_pixels_are_b04_b03_b02_of_0_to_2000(tmp_path: Path) -> None:
    names = write_bigearthnet(tmp_path, patches=1)
    (sample,) = index_of(tmp_path).samples
    chip = np.asarray(BigEarthNet().read_chip(str(tmp_path), sample, (120, 120), 10**6))
    for channel, band in enumerate(("B04", "B03", "B02")):
        with rasterio.open(tmp_path / names[0] / f"{names[0]}_{band}.tif") as file:
            values = file.read(1).astype(float)
        assert np.array_equal(chip[..., channel], np.rint(np.clip(values / 2000, 0, 1) * 255).astype(np.uint8))


def test_a_build_writes_multi_hot_labels_and_is_proven(tmp_path: Path) -> None:
    write_bigearthnet(tmp_path / "in")
    dataset = build(BuildRequest(BigEarthNet(), str(tmp_path / "in"), str(tmp_path / "out"), KEEP))
    assert dataset["classes"] == ["Arable land", "Marine waters", "Pastures"]
    assert validate.validate(str(tmp_path / "out")).problems == ()
    seen = 0
    for shard in dataset["shards"]:
        for key, members in read_samples((tmp_path / "out" / shard["name"]).read_bytes()):
            labels = json.loads(members["json"])["labels"]
            stored = np.load(io.BytesIO(members["labels.npy"]))
            assert stored.dtype == np.uint8
            assert [dataset["classes"][i] for i in np.flatnonzero(stored)] == labels
            assert "cls" not in members, key
            seen += 1
    assert seen == 8
    frame = pd.read_parquet(tmp_path / "out/index.parquet")
    assert set(map(tuple, frame["labels"])) == {
        ("Marine waters", "Pastures"),
        ("Marine waters",),
        ("Arable land",),
        ("Arable land", "Pastures"),
    }


def test_validate_notices_a_changed_label(tmp_path: Path) -> None:
    write_bigearthnet(tmp_path / "in", patches=2)
    build(BuildRequest(BigEarthNet(shares="train=1"), str(tmp_path / "in"), str(tmp_path / "out"), KEEP))
    shard, out = tmp_path / "out/train/000000.tar", io.BytesIO()
    with tarfile.open(shard) as tar, tarfile.open(fileobj=out, mode="w|") as copy:
        for member in tar:
            data = tar.extractfile(member).read()  # type: ignore[union-attr]
            if member.name.endswith("labels.npy"):
                data = data[:-1] + bytes([1 - data[-1]])
            copy.addfile(member, io.BytesIO(data))
    shard.write_bytes(out.getvalue())
    assert "labels" in {problem.check for problem in validate.validate(str(tmp_path / "out")).problems}


def test_a_users_lists_choose_patches(tmp_path: Path) -> None:
    names = write_bigearthnet(tmp_path / "in", patches=4)
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists/train.csv").write_text(f"{names[0]},S1A_x\n{names[2]},S1A_y\n")
    (tmp_path / "lists/test.csv").write_text(f"{names[3]},S1A_z\n")
    index = index_of(tmp_path / "in", split_file=str(tmp_path / "lists"))
    assert [sample.split for sample in index.samples] == ["train", "train", "test"]
    assert [reject.reason for reject in index.rejects] == ["not_in_split_file"]


def test_records_that_are_not_as_they_must_be_are_rejects(tmp_path: Path) -> None:
    names = write_bigearthnet(tmp_path, patches=5)

    def rewrite(number: int, **changes: Any) -> None:
        path = tmp_path / names[number] / f"{names[number]}_labels_metadata.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    rewrite(0, labels=["Airports"])
    rewrite(1, labels=["Moon"])
    rewrite(2, coordinates={})
    rewrite(3, projection="nowhere")
    (tmp_path / names[4] / f"{names[4]}_labels_metadata.json").write_text("{")
    reasons = ["no_aoi", "metadata_invalid", "metadata_invalid", "metadata_invalid", "metadata_unreadable"]
    assert [reject.reason for reject in index_of(tmp_path).rejects] == reasons
    with pytest.raises(LayoutError):
        BigEarthNet().list_items(str(tmp_path / "nothing"))


def test_a_patch_without_a_band_is_a_reject(tmp_path: Path) -> None:
    names = write_bigearthnet(tmp_path / "in", patches=3)
    (tmp_path / "in" / names[1] / f"{names[1]}_B03.tif").unlink()
    dataset = build(BuildRequest(BigEarthNet(), str(tmp_path / "in"), str(tmp_path / "out"), KEEP))
    assert dataset["rejects"] == {"image_unreadable": 1}


def test_multi_hot_by_a_plain_loop() -> None:
    assert multi_hot(("c", "a"), ("a", "b", "c")).tolist() == [1, 0, 1]
    assert multi_hot((), ("a",)).tolist() == [0]
