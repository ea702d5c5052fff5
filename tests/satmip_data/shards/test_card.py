"""The dataset card: what it says is what the shards hold, and those who read cards accept it."""

import hashlib
import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import geopandas
import pytest
import yaml
from helpers.fmow_tree import write_fmow_tree

from satmip_data.pipeline import recaption
from satmip_data.pipeline.build import build
from satmip_data.pipeline.recaption import CaptionRewrite
from satmip_data.pipeline.request import BuildRequest
from satmip_data.pipeline.settings import BuildSettings
from satmip_data.records import Metadata, Sample, Window
from satmip_data.shards import card
from satmip_data.shards.index_table import index_table
from satmip_data.sources import SOURCES
from satmip_data.storage.parquet import read_parquet


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("card")
    write_fmow_tree(root / "fmow")
    settings = BuildSettings(samples_per_shard=10, size=32)
    build(BuildRequest(SOURCES["fmow"](), str(root / "fmow"), str(root / "shards"), settings))
    return root / "shards"


def front_matter(built: Path) -> dict[str, Any]:
    text = (built / "README.md").read_text()
    found: dict[str, Any] = yaml.safe_load(text.split("---\n")[1])
    return found


def croissant(built: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((built / "croissant.json").read_text())
    return found


def test_the_front_matter_names_licence_splits_and_types(built: Path) -> None:
    front = front_matter(built)
    assert front["license"] == "other"
    assert front["license_name"] == "functional-map-of-the-world-challenge-public-license-non-commercial-use"
    assert front["size_categories"] == ["n<1K"]
    assert front["configs"] == [
        {
            "config_name": "default",
            "data_files": [{"split": "train", "path": "train/*.tar"}, {"split": "val", "path": "val/*.tar"}],
        }
    ]
    names = [feature["name"] for feature in front["dataset_info"]["features"]]
    assert names == ["jpg", "txt", "json", "num.npy", "cat.npy", "mask.npy", "cls", "__key__", "__url__"]


def test_the_types_are_the_hubs_own(built: Path) -> None:
    """What stands in the card is what `datasets` itself would write for these features."""
    code = (
        "import sys, json, datasets\n"
        "given = json.load(sys.stdin)\n"
        "print(json.dumps(datasets.Features._from_yaml_list(given)._to_yaml_list() == given))\n"
    )
    if importlib.util.find_spec("datasets") is None:
        pytest.skip("datasets is not installed")
    given = json.dumps(front_matter(built)["dataset_info"]["features"])
    run = subprocess.run([sys.executable, "-c", code], input=given, capture_output=True, text=True, check=True)
    assert run.stdout == "true\n"


@pytest.mark.parametrize(
    ("licence", "identifier"),
    [
        ("CC BY-NC-SA 4.0", "cc-by-nc-sa-4.0"), ("CC BY 4.0", "cc-by-4.0"), ("CC0-1.0", "cc0-1.0"), ("MIT", "mit"),
        ("Apache-2.0", "apache-2.0"), ("Functional Map of the World Challenge Public License", "other"), ("", "other"),
    ],
)  # fmt: skip
def test_licences_take_the_hubs_names(licence: str, identifier: str) -> None:
    assert card.licence_id(licence) == identifier


def test_the_text_holds_the_counts_and_how_to_load(built: Path) -> None:
    text = (built / "README.md").read_text()
    assert "| train | 18 | 2 |" in text
    assert "| val | 18 | 2 |" in text
    assert "Functional Map of the World Challenge Public License" in text
    for reader in ("webdataset", "open_clip", "datasets.load_dataset", "geopandas", "satmip-train"):
        assert reader in text
    assert "train/{000000..000001}.tar" in text
    assert max(len(line) for line in text.splitlines()) < 200


def test_a_split_has_a_name_that_the_hub_takes(built: Path) -> None:
    """Its names are words of letters, digits and underscores; ours may hold hyphens."""
    dataset = json.loads((built / "dataset.json").read_text())
    dataset["splits"] = {"fold-1": dataset["splits"]["train"]}
    dataset["shards"] = [{**dataset["shards"][0], "name": f"fold-1/{number:06d}.tar", "split": "fold-1"} for number in (0, 1)]
    text = card.readme(dataset, card.read_coverage(read_parquet((built / "index.parquet").read_bytes())))
    data_files = yaml.safe_load(text.split("---\n")[1])["configs"][0]["data_files"]
    assert data_files == [{"split": "fold_1", "path": "fold-1/*.tar"}]
    assert 'samples = datasets.load_dataset("path/to/this/folder", split="fold_1")' in text
    assert "fold-1/{000000..000001}.tar" in text


def test_the_text_names_the_shards_that_are_there(built: Path) -> None:
    dataset = json.loads((built / "dataset.json").read_text())
    shard = dataset["shards"][0]
    for numbers, braces in (
        ((0,), "{000000..000000}"), ((1, 2), "{000001..000002}"), ((0, 2, 3), "{000000,000002,000003}"),
    ):  # fmt: skip
        shards = [{**shard, "name": f"train/{number:06d}.tar"} for number in numbers]
        coverage = card.read_coverage(read_parquet((built / "index.parquet").read_bytes()))
        text = card.readme({**dataset, "shards": shards}, coverage)
        assert f'wds.WebDataset("train/{braces}.tar"' in text
        assert f"--train-data 'train/{braces}.tar'" in text


def test_croissant_names_every_file_with_its_hash(built: Path) -> None:
    files = {entry["contentUrl"]: entry for entry in croissant(built)["distribution"]}
    on_disk = {str(path.relative_to(built)) for path in built.rglob("*.tar")} | {"index.parquet"}
    assert set(files) == on_disk
    for name, entry in files.items():
        data = (built / name).read_bytes()
        assert entry["sha256"] == hashlib.sha256(data).hexdigest()
        assert entry["contentSize"] == f"{len(data)} B"


def test_croissant_carries_the_geo_terms(built: Path) -> None:
    terms, frame = croissant(built), geopandas.read_parquet(built / "index.parquet")
    assert terms["geocr:coordinateReferenceSystem"] == "EPSG:4326"
    assert terms["conformsTo"][1] == "http://mlcommons.org/croissant/geo/1.0"
    assert terms["license"].startswith("Functional Map")
    assert terms["geocr:bandConfiguration"]["geocr:totalBands"] == 3
    south, west, north, east = (float(value) for value in terms["spatialCoverage"]["geo"]["box"].split())
    assert [west, south, east, north] == pytest.approx(frame.total_bounds, abs=1e-6)
    first, last = terms["temporalCoverage"].split("/")
    assert first == f"{frame['timestamp'].min():%Y-%m-%d}"
    assert last == f"{frame['timestamp'].max():%Y-%m-%d}"
    resolution = terms["geocr:spatialResolution"]
    means = sorted((gsd[0] + gsd[1]) / 2 for gsd in frame["gsd"])
    assert resolution["value"] == pytest.approx((means[17] + means[18]) / 2)
    assert (resolution["minValue"], resolution["maxValue"], resolution["unitText"]) == (
        pytest.approx(means[0]), pytest.approx(means[-1]), "m"
    )  # fmt: skip
    columns = [field["source"]["extract"]["column"] for field in terms["recordSet"][0]["field"]]
    assert columns == list(frame.columns)


def test_mlcroissant_accepts_and_reads_it(built: Path) -> None:
    if importlib.util.find_spec("mlcroissant") is None:
        pytest.skip("mlcroissant is not installed")
    tool = shutil.which("mlcroissant", path=str(Path(sys.executable).parent))
    assert tool is not None
    run = subprocess.run(
        [tool, "validate", "--jsonld", str(built / "croissant.json")], capture_output=True, text=True, check=False
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert "error" not in run.stderr.lower()
    code = (
        "import sys, json, mlcroissant\n"
        "rows = list(mlcroissant.Dataset(sys.argv[1]).records('samples'))\n"
        "print(json.dumps([[row['samples/key'].decode(), row['samples/cloud_cover']] for row in rows]))\n"
    )
    run = subprocess.run([sys.executable, "-c", code, str(built / "croissant.json")], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-2000:]
    frame = geopandas.read_parquet(built / "index.parquet")
    assert json.loads(run.stdout) == [[key, cover] for key, cover in zip(frame["key"], frame["cloud_cover"], strict=True)]


def test_captions_rewritten_show_in_the_card(built: Path, tmp_path: Path) -> None:
    shutil.copytree(built, tmp_path / "copy")
    recaption.recaption(str(tmp_path / "copy"), CaptionRewrite(("location",), "sentence"))
    assert "Captions: location, sentence." in (tmp_path / "copy/README.md").read_text()
    test_croissant_names_every_file_with_its_hash(tmp_path / "copy")


def test_an_archive_that_knows_nothing_has_a_card(tmp_path: Path) -> None:
    for path in write_fmow_tree(tmp_path / "fmow", places=2, images=2):
        record = json.loads(path.with_suffix(".json").read_text())
        keep = ("img_width", "img_height", "bounding_boxes", "img_filename")
        path.with_suffix(".json").write_text(json.dumps({name: record[name] for name in keep}))
    build(BuildRequest(SOURCES["fmow"](), str(tmp_path / "fmow"), str(tmp_path / "out"), BuildSettings(size=32, fields=("gsd",))))
    terms = croissant(tmp_path / "out")
    assert not {"spatialCoverage", "temporalCoverage", "geocr:spatialResolution"} & terms.keys()
    assert "Captions: gsd, key-value." in (tmp_path / "out/README.md").read_text()


@pytest.mark.parametrize(
    ("samples", "category"), [(999, "n<1K"), (1000, "1K<n<10K"), (999_999, "100K<n<1M"), (1_000_000, "1M<n<10M")]
)
def test_sizes_have_the_hubs_names(samples: int, category: str) -> None:
    assert card._size_category(samples) == category


@pytest.mark.parametrize(("categories", "classes"), [((None, "dam"), True), ((None, None), False)])
def test_a_set_of_which_some_samples_have_a_class_has_classes(categories: tuple[str | None, ...], classes: bool) -> None:
    nothing = Metadata()
    rows = [
        (
            "train/000000.tar",
            Sample(f"key{number}", "train", "place", category, "path", 8, 8, Window(0, 0, 8, 8), nothing, nothing, None),
        )
        for number, category in enumerate(categories)
    ]
    assert card.read_coverage(index_table(rows)).classes is classes
