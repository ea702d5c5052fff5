"""Shards as a training reads them: tars, directories, what is fetched."""

import contextlib
import dataclasses
import gc
import hashlib
import io
import json
import os
import pickle
import resource
import tarfile
from dataclasses import replace

import fsspec
import pytest
from helpers.toy_shards import tar_bytes, write_toy_shards
from hypothesis import example, given, settings
from hypothesis import strategies as st

from satmip_train.data.dataset import open_dataset
from satmip_train.data.loader import ordered_batches
from satmip_train.data.tar import Readers, ShardReader, tar_members
from satmip_train.errors import UsageError
from satmip_train.evaluation.evaluate import describe_split
from satmip_train.training.plan import describe_dataset

# --- tars


names = st.text("abcé_/0", min_size=1, max_size=300).filter(lambda n: n.strip("/") == n and "//" not in n).map(lambda n: f"{n}.jpg")


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(names, st.binary(max_size=1100)), max_size=6), st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]))
@example([("a" * 99 + ".jpg", b"1"), ("é" * 80 + ".jpg", b"2"), ("b.jpg", b"3")], tarfile.GNU_FORMAT)
@example([("a" * 300 + ".jpg", b"1"), ("é" * 80 + ".jpg", b"2"), ("b.jpg", b"3")], tarfile.PAX_FORMAT)
def test_members_are_those_of_tarfile(members, kind):
    data = tar_bytes(members, kind)
    found = [(name, data[start : start + size]) for name, start, size in tar_members(data)]
    assert found == members


def test_ustar_prefix_and_large_sizes_are_read():
    long = "/".join(["folder" * 10] * 3) + "/name.jpg"
    data = tar_bytes([(long, b"abc")], tarfile.USTAR_FORMAT)
    assert [(n, s) for n, _, s in tar_members(data)] == [(long, 3)]
    longer = "folder" * 25 + "/name.jpg"  # of 155 that there are
    assert [n for n, _, _ in tar_members(tar_bytes([(longer, b"abc")], tarfile.USTAR_FORMAT))] == [longer]
    header = tarfile.TarInfo("big.jpg")
    header.size = 1 << 33
    with pytest.raises(ValueError, match="ends inside the member"):
        list(tar_members(header.tobuf(tarfile.GNU_FORMAT)))


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({156: b"\0"}, id="a file as before POSIX"),
        pytest.param({124: b"\x80" + (3).to_bytes(11, "big")}, id="its size in base 256"),
        pytest.param({124: b"         3 \0"}, id="its size between spaces"),
        pytest.param({257: b"ustar  \0", 345: b"01234567012\0"}, id="a time of GNU tar in place of a prefix"),
    ],
)
def test_older_forms_of_headers_are_read(change):
    data = bytearray(tar_bytes([("a.jpg", b"abc"), ("b.jpg", b"d")], tarfile.USTAR_FORMAT))
    for offset, content in change.items():
        data[offset : offset + len(content)] = content
    found = [(name, data[start : start + size]) for name, start, size in tar_members(bytes(data))]
    assert found == [("a.jpg", b"abc"), ("b.jpg", b"d")]


def test_a_size_left_blank_is_none_and_a_name_left_blank_is_no_end():
    data = bytearray(tar_bytes([("a.jpg", b""), ("b.jpg", b"d")], tarfile.USTAR_FORMAT))
    data[124:136] = bytes(12)
    assert [(name, size) for name, _, size in tar_members(bytes(data))] == [("a.jpg", 0), ("b.jpg", 1)]
    data[:5] = bytes(5)
    assert [(name, size) for name, _, size in tar_members(bytes(data))] == [("", 0), ("b.jpg", 1)]


def test_what_a_pax_header_says_of_all_members_is_read_past():
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT, pax_headers={"comment": "of all"}) as tar:
        tar.addfile(tarfile.TarInfo("a.jpg"))
    assert [(name, size) for name, _, size in tar_members(buffer.getvalue())] == [("a.jpg", 0)]


@pytest.mark.parametrize("cut", [512, 1024 + 100, 3 * 512])
def test_a_truncated_tar_is_refused(cut):
    data = tar_bytes([("a.jpg", b"x" * 600), ("b.jpg", b"y" * 600)], tarfile.USTAR_FORMAT)
    with pytest.raises(ValueError, match="it ends"):
        list(tar_members(data[:cut]))


def test_a_damaged_header_is_refused(tmp_path):
    plain = tar_bytes([("a.jpg", b"x")], tarfile.USTAR_FORMAT)
    (tmp_path / "a.tar").write_bytes(plain[:124] + b"12xyz" + plain[129:])
    with pytest.raises(UsageError, match=r"a\.tar is no whole tar: the header at byte 0 is damaged\. Copy"):
        ShardReader(tmp_path / "a.tar", 1)
    for record in (b"99 path=b.jpg\n", b"0 path=b.jpg\n", b"path\n"):
        header = tarfile.TarInfo("pax")
        header.type, header.size = tarfile.XHDTYPE, len(record)
        with pytest.raises(ValueError, match=r"a pax header is damaged|invalid literal"):
            list(tar_members(header.tobuf() + record.ljust(512, b"\0") + plain))


@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.AREGTYPE])
def test_the_size_in_a_pax_header_and_folders_are_read(kind):
    header, folder = tarfile.TarInfo("pax"), tarfile.TarInfo("folder")
    record = b"12 size=600\n"
    header.type, header.size, folder.type = tarfile.XHDTYPE, len(record), tarfile.DIRTYPE
    data = folder.tobuf() + header.tobuf() + record.ljust(512, b"\0")
    file = tarfile.TarInfo("a.jpg")
    file.type = kind
    member = file.tobuf() + b"y" * 600 + bytes(424 + 1024)
    ((name, start, size),) = tar_members(data + member)
    assert (name, size) == ("a.jpg", 600)
    assert (data + member)[start : start + size] == b"y" * 600


def test_links_are_refused():
    info = tarfile.TarInfo("a.jpg")
    info.type, info.linkname = tarfile.SYMTYPE, "b.jpg"
    with pytest.raises(ValueError, match="of type"):
        list(tar_members(info.tobuf() + bytes(1024)))


def test_a_reader_refuses_another_count_and_repeated_keys(tmp_path):
    path = tmp_path / "a.tar"
    path.write_bytes(tar_bytes([("a.jpg", b"1"), ("README", b"no"), ("a.TXT", b"2"), ("b.jpg", b"3")], tarfile.USTAR_FORMAT))
    reader = ShardReader(path, 2)
    assert (reader.keys, reader.read(0, "txt"), reader.find(1, "txt")) == (["a", "b"], b"2", None)
    with pytest.raises(UsageError, match=r"sample b in .*a\.tar has no member"):
        reader.read(1, "txt")
    with pytest.raises(UsageError, match=r"holds 2 samples.* 3"):
        ShardReader(path, 3)
    path.write_bytes(tar_bytes([("a.jpg", b"1"), ("b.jpg", b"3"), ("a.txt", b"2")], tarfile.USTAR_FORMAT))
    for samples in (2, 3):
        with pytest.raises(UsageError, match="3 samples of 2 keys"):
            ShardReader(path, samples)
    path.write_bytes(b"")
    with pytest.raises(UsageError, match=r"a\.tar: .*empty file\. Copy"):
        ShardReader(path, 3)


@contextlib.contextmanager
def few_open_files(more: int):
    """Let this process open so few files more."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    gc.collect()  # what closes files later would make room
    highest, filled = max(map(int, os.listdir("/dev/fd"))), [os.dup(0)]
    while filled[-1] < highest:  # the limit is one of numbers, and other tests leave gaps below those of open files
        filled.append(os.dup(0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (filled[-1] + 1 + more, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for number in filled:
            os.close(number)


def test_more_shards_than_a_process_may_open_are_read(tmp_path):
    dataset = open_dataset(write_toy_shards(tmp_path / "shards", {"train": 40}, shards=40, size=(8, 8)))
    with few_open_files(10):
        readers = Readers(dataset, "train")
        assert len({readers[number].keys[0] for number in range(40)}) == 40
    with few_open_files(0), pytest.raises(UsageError, match=r"Too many open files.*Raise the limit"):
        ShardReader(dataset.path(readers.shards[0]), 1)


@pytest.mark.parametrize(
    ("before", "after"),
    [((100, 4096), (107, 4096)), ((100, 103), (103, 103)), ((100, -1), (107, -1)), ((-1, -1), None)],
)
def test_open_files_are_asked_for_as_far_as_the_system_lets(toy, monkeypatch, before, after):
    assert resource.RLIM_INFINITY == -1
    asked = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: before)
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: asked.append(limits))
    dataset = open_dataset(toy)
    Readers(replace(dataset, shards=(dataset.shards[0],) * 7), "train")
    assert asked == ([] if after is None else [after])


def test_readers_open_a_shard_once_and_travel_closed(toy):
    readers = Readers(open_dataset(toy), "val")
    assert readers[1] is readers[1]
    assert pickle.loads(pickle.dumps(readers))[1].keys == readers[1].keys


# --- shard directories


def test_an_opened_dataset_says_what_it_holds(toy):
    dataset = open_dataset(toy)
    assert dataset.splits == {"train": 21, "val": 7}
    assert [s.samples for s in dataset.split("train")] == [7, 7, 7]
    assert {c.field for c in dataset.numeric} >= {"gsd", "timestamp", "location"}
    assert (
        dataset.fingerprint == open_dataset(toy).fingerprint != open_dataset(write_toy_shards(toy.parent / "b", seed=1)).fingerprint
    )


def test_an_opened_dataset_has_what_its_json_says(copy):
    def tell(data):
        data["size"] = [32, 24]
        data["source"]["root"] = "elsewhere"
        data["caption"].update(longest={"tokens": 9, "key": "train_000001"}, empty=3, style="sentence")
        data["numeric"][0]["known"] = 5

    root = copy(tell)
    dataset, data = open_dataset(root), json.loads((root / "dataset.json").read_text())
    assert [dataclasses.asdict(shard) for shard in dataset.shards] == data["shards"]
    for column, listed in zip(dataset.numeric, data["numeric"], strict=True):
        assert (column.name, column.field, column.cardinality, column.values) == (listed["name"], listed["field"], 0, ())
        assert (column.mean, column.std, column.known) == (listed["mean"], listed["std"], listed["known"])
    for column, listed in zip(dataset.categorical, data["categorical"], strict=True):
        assert (column.name, column.field, column.values) == (listed["name"], listed["field"], tuple(listed["values"]))
        assert (column.cardinality, column.mean, column.std, column.known) == (len(listed["values"]) + 1, 0.0, 1.0, 0)
    assert (dataset.caption_fields, dataset.caption_style) == (tuple(data["caption"]["fields"]), "sentence")
    assert (dataset.longest_caption, dataset.empty_captions) == (9, 3)
    assert (list(dataset.mean), list(dataset.std)) == (data["channels"]["mean"], data["channels"]["std"])
    assert (dataset.classes, dataset.size) == (tuple(data["classes"]), (32, 24))
    assert (dataset.source, dataset.licence) == ("toy", "CC0-1.0")
    listed = "\n".join(f"{shard['name']} {shard['sha256']}" for shard in data["shards"])
    assert dataset.fingerprint == hashlib.sha256(listed.encode()).hexdigest()
    assert open_dataset(copy(lambda data: data.update(size=None))).size is None


def test_a_path_may_be_a_url_and_end_with_slashes(toy, monkeypatch):
    for path in (toy, f"{toy}/", f"file://{toy}", f"file://{toy}//"):
        assert open_dataset(path).root == str(toy)
    with pytest.raises(UsageError, match=r"^/ holds no dataset\.json"):
        open_dataset("/")
    monkeypatch.setenv("XDG_CACHE_HOME", "/elsewhere")
    assert str(open_dataset(toy).cache) == "/elsewhere/satmip/shards"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/of")
    assert str(open_dataset(toy).cache) == "/home/of/.cache/satmip/shards"


@pytest.mark.parametrize(("content", "message"), [("[]", "schema_version is null"), ("{", "is no JSON")])
def test_what_is_no_json_object_is_refused(copy, content, message):
    root = copy()
    (root / "dataset.json").write_text(content)
    with pytest.raises(UsageError, match=message):
        open_dataset(root)


def test_what_the_schema_adds_to_a_shard_is_read_past(copy, toy):
    def counted(data):
        for entry in data["shards"]:
            entry["captions"] = {"longest": {"tokens": 9, "key": "a"}, "empty": 0}
            entry["channels"] = {"pixels": 4, "total": [1, 2, 3], "squares": [1, 4, 9]}

    assert open_dataset(copy(counted)).shards == open_dataset(toy).shards


def test_a_path_without_a_folder_is_not_told_to_go_on_with_a_build(tmp_path):
    for root in (tmp_path / "wrong", (tmp_path / "wrong").as_uri(), "memory://wrong/shards"):
        with pytest.raises(UsageError, match=r"no folder .*wrong") as error:
            open_dataset(root)
        assert "again" not in str(error.value)


def test_an_unfinished_build_is_refused_with_advice(copy):
    root = copy()
    (root / "dataset.json").unlink()
    with pytest.raises(UsageError, match="Run the same satmip-data build again"):
        open_dataset(root)


def test_captions_being_rewritten_are_refused(copy):
    root = copy()
    (root / ".caption").mkdir()
    with pytest.raises(UsageError, match="satmip-data caption"):
        open_dataset(root)


def test_what_departs_from_the_schema_is_refused(copy):
    with pytest.raises(UsageError, match="does not follow its schema"):
        open_dataset(copy(lambda data: data.pop("channels")))


def test_a_missing_and_a_short_shard_are_refused(copy):
    root = copy()
    shard = root / "train/000001.tar"
    shard.write_bytes(shard.read_bytes()[:-512])
    with pytest.raises(UsageError, match=r"train/000001.tar has \d+ bytes instead of \d+"):
        open_dataset(root)
    shard.unlink()
    with pytest.raises(UsageError, match="is missing"):
        open_dataset(root)


def test_a_missing_split_is_refused(toy):
    with pytest.raises(UsageError, match=r'Unknown split "test".*train, val'):
        open_dataset(toy).split("test")
    with pytest.raises(UsageError, match=r'Unknown split "val".*train'):
        replace(open_dataset(toy), splits={"train": 21, "val": 0}).split("val")


def test_remote_shards_are_fetched_once_and_checked(toy, tmp_path):
    memory = fsspec.filesystem("memory")
    memory.put(str(toy), "/remote/shards", recursive=True)
    dataset = open_dataset("memory://remote/shards", cache_dir=tmp_path / "cache")
    dataset.fetch("val")
    assert sorted(p.name for p in (tmp_path / "cache").glob("*.tar")) == sorted(f"{s.sha256}.tar" for s in dataset.split("val"))
    local = [b["key"] for b in ordered_batches(open_dataset(toy), "val", {"key"}, 4)]
    cut = tmp_path / "cache" / f"{dataset.split('val')[0].sha256}.tar"  # as by another program
    cut.write_bytes(whole := cut.read_bytes()[:512])
    dataset.fetch("val")
    assert cut.read_bytes()[:512] == whole != cut.read_bytes()
    memory.rm("/remote/shards/val", recursive=True)
    assert [b["key"] for b in ordered_batches(dataset, "val", {"key"}, 4)] == local
    for size in (2048, dataset.split("train")[0].bytes):
        memory.pipe("/remote/shards/train/000000.tar", bytes(size))
        with pytest.raises(UsageError, match=r"is damaged: it has .* bytes"):
            dataset.path(dataset.split("train")[0])
    assert len(list((tmp_path / "cache").glob("*.tar"))) == len(dataset.split("val"))


def test_no_secret_of_the_url_of_shards_is_kept(tmp_path):
    dataset = replace(open_dataset(write_toy_shards(tmp_path / "toy")), root="https://me:SECRET@host/x?sig=SECRET")
    for described in (describe_dataset(dataset), describe_split(dataset, "train")):
        assert "https://host/x" in json.dumps(described)
        assert "SECRET" not in json.dumps(described)
