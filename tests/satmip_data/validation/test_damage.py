"""Damage to a shard directory, and the check of `validate` that notices it."""

import io
import json
import random
import shutil
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import satmip_schemas
from click.testing import CliRunner
from helpers.damaging import DAMAGE, flip, list_anew
from PIL import Image
from shapely import from_wkb, reverse, to_wkb, transform

from satmip_data.cli.commands import main
from satmip_data.errors import BuildError
from satmip_data.pipeline.recaption import CaptionRewrite, recaption
from satmip_data.storage.parquet import parquet_bytes, read_parquet
from satmip_data.validation import validate

GOLDEN = Path(__file__).parents[2] / "data/shards-1"


@pytest.mark.parametrize("how", DAMAGE)
def test_validate_notices(built: Path, how: str) -> None:
    check, damage = DAMAGE[how]
    damage(built)
    found = {problem.check for problem in validate.validate(str(built)).problems}
    assert check in found
    assert how != "cut between members" or "counts" in found
    assert "statistics" not in found  # which say nothing of samples that are missing or have a problem


def test_every_byte_of_a_small_dataset_json_is_covered_by_its_hash() -> None:
    content = satmip_schemas.seal({"schema_version": 2, "classes": ["straße"]})
    with pytest.raises(satmip_schemas.ContractError, match="does not follow its schema"):
        satmip_schemas.read_dataset(content, "dataset.json")
    for place in range(len(content)):
        for bit in range(8):
            damaged = bytearray(content)
            damaged[place] ^= 1 << bit
            with pytest.raises(satmip_schemas.ContractError, match=r"no JSON|another version|its own sha256"):
                satmip_schemas.read_dataset(bytes(damaged), "dataset.json")


@pytest.mark.parametrize("version", [1, 2])
def test_flipped_bits_are_noticed_and_provoke_no_other_error(tmp_path: Path, version: int) -> None:
    """In any file of a directory; of version 1 the bytes of tables, cards and `dataset.json` have no hash to tell them by."""
    shards = shutil.copytree(GOLDEN / "shards", tmp_path / "shards")
    if version == 2:
        recaption(str(shards), CaptionRewrite(("gsd",), "key-value"))
    rng = random.Random(version)
    for path in sorted(path for path in shards.rglob("*") if path.is_file()):
        whole = path.read_bytes()
        for _ in range(3):
            flip(path, rng.randrange(len(whole)), rng.randrange(8))
            result = CliRunner().invoke(main, ["validate", str(shards), "--workers", "1"])
            assert isinstance(result.exception, SystemExit | None), (path, result.exc_info)
            assert version == 1 or result.exit_code == 1, path
            path.write_bytes(whole)


def test_a_damaged_dataset_json_is_an_error_with_advice(built: Path) -> None:
    (built / "dataset.json").write_text("{")
    with pytest.raises(BuildError, match=r"dataset\.json is no JSON: .*build again"):
        validate.validate(str(built))


@pytest.mark.parametrize(
    ("column", "change"),
    [
        ("category", lambda values: ["port", *values[1:]]),
        ("gsd", lambda values: [*values[:-1], [1.0, 2.0]]),
        ("scene_cloud_cover", lambda values: [None, *values[1:]]),
        ("window_x", lambda values: [values[0] + 1, *values[1:]]),
        ("geometry", lambda values: [values[1], values[0], *values[2:]]),
        ("geometry", lambda values: [b"no shape", *values[1:]]),
        ("geometry", lambda values: [None, *values[1:]]),
        ("flags", lambda values: [["sun_position"], *values[1:]]),
    ],
)
def test_validate_notices_an_index_that_is_not_the_samples(built: Path, column: str, change: Any) -> None:
    table = read_parquet((built / "index.parquet").read_bytes())
    values = pa.array(change(table[column].to_pylist()), table.schema.field(column).type)
    changed = table.set_column(table.schema.get_field_index(column), table.schema.field(column), values)
    list_anew(built, "index.parquet", parquet_bytes(changed))
    (problem,) = validate.validate(str(built)).problems
    assert problem.where == "index.parquet"
    assert column in problem.message


def test_validate_takes_a_footprint_that_begins_elsewhere_or_ends_in_another_last_digit(built: Path) -> None:
    table = read_parquet((built / "index.parquet").read_bytes())
    shapes = [reverse(shape) for shape in from_wkb(table["geometry"].to_pylist())]
    shapes[0] = transform(shapes[0], lambda points: points + 1e-13)
    index = table.schema.get_field_index("geometry")
    changed = table.set_column(index, table.schema.field(index), pa.array([to_wkb(shape) for shape in shapes]))
    list_anew(built, "index.parquet", parquet_bytes(changed))
    assert validate.validate(str(built)).problems == ()


@pytest.mark.parametrize(
    ("suffix", "change", "check"),
    [
        ("json", lambda d: d.replace(b'"gsd":[', b'"gsd":[1', 1), "gsd"),
        ("json", lambda d: d.replace(b'"place":', b'"spot":', 1), "schema"),
        ("json", lambda d: _clockwise(d), "footprint"),
        ("txt", lambda d: d.replace(b"gsd", b"dsg"), "caption"),
        ("cls", lambda d: b"0" if d != b"0" else b"1", "class"),
        ("jpg", lambda d: _resized(d), "image"),
        ("mask.npy", lambda d: d[:-1] + bytes([1 - d[-1]]), "features"),
    ],
)
def test_validate_notices_a_changed_member(built: Path, suffix: str, change: object, check: str) -> None:
    shard = built / "train/000001.tar"
    out = io.BytesIO()
    changed = False
    with tarfile.open(shard) as tar, tarfile.open(fileobj=out, mode="w|") as copy:
        for member in tar:
            data = tar.extractfile(member).read()  # type: ignore[union-attr]
            if member.name.partition(".")[2] == suffix and not changed:
                data, changed = change(data), True  # type: ignore[operator]
                member.size = len(data)
            copy.addfile(member, io.BytesIO(data))
    shard.write_bytes(out.getvalue())
    checks = {problem.check for problem in validate.validate(str(built)).problems}
    assert {check, "sha256"} <= checks


def _clockwise(data: bytes) -> bytes:
    record = json.loads(data)
    return json.dumps({**record, "footprint": record["footprint"][::-1]}).encode()


def _resized(data: bytes) -> bytes:
    out = io.BytesIO()
    Image.open(io.BytesIO(data)).resize((31, 32)).save(out, "JPEG")
    return out.getvalue()
