"""The attacks, each with how often it is tried in full."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from attacks.outcome import Tally


@dataclass(frozen=True, slots=True)
class Attack:
    """One attack: a function of seed, tries and an empty folder."""

    function: str
    """As "module:name"; imported when it is run, since some need torch."""
    tries: int
    """What `--scale 1` asks for."""

    def run(self, seed: int, scale: float) -> Tally:
        """Try it so often, at least once, in a folder of its own."""
        module, _, name = self.function.partition(":")
        attack: Callable[[int, int, Path], Tally] = getattr(import_module(f"attacks.{module}"), name)
        with tempfile.TemporaryDirectory(prefix="satmip-attack-") as folder:
            return attack(seed, max(1, round(self.tries * scale)), Path(folder))


ATTACKS: dict[str, Attack] = {
    "builds-killed": Attack("builds:kills", 100),
    "trainings-killed": Attack("trainings:kills", 50),
    "records": Attack("records:records", 10_000),
    "images": Attack("images:images", 2_000),
    "dataset-json": Attack("stored:every_byte", 10_000),
    "shard-files": Attack("stored:shard_files", 1_000),
    "run-files": Attack("stored:run_files", 1_000),
    "full-disk": Attack("surroundings:full_disk", 30),
    "small-files": Attack("surroundings:large_files", 50),
    "read-only": Attack("surroundings:read_only", 8),
    "changing-source": Attack("surroundings:changing_source", 50),
    "two-at-once": Attack("surroundings:two_at_once", 30),
}
