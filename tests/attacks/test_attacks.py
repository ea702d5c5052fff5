"""A small slice of every attack, the same in every run; `python -m attacks` tries the rest."""

import importlib
import random
import time
from functools import partial
from pathlib import Path

import pytest

from attacks.builds import kills
from attacks.catalogue import ATTACKS
from attacks.children import Points, read_trail, run
from attacks.images import images
from attacks.mutations import BYTES, RECORDS
from attacks.outcome import NotHeld, Tally
from attacks.records import records
from attacks.stored import every_byte, shard_files
from attacks.surroundings import changing_source, full_disk, large_files, read_only, two_at_once

SLICES = {
    kills: 6, records: 150, images: 120, every_byte: 40, shard_files: 12, full_disk: 3, large_files: 3, read_only: 8,
    changing_source: 5, two_at_once: 3,
}  # fmt: skip
"""Of runs, killed and damaged, there are tests beside those of resuming and exporting."""


@pytest.mark.parametrize("attack", SLICES, ids=lambda attack: attack.__name__)
def test_a_slice_of_the_attack_holds(attack, tmp_path: Path) -> None:
    tally = attack(0, SLICES[attack], tmp_path)
    assert [(failure.number, failure.what, failure.evidence) for failure in tally.failures] == []
    assert tally.skipped or tally.held == tally.tried == SLICES[attack]


def test_every_attack_of_the_catalogue_is_there() -> None:
    for name, attack in ATTACKS.items():
        module, _, function = attack.function.partition(":")
        assert callable(getattr(importlib.import_module(f"attacks.{module}"), function)), name


def test_a_try_that_does_not_hold_is_counted_with_its_evidence() -> None:
    tally = Tally("of the tally itself")

    def lies() -> str:
        raise NotHeld("other numbers")

    def breaks() -> str:
        return str({}["missing"])

    def hangs() -> str:
        time.sleep(60)
        return "never"

    tally.attempt(0, "good", lambda: "refused")
    tally.attempt(1, "lies", lies)
    tally.attempt(2, "breaks", breaks)
    tally.attempt(3, "hangs", hangs, patience=0.05)
    assert (tally.tried, tally.held, dict(tally.outcomes)) == (4, 1, {"refused": 1})
    assert [failure.number for failure in tally.failures] == [1, 2, 3]
    assert "other numbers" in tally.failures[0].evidence
    assert "KeyError: 'missing'" in tally.failures[1].evidence
    assert "longer than 0.05 s" in tally.failures[2].evidence


def _write_three(folder: Path, points: Points) -> None:
    points.mark("first")
    for number in range(3):
        (folder / str(number)).write_text("whole")
        points.mark("rest")


def test_a_child_is_killed_at_the_point_that_is_named(tmp_path: Path) -> None:
    work = partial(_write_three, tmp_path)
    assert run(work, tmp_path / "log", trail=tmp_path / "trail") == 0
    trail = read_trail(tmp_path / "trail")
    points, files = trail.stage("rest")
    assert set(files) <= set(points) <= set(range(trail.points))
    assert files
    for name in "012":
        (tmp_path / name).unlink()
    assert run(work, tmp_path / "log", kill_at=points[0]) == -9
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.isdigit()) == ["0"]
    assert run(lambda _: 1 / 0, tmp_path / "log") == 70
    assert "ZeroDivisionError" in (tmp_path / "log").read_text()


@pytest.mark.parametrize("change", dict.fromkeys((*BYTES, *RECORDS)), ids=lambda change: change.__name__)
def test_damage_follows_from_its_generator(change) -> None:
    content = b'{"a": [1, 2.5, "text", null], "b": {"c": true, "d": "2016-01-02T03:04:05Z"}}'
    made = [[change(content, random.Random(f"{seed}/{number}")) for number in range(20)] for seed in (0, 0, 1)]
    assert made[0] == made[1] != made[2]
    assert sum(found != content for found in made[0]) > 10
