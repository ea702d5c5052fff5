"""So2Sat: rows of HDF5 files, classes from one-hot labels, reflectance to 8 bits."""

from collections import Counter
from pathlib import Path

import h5py
import numpy as np
import pytest

from satmip_data.execution.engines import Local
from satmip_data.imagery.chips import ImageError
from satmip_data.pipeline.build import build
from satmip_data.pipeline.index import build_index
from satmip_data.pipeline.request import BuildRequest
from satmip_data.pipeline.settings import BuildSettings
from satmip_data.sources.base import LayoutError
from satmip_data.sources.so2sat import CLASSES, So2Sat
from satmip_data.validation import validate
from tests.data.archives.make import write_so2sat

KEEP = BuildSettings(size=None)


def test_rows_become_samples_of_their_class(tmp_path: Path) -> None:
    colours = write_so2sat(tmp_path)
    index = build_index(So2Sat(), str(tmp_path), KEEP, Local())
    assert not index.rejects
    assert Counter(sample.split for sample in index.samples) == {"train": 40, "test": 10}
    sample = next(sample for sample in index.samples if sample.key == "training_000019")
    assert (sample.category, sample.path, sample.metadata.gsd) == (CLASSES[2], "training.h5#19", (10.0, 10.0))
    chip = np.asarray(So2Sat().read_chip(str(tmp_path), sample, (32, 32), 10**6))
    expected = np.rint(np.clip(colours["training"][19] / 0.3558, 0, 1) * 255)
    assert np.array_equal(chip, expected.astype(np.uint8))


def test_items_are_blocks_of_rows_that_leave_none_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_so2sat(tmp_path)
    whole = build_index(So2Sat(), str(tmp_path), KEEP, Local())
    monkeypatch.setattr("satmip_data.sources.so2sat.ROWS", 7)
    assert len(So2Sat().list_items(str(tmp_path))) == 6 + 2
    assert build_index(So2Sat(), str(tmp_path), KEEP, Local()) == whole


def test_a_build_is_proven_and_keeps_32_pixels(tmp_path: Path) -> None:
    write_so2sat(tmp_path / "in/culture_10")
    dataset = build(BuildRequest(So2Sat(), str(tmp_path / "in"), str(tmp_path / "out"), KEEP))
    assert len(dataset["classes"]) == 17
    assert validate.validate(str(tmp_path / "out")).problems == ()


def test_rows_without_one_class_or_without_pixels_are_rejects(tmp_path: Path) -> None:
    write_so2sat(tmp_path)
    with h5py.File(tmp_path / "validation.h5", "w") as file:
        label = np.eye(17)[:3]
        label[1] = 0
        sen2 = np.full((3, 32, 32, 10), 0.2)
        sen2[2] = np.nan
        file.update({"sen2": sen2, "label": label})
    index = build_index(So2Sat(), str(tmp_path), KEEP, Local())
    assert [(reject.path, reject.reason) for reject in index.rejects] == [("validation.h5#1", "metadata_invalid")]
    empty = next(sample for sample in index.samples if sample.key == "validation_000002")
    assert empty.split == "test"  # the paper's test split is both
    with pytest.raises(ImageError) as caught:
        So2Sat().read_chip(str(tmp_path), empty, (32, 32), 10**6)
    assert caught.value.reason == "image_empty"


def test_files_that_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(LayoutError, match=r"training\.h5"):
        So2Sat().list_items(str(tmp_path))
    (tmp_path / "training.h5").write_bytes(b"none")
    with pytest.raises(LayoutError, match="HDF5"):
        So2Sat().list_items(str(tmp_path))


@pytest.mark.parametrize("kind", ["link", "virtual", "external"])
def test_arrays_in_other_files_are_not_read(tmp_path: Path, kind: str) -> None:
    (tmp_path / "secret").mkdir()
    write_so2sat(tmp_path / "secret")
    secret = str(tmp_path / "secret/testing.h5")
    (tmp_path / "in").mkdir()
    with h5py.File(secret) as known, h5py.File(tmp_path / "in/testing.h5", "w") as file:
        file["label"] = np.asarray(known["label"])
        sen2 = known["sen2"]
        if kind == "link":
            file["sen2"] = h5py.ExternalLink(secret, "sen2")
        elif kind == "virtual":
            layout = h5py.VirtualLayout(sen2.shape, sen2.dtype)
            layout[:] = h5py.VirtualSource(secret, "sen2", sen2.shape)
            file.create_virtual_dataset("sen2", layout)
        else:
            file.create_dataset("sen2", sen2.shape, sen2.dtype, external=[(secret, 0, h5py.h5f.UNLIMITED)])
    sample = build_index(So2Sat(), str(tmp_path / "in"), KEEP, Local()).samples[0]
    with pytest.raises(ImageError, match="another file"):
        So2Sat().read_chip(str(tmp_path / "in"), sample, (32, 32), 10**6)
