"""The API for Python gives the numbers of the commands, and timm those of the API."""

import json
import re
import subprocess
import sys
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import timm
import torch
from helpers.eval_world import COMMON, SMALL, call, write_run
from helpers.toy_shards import write_toy_shards
from PIL import Image
from safetensors.torch import load_file
from torchvision.transforms.functional import to_tensor

import satmip_train
from satmip_data.metadata.serialize import metadata_from_json
from satmip_train import Encoder, UsageError
from satmip_train.data.dataset import open_dataset
from satmip_train.data.tar import Readers
from satmip_train.evaluation.metadata_features import Running, cached, load_metadata_model
from satmip_train.runs.export import export_run, load_projections
from satmip_train.runs.hub import push

TWELVE = {"backbone_args": {**SMALL, "num_heads": 12}}
FIELDS = ("gsd", "timestamp", "location", "country_code", "cloud_cover")
RUNS: dict[str, dict[str, Any]] = {
    "text": {"objective": "satmip", **TWELVE, "fields": ("timestamp", "gsd", "cloud_cover")},
    "tabular": {"objective": "satmips", "metadata_encoder": "tabular", "projection_bias": True, "fields": FIELDS},
    "siglip": {"objective": "satmip", "metadata_loss": "siglip"},
    "simclr": {"objective": "simclr"},
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("world")
    write_toy_shards(root / "shards", {"train": 24, "val": 7}, fields=FIELDS, missing=0.3)
    for name, settings in RUNS.items():
        write_run(root / name, root / "shards", **settings)
    (root / "pictures").mkdir()
    for number, (key, chip) in enumerate(chips(root).items()):
        Image.fromarray(chip).resize((40 + 9 * number, 50)).save(root / "pictures" / f"{key}.png")
    return root


def members(world: Path, suffix: str) -> dict[str, bytes]:
    readers = Readers(open_dataset(world / "shards"), "val")
    places = [(readers[n], i) for n, shard in enumerate(readers.shards) for i in range(shard.samples)]
    return {reader.keys[i]: reader.read(i, suffix) for reader, i in places}


def chips(world: Path) -> dict[str, np.ndarray]:
    return {key: np.array(Image.open(BytesIO(content))) for key, content in members(world, "jpg").items()}


def records(world: Path) -> list[dict[str, Any]]:
    return [json.loads(content)["metadata"] for content in members(world, "json").values()]


def load(folder: Path, **options: Any) -> Encoder:
    return satmip_train.load(folder, device="cpu", **options)


@pytest.mark.parametrize("name", ["text", "simclr"])
def test_vectors_are_those_of_the_command(world: Path, tmp_path: Path, name: str) -> None:
    for what in (("--shards", world / "shards", "--split", "val"), ("--images", world / "pictures")):
        call("embed", world / name, *what, "--out", tmp_path / "v.parquet", "--batch-size", 3, *COMMON)
        table = pq.read_table(tmp_path / "v.parquet")
        told = np.stack(table["vector"].to_pylist())
        encoder = load(world / name, batch_size=3)
        if "--shards" in what:
            arrays = list(chips(world).values())
            forms: list[Any] = [arrays, np.stack(arrays), (Image.fromarray(chip) for chip in arrays)]
        else:
            paths = [world / "pictures" / file for file in table["path"].to_pylist()]
            forms = [paths, map(str, paths), [np.array(Image.open(path)) for path in paths]]
        for images in forms:
            assert np.array_equal(encoder.embed(images), told)
    (only,) = encoder.embed(paths[0])
    np.testing.assert_allclose(only, told[0], atol=1e-5)
    assert encoder.embed([]).shape == (0, encoder.width) == (0, 48)


@pytest.mark.parametrize("name", ["text", "tabular", "siglip"])
def test_metadata_and_similarity_are_those_of_the_evaluation(world: Path, tmp_path: Path, name: str) -> None:
    dataset, encoder, known = open_dataset(world / "shards"), load(world / name), records(world)
    told = cached(tmp_path, load_metadata_model(world / name), dataset, "val", Running()).vectors
    for rows in (known, map(metadata_from_json, known), [{k: v for k, v in row.items() if v is not None} for row in known]):
        np.testing.assert_allclose(encoder.encode_metadata(rows), told, atol=1e-6)
    call("retrieve", world / name, "--shards", world / "shards", "--split", "val", "--out", tmp_path, *COMMON)
    told = json.loads((tmp_path / "retrieval.json").read_text())["models"][0]["image_to_metadata"]["metrics"]
    similarities = encoder.similarity(chips(world).values(), known)
    better = (similarities > np.diag(similarities)[:, None]).sum(1)
    equal = (similarities == np.diag(similarities)[:, None]).sum(1)
    assert similarities.shape == (7, 7)
    assert np.abs(similarities).max() <= 1 + 1e-6
    if (equal == 1).all():
        assert told["recall_5"] == pytest.approx((better < 5).mean())
    weights = load_file(world / name / "projections.safetensors")
    image = encoder.embed(chips(world).values()) @ weights["image_projection.weight"].numpy().T
    image = image + weights.get("image_projection.bias", torch.zeros(())).numpy()
    metadata = encoder.encode_metadata(known) @ weights["metadata_projection.weight"].numpy().T
    metadata = metadata + weights.get("metadata_projection.bias", torch.zeros(())).numpy()
    image, metadata = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (image, metadata))
    np.testing.assert_allclose(similarities, image @ metadata.T, atol=1e-5)


def test_what_is_exported_suffices(world: Path, tmp_path: Path) -> None:
    encoder = load(world / "siglip")
    assert encoder.projections is not None
    assert encoder.projections.logit_scale == pytest.approx(10)
    assert encoder.projections.logit_bias == -10
    expected = encoder.similarity(chips(world).values(), records(world))
    before = load_projections(world / "siglip")
    (world / "siglip" / "last.pt").rename(tmp_path / "last.pt")
    try:
        assert np.array_equal(load(world / "siglip").similarity(chips(world).values(), records(world)), expected)
    finally:
        (tmp_path / "last.pt").rename(world / "siglip" / "last.pt")
    # An export from before projections were exported has them in its checkpoint alone.
    kept = (world / "siglip" / "projections.safetensors").rename(tmp_path / "kept")
    try:
        assert torch.equal(load_projections(world / "siglip").image.weight, before.image.weight)
    finally:
        kept.rename(world / "siglip" / "projections.safetensors")


def test_timm_gives_the_same_vectors_from_its_own_folder(world: Path) -> None:
    encoder = load(world / "text")
    backbone: Any = timm.create_model(f"local-dir:{world / 'text' / 'timm'}", pretrained=True).eval()
    assert backbone.blocks[0].attn.num_heads == 12
    timm_data: Any = timm.data
    transform = timm_data.create_transform(**timm_data.resolve_model_data_config(backbone))
    pictures: list[Image.Image] = [Image.open(path) for path in sorted((world / "pictures").iterdir())]
    pictures += [Image.fromarray(chip) for chip in chips(world).values()]
    with torch.inference_mode():
        exact = backbone(torch.stack([transform(to_tensor(picture)) for picture in pictures])).numpy()
        rounded = backbone(torch.stack([transform(picture) for picture in pictures])).numpy()
    expected = encoder.embed(pictures)
    np.testing.assert_allclose(exact, expected, atol=1e-5)
    np.testing.assert_allclose(rounded[7:], expected[7:], atol=1e-5)  # of the view's size: nothing is resized
    assert (np.linalg.norm(rounded - expected, axis=1) < 0.01 * np.linalg.norm(expected, axis=1)).all()
    fine_tuned: Any = timm.create_model(f"local-dir:{world / 'text' / 'timm'}", pretrained=True, num_classes=5)
    assert torch.equal(fine_tuned.blocks[0].attn.qkv.weight, backbone.blocks[0].attn.qkv.weight)


def kept_by_the_hub(cache: Path, repository: str, source: Path) -> None:
    """Lay out a repository as the hub's client keeps it."""
    folder = cache / f"models--{repository.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True, exist_ok=True)
    (folder / "refs" / "main").write_text("0" * 40)
    (folder / "snapshots").mkdir()
    source.rename(folder / "snapshots" / ("0" * 40))


def test_a_pushed_run_is_loaded_by_its_name_and_its_card_runs(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    huggingface_hub = pytest.importorskip("huggingface_hub")
    uploaded = tmp_path / "uploaded"

    class Api:
        def create_repo(self, repository: str, **options: Any) -> str:
            return f"https://hub/{repository}"

        def upload_folder(self, folder_path: Path, allow_patterns: list[str], **options: Any) -> None:
            uploaded.mkdir(exist_ok=True)
            for name in allow_patterns:
                (uploaded / name).write_bytes((Path(folder_path) / name).read_bytes())

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    push(world / "text", export_run(world / "text", repository="me/satmip"), "me/satmip")
    card = (uploaded / "README.md").read_text()
    kept_by_the_hub(tmp_path / "cache", "me/satmip", uploaded)
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    export_run(world / "text")
    monkeypatch.chdir(world / "text")
    expected = load(world / "text").embed(Image.new("RGB", (224, 224)))
    for text in (card, Path("README.md").read_text()):
        names: dict[str, Any] = {}
        exec("\n".join(re.findall(r"```python\n(.*?)```", text, re.S)), names)
        for found in (names["vectors"], names["features"].detach().numpy()):
            np.testing.assert_allclose(found, expected, atol=1e-5)
        assert names["similarities"].shape == (1, 1)
    with pytest.raises(UsageError, match="hf-hub:me/other"):
        satmip_train.load("hf-hub:me/other")


def test_what_is_no_image_and_no_record_is_named(world: Path) -> None:
    encoder = load(world / "text")
    Image.new("I;16", (4, 4)).save(world / "deep.png")
    wrong: list[tuple[Any, str]] = [
        ([7], "int"),
        (["nowhere.png"], "nowhere.png"),
        (world / "deep.png", "deep.png"),
        (world / "pictures", "is a folder"),
        (np.zeros((4, 4, 3)), "float64"),
        (np.zeros((4, 4, 4), np.uint8), "4 x 4 x 4"),
        (torch.zeros(3, 4, 4), "Tensor"),
    ]
    for images, word in wrong:
        with pytest.raises(UsageError, match=word):
            encoder.embed(images)
    for record, word in (
        ({"tme": 1}, 'unknown field "tme"'),
        ({"clod_cover": 1}, '"cloud_cover"'),
        ({"angles": 1}, "angles"),
        ({"timestamp": "2015-05-01"}, "time zone"),
        ({"gsd": 0.5}, "gsd"),
        ({"gsd": [0.5]}, "gsd"),
        ({"location": [7, 97]}, "location"),
        ({"cloud_cover": "few"}, "few"),
        ({"cloud_cover": float("nan")}, "finite"),
        (7, "int"),
    ):
        with pytest.raises(UsageError, match=f"(?i){word}"):
            encoder.encode_metadata([record])  # type: ignore[list-item]
    for call_it in (
        lambda: load(world / "simclr").encode_metadata([{}]),
        lambda: load(world / "simclr").similarity([], []),
        lambda: load(world / "nowhere"),
        lambda: load(world / "text", batch_size=0),
    ):
        with pytest.raises(UsageError):
            call_it()
    with pytest.raises(UsageError, match=r"Did you mean .*tabular\?"):
        load(world / "tabula")
    assert repr(encoder) == f"<Encoder of {world / 'text'}: images of 32 x 32 to 48 numbers; metadata: {', '.join(encoder.fields)}>"


def test_a_field_that_is_missing_is_not_zero_and_one_that_is_not_read_changes_nothing(world: Path) -> None:
    for name in ("text", "tabular"):
        encoder = load(world / name)
        known: dict[str, Any] = {"gsd": (0.5, 0.5), "timestamp": "2016-05-01T12:30:00+02:00", "cloud_cover": 0.0}
        vectors = encoder.encode_metadata(
            [
                known,
                {**known, "cloud_cover": None},
                {**known, "off_nadir_angle": 3.0},
                {**known, "timestamp": "2016-05-01T10:30:00Z"},
            ]
        )
        assert not np.allclose(vectors[0], vectors[1])
        np.testing.assert_array_equal(vectors[0], vectors[2])
        np.testing.assert_array_equal(vectors[0], vectors[3])


def test_importing_takes_no_library() -> None:
    code = "import sys; known = {*sys.modules}; import satmip_data, satmip_train; assert dir(satmip_train), dir(satmip_data); "
    code += "print(sorted({name.split('.')[0] for name in sys.modules.keys() - known} - sys.stdlib_module_names))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout == "['satmip_data', 'satmip_train']\n"
    with pytest.raises(AttributeError, match="'satmip_train' has no attribute 'lo'"):
        _ = satmip_train.lo
    code = "import sys; sys.modules['torch'] = None; import satmip_train; satmip_train.load"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "needs the package torch. Run: pip install -e '.[train]'" in told.stderr
