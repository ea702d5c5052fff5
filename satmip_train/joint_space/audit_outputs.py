"""What `audit` writes and prints: a Parquet table of every judgement, a list for `satmip-data build --exclude`, tables, JSON."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from satmip_train.evaluation.tables import Result, Table
from satmip_train.files import write_atomically
from satmip_train.joint_space.audit import RECORD, Audit, Suspect, said
from satmip_train.joint_space.contradictions import contradictions
from satmip_train.joint_space.quantities import QUANTITIES

TABLE, LIST = "audit.parquet", "suspects.txt"


def audit_table(audit: Audit, provenance: Result) -> pa.Table:
    """Return a row for each sample and quantity, and for each whole record: score, what is recorded, what the picture says."""
    rows: list[dict[str, Any]] = []
    rank = {suspect.entry.key: number for number, suspect in enumerate(audit.suspects, start=1)}
    for row, entry in enumerate(audit.entries):
        refuted = "; ".join(why for _, why in contradictions(entry.metadata, entry.flags))
        for column, name in enumerate(audit.scores.names):
            guess = audit.scores.guesses[row][column]
            rows.append(
                {
                    "key": entry.key,
                    "split": entry.split,
                    "place": entry.place,
                    "rank": rank[entry.key],
                    "quantity": name,
                    "field": "" if name == RECORD else QUANTITIES[name].field,
                    "score": _number(audit.scores.values[row, column]),
                    "recorded": said(name, entry.metadata, audit.scores.names),
                    "suggested": None if guess is None else guess.text,
                    "reason": None if guess is None else guess.reason,
                    "contradiction": refuted or None,
                }
            )
    return pa.Table.from_pylist(rows, _SCHEMA.with_metadata({"satmip": json.dumps(provenance)}))


_TEXTS = ("key", "split", "place", "quantity", "field", "recorded", "suggested", "reason", "contradiction")
_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in _TEXTS[:3]),
        ("rank", pa.int64()),
        *((name, pa.string()) for name in _TEXTS[3:5]),
        ("score", pa.float64()),
        *((name, pa.string()) for name in _TEXTS[5:]),
    ]
)


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def describe_suspect(suspect: Suspect, rank: int) -> Result:
    """Return a suspect as JSON holds it."""
    return {
        "rank": rank,
        "key": suspect.entry.key,
        "split": suspect.entry.split,
        "place": suspect.entry.place,
        "quantity": suspect.quantity,
        "score": _number(suspect.score),
        "recorded": suspect.recorded,
        "suggested": suspect.suggested,
        "reason": suspect.reason,
        "contradicts": suspect.contradicts,
    }


def exclusions(suspects: Sequence[Suspect]) -> str:
    """Return the list that `satmip-data build --exclude` takes: a key a line, and behind it why."""
    head = "# Suspect records, the most suspect first, for satmip-data build --exclude. Look at them before: delete the lines of\n"
    lines = [f"{s.entry.key} # {_oneline(f'{s.quantity}: {s.recorded}; {_better(s)} ({s.reason})')}" for s in suspects]
    return head + "# records that are right.\n" + "".join(f"{line}\n" for line in lines)


def _oneline(text: str) -> str:
    return " ".join(text.split())


def _better(suspect: Suspect) -> str:
    return f"the picture says {suspect.suggested}" if suspect.suggested else "the picture says nothing"


def suspects_table(suspects: Sequence[Suspect], title: str, notes: Sequence[str]) -> Table:
    """Return the most suspect records as a table for the terminal, a row each."""
    rows = tuple(
        (
            suspect.entry.key,
            suspect.quantity,
            suspect.recorded,
            suspect.suggested,
            "" if math.isnan(suspect.score) else f"{suspect.score:.1f}",
            suspect.reason,
        )
        for suspect in suspects
    )
    return Table(title, ("sample", "wrong", "record says", "picture says", "# score", "why"), rows, (), tuple(notes))


def write_outputs(audit: Audit, result: Result, suspects: Sequence[Suspect], out: Path) -> list[Path]:
    """Write the table of every judgement and the list for `build --exclude` into a folder; return their paths."""
    paths = [out / name for name in (TABLE, LIST)]
    table = audit_table(audit, {name: value for name, value in result.items() if name != "suspects"})
    write_atomically(paths[0], lambda file: pq.write_table(table, file, compression="zstd"))
    write_atomically(paths[1], lambda file: file.write(exclusions(suspects).encode()))
    return paths


def notes(audit: Audit, about: Result) -> list[str]:
    """Return what is printed below the table."""
    refuted = sum(suspect.contradicts for suspect in audit.suspects)
    lines = [
        f"{len(audit.entries):,} records judged. {about['how']}",
        about["left_out"],
        f"{refuted:,} contradict themselves by a physical check; they come first, whatever their score." if refuted else None,
        "Score: natural logarithm of how much better an error explains the picture than the record as it is.",
    ]
    return [line for line in lines if line]


def facts(audit: Audit, about: Result) -> list[tuple[str, str]]:
    """Return what the page says of the audit."""
    refuted = sum(suspect.contradicts for suspect in audit.suspects)
    return [
        ("run", about["run"]),
        ("splits", ", ".join(split["split"] for split in about["splits"])),
        ("records judged", f"{len(audit.entries):,}"),
        ("who judges", " ".join(part for part in (about["how"], about["left_out"]) if part)),
        ("fields that it reads", ", ".join(about["fields"])),
        ("records that contradict themselves", f"{refuted:,}"),
    ]
