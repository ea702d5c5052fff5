"""Captions that are written anew: what changes, what a killed rewriting leaves, damaged shards."""

import itertools
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from helpers.damaging import DAMAGE
from helpers.fmow_builds import request
from helpers.fmow_tree import contents, write_fmow_tree

from satmip_data.errors import BuildError, ShardError
from satmip_data.metadata.fields import parse_fields
from satmip_data.pipeline import recaption
from satmip_data.pipeline.build import build
from satmip_data.pipeline.journal import Journal, differences
from satmip_data.pipeline.recaption import CaptionRewrite
from satmip_data.shards.record import CaptionCount
from satmip_data.storage.store import Store
from satmip_data.validation import validate


def test_caption_changes_captions_and_nothing_else(built: Path) -> None:
    before = contents(built)
    dataset = recaption.recaption(str(built), CaptionRewrite(parse_fields("all"), "sentence"))
    assert dataset["caption"]["fields"] == list(parse_fields("all"))
    assert dataset["caption"]["longest"]["tokens"] > 150
    assert validate.validate(str(built)).problems == ()
    recaption.recaption(str(built), CaptionRewrite(parse_fields("gsd,time,loc"), "key-value"))
    assert contents(built) == before


def test_captions_of_shards_that_are_done_out_of_order_are_those_of_their_shards(
    built: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recaption.Local, "unordered", lambda self, function, tasks: map(function, reversed(tasks)))
    recaption.recaption(str(built), CaptionRewrite(("gsd",), "key-value"))
    assert validate.validate(str(built)).problems == ()


def test_caption_stopped_half_way_is_finished_by_running_it_again(built: Path) -> None:
    rewrite = CaptionRewrite(("gsd",), "key-value")
    expected_out = built.parent / "expected"
    expected_out.mkdir()
    for name, data in contents(built).items():
        (expected_out / name).parent.mkdir(exist_ok=True)
        (expected_out / name).write_bytes(data)
    recaption.recaption(str(expected_out), rewrite)

    def stop(progress: object) -> None:
        if progress.done == 3:  # type: ignore[attr-defined]
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        recaption.recaption(str(built), CaptionRewrite(("location",), "key-value"), show=stop)
    with pytest.raises(KeyboardInterrupt):  # begun anew with other fields, and stopped again
        recaption.recaption(str(built), rewrite, show=stop)
    assert "finished" in {problem.check for problem in validate.validate(str(built)).problems}
    recaption.recaption(str(built), rewrite)
    assert contents(built) == contents(expected_out)


def test_caption_killed_while_it_begins_with_other_fields_is_finished_with_the_first(
    built: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the captions of the shards would be of one kind and those of `dataset.json` of another."""
    before = contents(built)

    def stop(progress: object) -> None:
        if progress.done == 3:  # type: ignore[attr-defined]
            raise KeyboardInterrupt

    def killed(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        recaption.recaption(str(built), CaptionRewrite(("gsd",), "key-value"), show=stop)
    monkeypatch.setattr(Path, "mkdir", killed)
    with pytest.raises(KeyboardInterrupt):
        recaption.recaption(str(built), CaptionRewrite(("location",), "key-value"))
    monkeypatch.undo()
    recaption.recaption(str(built), CaptionRewrite(parse_fields("gsd,time,loc"), "key-value"))
    assert contents(built) == before


def test_the_longest_caption_is_the_first_of_equals_in_any_order() -> None:
    counts = [CaptionCount(7, "b", 1), CaptionCount(9, "d"), CaptionCount(None, "", 2), CaptionCount(9, "c"), CaptionCount(8, "a")]
    for order in itertools.permutations(counts):
        total = CaptionCount()
        for count in order:
            total.merge(count)
        assert total.to_json() == {"longest": {"tokens": 9, "key": "c"}, "empty": 3}
    assert CaptionCount().to_json() == {"longest": None, "empty": 0}


def test_rejects_are_not_retried_while_captions_are_half_rewritten(tmp_path: Path) -> None:
    """The shards that stay would be sealed with the hashes of before."""
    image = write_fmow_tree(tmp_path / "fmow")[3]
    whole = image.read_bytes()
    image.write_bytes(whole[:100])
    wanted = request(tmp_path / "fmow", tmp_path / "out")
    build(wanted)
    before = contents(tmp_path / "out")

    def stop(progress: object) -> None:
        if progress.done == 3:  # type: ignore[attr-defined]
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        recaption.recaption(str(tmp_path / "out"), CaptionRewrite(("gsd",), "key-value"), show=stop)
    image.write_bytes(whole)
    with pytest.raises(BuildError, match=r"half rewritten.* Finish that first: satmip-data caption"):
        build(replace(wanted, retry_rejects=True))
    recaption.recaption(str(tmp_path / "out"), CaptionRewrite(parse_fields("gsd,time,loc"), "key-value"))
    assert contents(tmp_path / "out") == before
    assert build(replace(wanted, retry_rejects=True))["rejects"] == {}
    assert validate.validate(str(tmp_path / "out")).problems == ()


def test_records_are_forgotten_before_what_they_are_records_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that stay behind would pass for records of the next work, whose shards would be left as they are."""
    journal, removed = Journal(Store(str(tmp_path)), ".caption"), []
    monkeypatch.setattr(Store, "remove", lambda store, name: removed.append(name))
    journal.close()
    assert removed == [".caption/records", ".caption"]


@pytest.mark.parametrize("how", ["flipped byte", "cut between members", "cut short"])
@pytest.mark.parametrize("stopped", [False, True])
def test_caption_refuses_a_damaged_shard(built: Path, how: str, stopped: bool) -> None:
    """Also one that a rewriting has written already, which was stopped before its record was."""
    if stopped:

        def stop(journal: Journal, record: object) -> None:
            raise KeyboardInterrupt

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Journal, "add", stop)
            with pytest.raises(KeyboardInterrupt):
                recaption.recaption(str(built), CaptionRewrite(("gsd",), "key-value"))
    shard = built / "train/000000.tar"
    if how == "cut short":
        shard.write_bytes(shard.read_bytes()[:700])
    else:
        DAMAGE[how][1](built)
    before = shard.read_bytes()
    with pytest.raises(ShardError, match=r"train/000000.tar .*damaged.*satmip-data validate .*build again"):
        recaption.recaption(str(built), CaptionRewrite(("location",), "key-value"))
    assert shard.read_bytes() == before


def test_a_restart_forgets_the_records_before_it_writes_what_comes_next() -> None:
    said: list[str] = []
    store: Any = SimpleNamespace(remove=lambda name: said.append(f"-{name}"), write=lambda name, data: said.append(f"+{name}"))
    Journal(store, ".caption").restart({})
    assert said == ["-.caption/records", "+.caption/intent.json"]


def test_leaves_that_differ_are_named_from_the_root() -> None:
    assert differences({"a": {"b": {"c": 1}}, "d": 5}, {"a": {"b": {"c": 2}}, "d": {"e": 6}}) == [
        "  a.b.c: 1 before, 2 now", "  d: 5 before, {'e': 6} now"
    ]  # fmt: skip
