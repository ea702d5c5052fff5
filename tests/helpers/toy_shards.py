"""A small valid shard directory for tests: learnable images and metadata, written with plain `tarfile`."""

import datetime as dt
import hashlib
import io
import json
import shutil
import tarfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from satmip_schemas import RGB, SCHEMA_VERSION, first_error, read_dataset, seal

from satmip_data.metadata.captions import caption
from satmip_data.metadata.fields import DEFAULT_FIELDS, FIELDS
from satmip_data.metadata.tabular import Standardizer, fit
from satmip_data.records import Metadata

CLASSES = ("airport", "crop_field", "lake", "port")
_DEFAULT_SPLITS = {"train": 40, "val": 16}


def write_toy_shards(
    path: str | Path,
    splits: Mapping[str, int] = _DEFAULT_SPLITS,
    *,
    shards: int = 2,
    size: tuple[int, int] = (32, 32),
    classes: tuple[str, ...] = CLASSES,
    seed: int = 0,
    fields: tuple[str, ...] = DEFAULT_FIELDS,
    style: str = "key-value",
    missing: float = 0.0,
) -> Path:
    """Write a shard directory of `splits` (name -> samples), each split in `shards` tars, and return its path.

    A class shows as colour, direction and width of stripes and as a region on Earth, so that images, metadata and their
    pairing can all be learned. Two samples share a place. `missing` is the share of samples that know no metadata at all.
    Without `classes` no sample has a label.
    """
    root = Path(path)
    rng = np.random.default_rng(seed)
    samples = {split: [_sample(split, i, size, classes, missing, rng) for i in range(count)] for split, count in splits.items()}
    standardizer = fit(sample["metadata"] for sample in samples.get("train", next(iter(samples.values()))))
    entries: list[dict[str, Any]] = []
    for split, rows in samples.items():
        for number, part in enumerate(np.array_split(np.arange(len(rows)), min(shards, len(rows)))):
            name = f"{split}/{number:06d}.tar"
            members = [m for i in part for m in _members(rows[int(i)], standardizer, fields, style)]
            entries.append({"name": name, "split": split, "samples": len(part), **_write_tar(root / name, members)})
    everyone = [sample for rows in samples.values() for sample in rows]
    pixels = np.concatenate([sample["image"].reshape(-1, 3) for sample in everyone]) / 255
    dataset = {
        "schema_version": SCHEMA_VERSION,
        "software": {"satmip": "0.0.0"},
        "source": {"name": "toy", "root": "toy", "options": {}, "licence": "CC0-1.0"},
        "settings": {"seed": seed},
        "decoder": {"name": "toy", "version": "0"},
        "image": RGB,
        "size": list(size),
        "files": {},
        "splits": {split: {"samples": len(rows), "shards": min(shards, len(rows))} for split, rows in samples.items()},
        "classes": sorted(classes),
        "shards": entries,
        **standardizer.to_json(),
        "caption": {
            "fields": list(fields),
            "style": style,
            "longest": None,
            "empty": sum(caption(sample["metadata"], fields, style) == "" for sample in everyone),
        },
        "channels": {"mean": pixels.mean(0).tolist(), "std": pixels.std(0).tolist(), "samples": len(everyone)},
        "rejects": {},
        "flags": {},
    }
    write_dataset_json(root, dataset)
    read_dataset((root / "dataset.json").read_bytes(), "toy")
    return root


def write_dataset_json(root: Path, dataset: dict[str, Any]) -> None:
    """Write a `dataset.json` that bears its own hash, whatever it says."""
    (root / "dataset.json").write_bytes(seal(dataset))


def _sample(
    split: str, i: int, size: tuple[int, int], classes: tuple[str, ...], missing: float, rng: np.random.Generator
) -> dict[str, Any]:
    group = i % max(len(classes), 1)
    known = Metadata(
        gsd=(round(0.5 + 0.3 * group + 0.05 * rng.random(), 4),) * 2,
        datetime=dt.datetime(2015 + group, 1, 1, tzinfo=dt.UTC) + dt.timedelta(minutes=int(rng.integers(500_000))),
        location=(-120 + 60.0 * group + float(rng.normal()), 10.0 * group + float(rng.normal())),
        country_code=("USA", "BRA", "FRA", "JPN")[group % 4],
        cloud_cover=float(rng.integers(100)),
        sun_elevation=round(float(rng.uniform(20, 80)), 2),
    )
    return {
        "key": f"{split}_{i:06d}",
        "split": split,
        "image": _stripes(group, size, rng),
        "label": group if classes else None,
        "category": sorted(classes)[group] if classes else None,
        "place": f"{split}_{group}_{i // max(len(classes), 1) // 2}",
        "metadata": Metadata() if rng.random() < missing else known,
    }


def _stripes(group: int, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Stripes whose direction, width and colour tell the group, with noise and a random phase: (H, W, 3) uint8."""
    rows, cols = np.mgrid[0 : size[1], 0 : size[0]] / max(size)
    angle, waves = group * np.pi / 5, 2 + 2 * (group % 4)
    wave = np.sin(2 * np.pi * (waves * (np.cos(angle) * cols + np.sin(angle) * rows) + rng.random()))
    colour = np.array([np.cos(group), np.cos(group + 2), np.cos(group + 4)])
    image = 128 + 45 * wave[..., None] + 35 * colour + rng.normal(0, 12, (size[1], size[0], 3))
    return image.clip(0, 255).astype(np.uint8)


def _members(
    sample: dict[str, Any], standardizer: Standardizer, fields: tuple[str, ...], style: str
) -> Iterable[tuple[str, bytes]]:
    jpeg = io.BytesIO()
    Image.fromarray(sample["image"]).save(jpeg, "JPEG", quality=95)
    height, width = sample["image"].shape[:2]
    features = standardizer.transform(sample["metadata"])
    record = {
        "key": sample["key"],
        "split": sample["split"],
        "place": sample["place"],
        "category": sample["category"],
        "labels": [],
        "metadata": _as_json(sample["metadata"]),
        "scene": {"path": f"{sample['key']}.png", "width": width, "height": height, "metadata": _as_json(sample["metadata"])},
        "window": [0, 0, width, height],
        "footprint": None,
    }
    assert first_error("sample", record) is None, first_error("sample", record)
    yield f"{sample['key']}.jpg", jpeg.getvalue()
    yield f"{sample['key']}.txt", caption(sample["metadata"], fields, style).encode()
    yield f"{sample['key']}.json", json.dumps(record).encode()
    for suffix, array in (("num", features.numeric), ("cat", features.categorical), ("mask", features.mask)):
        yield f"{sample['key']}.{suffix}.npy", _npy(array)
    if sample["label"] is not None:
        yield f"{sample['key']}.cls", str(sample["label"]).encode()


def _as_json(metadata: Metadata) -> dict[str, Any]:
    def plain(value: object) -> object:
        if isinstance(value, dt.datetime):
            return value.strftime("%Y-%m-%dT%H:%M:%SZ")
        return list(value) if isinstance(value, tuple) else value

    return {field.name: plain(field.value(metadata)) for field in FIELDS}


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def _write_tar(path: Path, members: Iterable[tuple[str, bytes]]) -> dict[str, Any]:
    """Write a ustar archive and return its size and hash as `dataset.json` holds them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    content = path.read_bytes()
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def tar_bytes(members: Iterable[tuple[str, bytes]], kind: int) -> bytes:
    """Return a tar of files in a format of `tarfile`'s."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=kind) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def edited_copy(shards: Path, root: Path, edit: Callable[[dict[str, Any]], None] | None = None) -> Path:
    """Copy a shard directory to `root`, let `edit` change its `dataset.json`, and return `root`."""
    shutil.copytree(shards, root, dirs_exist_ok=True)
    if edit is not None:
        data = json.loads((root / "dataset.json").read_text())
        edit(data)
        write_dataset_json(root, data)
    return root


def replace_shard(root: Path, name: str, content: bytes) -> None:
    """Write other bytes in place of a shard, as another program may have built it, and list them in `dataset.json`."""
    (root / name).write_bytes(content)
    data = json.loads((root / "dataset.json").read_text())
    entry = next(entry for entry in data["shards"] if entry["name"] == name)
    entry.update(bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
    write_dataset_json(root, data)
