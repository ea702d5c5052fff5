"""Other people's readers open our shards unmodified: open_clip, Hugging Face datasets, geopandas, webdataset."""

import importlib.util
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import geopandas
import pytest
import satmip_schemas
from helpers.fmow_tree import write_fmow_tree

from satmip_data.pipeline.build import build
from satmip_data.pipeline.request import BuildRequest
from satmip_data.pipeline.settings import BuildSettings
from satmip_data.shards.tar import read_samples
from satmip_data.sources import SOURCES

SETTINGS = BuildSettings(samples_per_shard=10, size=32)


def build_tree(folder: Path, challenge: int = 0) -> Path:
    """Build a tree whose first `challenge` records of each split know nothing of time, place, clouds and sensor."""
    paths = write_fmow_tree(folder / "fmow")
    for split in ("train", "val"):
        for path in [path for path in paths if f"/{split}/" in str(path)][:challenge]:
            record = json.loads(path.with_suffix(".json").read_text())
            for name in ("raw_location", "timestamp", "cloud_cover", "sensor_platform_name", "gsd", "country_code", "utm"):
                del record[name]
            path.with_suffix(".json").write_text(json.dumps(record))
    build(BuildRequest(SOURCES["fmow"](), str(folder / "fmow"), str(folder / "shards"), SETTINGS))
    return folder / "shards"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tree(tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="module")
def missing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Most samples lack most fields, so that the first samples of some shard know nothing."""
    return build_tree(tmp_path_factory.mktemp("missing"), challenge=14)


def truth(shards: Path, split: str) -> dict[str, dict[str, bytes]]:
    return {key: members for path in sorted(shards.glob(f"{split}/*.tar")) for key, members in read_samples(path.read_bytes())}


def test_dataset_and_every_sample_fit_their_schemas(built: Path, missing: Path) -> None:
    for shards in (built, missing):
        assert satmip_schemas.first_error("dataset", json.loads((shards / "dataset.json").read_text())) is None
        for split in ("train", "val"):
            for members in truth(shards, split).values():
                assert satmip_schemas.first_error("sample", json.loads(members["json"])) is None


@pytest.mark.parametrize("value", [None, -1, 0, 1.5, "x", [], {}, [1, 2], float("nan"), float("inf"), 10**30])
def test_both_validators_give_one_verdict(built: Path, value: object) -> None:
    """The compiled validator decides alone that a record fits."""
    record = json.loads(next(iter(truth(built, "val").values()))["json"])
    for name in [*record, "other"]:
        changed = {**record, name: value}
        slow = next(satmip_schemas.validator("sample").iter_errors(changed), None)
        assert (satmip_schemas.first_error("sample", changed) is None) == (slow is None), name
    for name in record["metadata"]:
        changed = {**record, "metadata": {**record["metadata"], name: value}}
        slow = next(satmip_schemas.validator("sample").iter_errors(changed), None)
        assert (satmip_schemas.first_error("sample", changed) is None) == (slow is None), name


def test_geopandas_reads_the_index(built: Path, missing: Path) -> None:
    for shards, known in ((built, 36), (missing, 8)):
        frame = geopandas.read_parquet(shards / "index.parquet")
        assert len(frame) == 36
        assert frame.crs is not None
        assert frame.crs.is_geographic
        assert frame.geometry.notna().sum() == known
        assert frame.geometry.dropna().is_valid.all()


def test_webdataset_reads_the_shards(built: Path) -> None:
    code = (
        "import sys, json, webdataset as wds\n"
        "samples = wds.WebDataset(sys.argv[1:], shardshuffle=False).decode('pil').to_tuple('jpg', 'txt', 'json', '__key__')\n"
        "print(json.dumps([(image.size, text, record['key'], key) for image, text, record, key in samples]))\n"
    )
    files = [str(path) for path in sorted(built.glob("train/*.tar"))]
    run = subprocess.run([sys.executable, "-c", code, *files], capture_output=True, text=True, check=True)
    found = json.loads(run.stdout)
    expected = truth(built, "train")
    assert [row[3] for row in found] == list(expected)
    for size, text, key, own in found:
        assert size == [32, 32]
        assert key == own
        assert text == expected[key]["txt"].decode()


def test_our_writer_writes_what_webdatasets_own_does(built: Path, tmp_path: Path) -> None:
    path = built / "train/000000.tar"
    code = (
        "import sys\nfrom webdataset.writer import TarWriter\nfrom satmip_data.shards.tar import read_samples\n"
        "with open(sys.argv[2], 'wb') as stream, TarWriter(stream, encoder=False, mtime=0, user='satmip', group='satmip') as tar:\n"
        "    for key, members in read_samples(open(sys.argv[1], 'rb').read()):\n"
        "        tar.write({'__key__': key, **members})\n"
    )
    subprocess.run([sys.executable, "-c", code, str(path), str(tmp_path / "copy.tar")], check=True)
    assert (tmp_path / "copy.tar").read_bytes() == path.read_bytes()
    with tarfile.open(path) as tar:
        assert {entry.mtime for entry in tar} == {0}


def test_open_clips_own_pipeline_reads_the_shards(built: Path) -> None:
    """Sizes come from the shards' own folder, batches are whole, and every caption is the one of its sample."""
    if importlib.util.find_spec("open_clip_train") is None:
        pytest.skip("the extra train is not installed")
    patterns = [f"{built}/{split}/{{000000..000001}}.tar" for split in ("train", "val")]
    command = [sys.executable, str(Path(__file__).parents[2] / "helpers/open_clip_reader.py"), *patterns, "18"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-3000:]
    found = json.loads(run.stdout.splitlines()[-1])
    assert found["size"] == [18, 2]
    assert found["train"] == [[[6, 3, 32, 32], [6, 77]]] * 3
    words = open_clip_tokens([members["txt"].decode() for members in truth(built, "val").values()])
    assert found["val"] == words


def open_clip_tokens(captions: list[str]) -> list[list[int]]:
    open_clip = pytest.importorskip("open_clip")
    tokens: list[list[int]] = open_clip.get_tokenizer("ViT-B-32")(captions).tolist()
    return tokens


# --- Hugging Face datasets, in processes of their own: it reads its environment when it is imported ---


def hub(tmp_path: Path, code: str, *arguments: str) -> object:
    environment = {
        **os.environ, "HF_HOME": tempfile.mkdtemp(dir=tmp_path), "HF_HUB_OFFLINE": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    }  # fmt: skip
    run = subprocess.run(
        [sys.executable, "-c", f"import sys, json, datasets\n{code}", *arguments],
        capture_output=True, text=True, env=environment, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-3000:]
    return json.loads(run.stdout)


SUMMARY = (
    "rows = {split: [[r['__key__'], list(r['jpg'].size), r['txt'], r['json'], r['num.npy'], r['mask.npy'], r['cls']] for r in part]"
    " for split, part in data.items()}\nprint(json.dumps(rows))\n"
)


def check_rows(rows: dict[str, list[list[object]]], shards: Path) -> None:
    assert list(rows) == ["train", "val"]
    for split, found in rows.items():
        expected = truth(shards, split)
        assert [row[0] for row in found] == list(expected)
        for key, size, text, record, numeric, mask, label in found:
            members = expected[str(key)]
            assert size == [32, 32]
            assert text == members["txt"].decode()
            assert record == json.loads(members["json"])
            assert label == int(members["cls"])
            assert len(numeric) == len(mask) == 17  # type: ignore[arg-type]


def test_datasets_loads_the_folder_through_its_card(missing: Path, built: Path, tmp_path: Path) -> None:
    for shards in (missing, built):
        rows = hub(tmp_path, f"data = datasets.load_dataset(sys.argv[1])\n{SUMMARY}", str(shards))
        check_rows(rows, shards)  # type: ignore[arg-type]


def test_datasets_loads_the_tars_by_name(built: Path, tmp_path: Path) -> None:
    code = (
        "files = {'train': sys.argv[1] + '/train/*.tar', 'val': sys.argv[1] + '/val/*.tar'}\n"
        f"data = datasets.load_dataset('webdataset', data_files=files)\n{SUMMARY}"
    )
    check_rows(hub(tmp_path, code, str(built)), built)  # type: ignore[arg-type]


def test_datasets_loads_tars_with_missing_values_given_the_cards_features(missing: Path, tmp_path: Path) -> None:
    code = (
        "files = {'train': sys.argv[1] + '/train/*.tar', 'val': sys.argv[1] + '/val/*.tar'}\n"
        "features = datasets.load_dataset_builder(sys.argv[1]).info.features\n"
        f"data = datasets.load_dataset('webdataset', data_files=files, features=features)\n{SUMMARY}"
    )
    check_rows(hub(tmp_path, code, str(missing)), missing)  # type: ignore[arg-type]


def test_datasets_streams_the_folder(missing: Path, tmp_path: Path) -> None:
    code = (
        "data = datasets.load_dataset(sys.argv[1], streaming=True)\n"
        "print(json.dumps({split: [row['__key__'] for row in part] for split, part in data.items()}))\n"
    )
    assert hub(tmp_path, code, str(missing)) == {split: list(truth(missing, split)) for split in ("train", "val")}
