"""satmip-eval ask as a user runs it: on files, folders and shards, and what it keeps."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from helpers.browser import look_at
from helpers.eval_world import COMMON, call, write_run
from helpers.toy_shards import write_toy_shards
from PIL import Image

import satmip_train
from satmip_train import UsageError
from satmip_train.joint_space.calibration import LEVELS, role
from satmip_train.joint_space.posterior import similarities, weights

FIELDS = ("gsd", "timestamp", "location", "country_code")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("world")
    write_toy_shards(root / "shards", {"train": 32, "val": 56}, fields=FIELDS)
    write_run(root / "run", root / "shards", objective="satmips", metadata_encoder="tabular", fields=FIELDS)
    write_run(root / "simclr", root / "shards", objective="simclr")
    # Where the run says that it learned from.
    (root / "run" / "config.json").write_text(
        json.dumps({"dataset": {"root": str(root / "shards")}, "settings": {"split": "train"}})
    )
    (root / "pictures").mkdir()
    for number in range(2):
        Image.effect_noise((40, 40), 40 + 20 * number).convert("RGB").save(root / "pictures" / f"{number}.png")
    (root / "pictures" / "broken.png").write_bytes(b"none")
    return root


def test_one_image_as_a_table_and_as_json(world: Path) -> None:
    told = call("ask", world / "run", world / "pictures/0.png", *COMMON)
    assert told.exit_code == 0, told.output
    assert "80 % region" in told.output
    assert "held-out places" in told.output
    answer = json.loads(call("ask", world / "run", world / "pictures/0.png", "--json", *COMMON).output)["images"][0]
    assert {"location", "day", "hour", "year", "gsd", "country_code", "sun_elevation_angle"} == answer["quantities"].keys()
    for told in answer["quantities"].values():
        shares = [told["regions"][str(level)]["share"] for level in LEVELS]
        assert shares == sorted(shares)
    assert len(answer["nearest"]) == 8
    api = satmip_train.load(world / "run", device="cpu").ask(world / "pictures/0.png")[0]
    assert api.to_json()["quantities"] == answer["quantities"]


def test_what_was_computed_is_kept_and_serves_without_the_shards(world: Path, tmp_path: Path) -> None:
    call("ask", world / "run", world / "pictures/0.png", *COMMON)
    shutil.copytree(world / "run", tmp_path / "run")
    (tmp_path / "run" / "config.json").unlink()
    shutil.rmtree(tmp_path / "run" / "features")
    here, there = (call("ask", run, world / "pictures/0.png", "--json", *COMMON) for run in (world / "run", tmp_path / "run"))
    assert json.loads(here.output) == json.loads(there.output)
    shutil.rmtree(tmp_path / "run" / "ask")
    gone = call("ask", tmp_path / "run", world / "pictures/0.png", *COMMON)
    assert gone.exit_code == 1
    assert "--shards" in gone.output


def test_the_weights_are_the_plain_softmax(world: Path) -> None:
    encoder = satmip_train.load(world / "run", device="cpu")
    asker = encoder._asker
    picture = encoder.embed(world / "pictures/0.png", joint=True)
    cosines = encoder.similarity(world / "pictures/0.png", asker.references.records)[0].astype(np.float64)
    plain = np.exp(cosines / asker.calibration.temperature)
    got = weights(similarities(asker.references.vectors, picture), asker.calibration.temperature)
    assert got[:, 0] == pytest.approx(plain / plain.sum(), rel=1e-3)
    codes = np.array([record.country_code for record in asker.references.records])
    density = encoder.ask(world / "pictures/0.png")[0].densities["country_code"]
    shares = [plain[codes == word].sum() / plain.sum() for word in density.support.centres]
    assert density.mass == pytest.approx(0.98 * np.array(shares) + 0.02 / len(shares), rel=1e-3)


def test_no_place_is_used_twice(world: Path) -> None:
    call("ask", world / "run", world / "pictures/0.png", *COMMON)
    (path,) = (world / "run/ask").glob("calibration-????????????.json")
    kept = json.loads(path.read_text())
    places = {f"val_{i % 4}_{i // 8}" for i in range(56)}
    roles = [role(place) for place in places]
    assert kept["places"]["day"] == roles.count("regions")
    assert kept["coverage"]["day"]["places"] == roles.count("test")
    assert kept["coverage"]["day"]["pictures"] == sum(role(f"val_{i % 4}_{i // 8}") == "test" for i in range(56))


def test_many_images_as_geoparquet_and_a_page(world: Path, tmp_path: Path) -> None:
    out, page = tmp_path / "a.parquet", tmp_path / "ask.html"
    told = call("ask", world / "run", world / "shards", "--split", "val", "--out", out, "--html", page, *COMMON)
    assert told.exit_code == 0, told.output
    table = pq.read_table(out)
    assert table.num_rows == 56
    assert {"image", "location_lon", "day", "gsd_share_80", "location_error", "geometry", "nearest"} <= set(table.column_names)
    assert json.loads(table.schema.metadata[b"geo"])["primary_column"] == "geometry"
    assert page.stat().st_size < 5_000_000
    assert "32 more pictures" in page.read_text()
    for width, shown in look_at(page, tmp_path).items():
        assert shown["overflow"] <= 0, width
        assert shown["pictures"] == 24 * 7
        assert shown["letters"] > 8


def test_a_folder_with_a_broken_image(world: Path) -> None:
    told = call("ask", world / "run", world / "pictures", *COMMON)
    assert told.exit_code == 0, told.output
    assert "broken.png" in told.output
    assert "pictures/1" in told.output


def test_what_is_given_is_not_asked(world: Path) -> None:
    given = "datetime=2016-07-01,country_code=FRA"
    told = json.loads(call("ask", world / "run", world / "pictures/0.png", "--given", given, "--json", *COMMON).output)
    assert {"location", "hour", "gsd"} <= told["images"][0]["quantities"].keys()
    assert not {"day", "year", "country_code"} & told["images"][0]["quantities"].keys()
    assert told["images"][0]["quantities"]["gsd"]["regions"] == {}
    # The sun of the first of July north of the tropics is not that of the references' winters.
    assert told["notes"][0].startswith("No regions")


def test_find_lists_chips_and_whether_their_records_fit(world: Path) -> None:
    told = json.loads(call("ask", world / "run", world / "shards", "--find", "lat=-5..5", "--count", 5, "--json", *COMMON).output)
    assert len(told["found"]) == 5
    assert told["share_that_fits"] == 0.25  # one group of four lies there
    assert [one["times"] for one in told["found"]] == sorted((one["times"] for one in told["found"]), reverse=True)
    assert all(one["fits"] == (abs(one["metadata"]["location"][1]) <= 5) for one in told["found"])


def test_an_even_grid_of_the_sphere(world: Path) -> None:
    told = call("ask", world / "run", world / "pictures/0.png", "--grid", "--json", *COMMON)
    assert told.exit_code == 0, told.output
    assert json.loads(told.output)["images"][0]["quantities"]["location"]["regions"]["95"]["share"] <= 1
    assert list((world / "run/ask").glob("calibration-*-grid.json"))


def test_the_trial_stands_beside_baselines(world: Path, tmp_path: Path) -> None:
    told = call("ask", world / "run", "--test", "--beside", world / "simclr", "--out", tmp_path, *COMMON)
    assert told.exit_code == 0, told.output
    result = json.loads((tmp_path / "ask.json").read_text())
    ways = list(result["errors"])
    assert ways[-1] == "ask"
    assert sum("ridge" in way for way in ways) == sum("nearest chips" in way for way in ways) == 2
    # Groups are told apart by colour, so that even random networks see more than chance.
    errors = {way: found["location"] for way, found in result["errors"].items()}
    assert min(errors[way] for way in ways if "ridge" in way) < 0.5 * errors["chance (a random record)"]
    assert all(0 <= found[name] <= 1 for found in result["errors"].values() for name in ["country_code"])


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ((), 2),
        (("{pictures}", "--find", "lat=1"), 2),
        (("{pictures}", "--test"), 2),
        (("{pictures}", "--beside", "{run}"), 2),
        (("{pictures}", "--out", "a.csv"), 2),
        (("{pictures}", "--given", "latt=1"), 1),
        (("{pictures}/broken.png",), 1),
        (("{pictures}", "--calibration", "{pictures}/0.png"), 1),
    ],
)
def test_what_cannot_be_asked_is_told(world: Path, words: tuple[str, ...], code: int) -> None:
    places = {"pictures": world / "pictures", "run": world / "run"}
    told = call("ask", world / "run", *(word.format(**places) for word in words), *COMMON)
    assert told.exit_code == code, told.output


def test_a_run_of_images_alone_knows_nothing_of_metadata(world: Path) -> None:
    told = call("ask", world / "simclr", world / "pictures", *COMMON)
    assert told.exit_code == 1
    assert "images alone" in told.output
    with pytest.raises(UsageError):
        satmip_train.load(world / "simclr", device="cpu").ask(world / "pictures/0.png")
