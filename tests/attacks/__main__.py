"""Attack satmip, print a table and write what came of it as JSON.

    PYTHONPATH=tests:. python -m attacks --scale 0.02                    # small, some minutes
    PYTHONPATH=tests:. python -m attacks --all --out attacks.json        # what docs/reliability.md shows, an hour or more
    PYTHONPATH=tests:. python -m attacks records images --seed 1

A try holds where there is a clear error that names the file, a counted reject, or exactly what there is without the attack; never
where there are other numbers in silence, a traceback or an endless wait. The exit code is 1 if one did not hold.
"""

import argparse
import json
import platform
import subprocess
import sys
import time
from pathlib import Path

from attacks.catalogue import ATTACKS
from attacks.outcome import Tally


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser("attacks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="ATTACK", help=f"some of {', '.join(ATTACKS)}")
    parser.add_argument("--all", action="store_true", help="all of them, which is also what happens without a name")
    parser.add_argument("--seed", type=int, default=0, help="every try follows from it and its number")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the tries of a full run")
    parser.add_argument("--out", type=Path, help="write the outcome there as JSON")
    arguments = parser.parse_args()
    if unknown := sorted(set(arguments.names) - ATTACKS.keys()):
        parser.error(f"there is no attack {unknown[0]}; there are {', '.join(ATTACKS)}")
    return arguments


def row(tally: Tally) -> str:
    """Return the line of a table of one attack."""
    ended = tally.skipped or ", ".join(f"{count:,} {how}" for how, count in sorted(tally.outcomes.items()))
    return f"| {tally.attack} | {tally.tried:,} | {tally.held:,} | {ended} | {tally.limits} |"


def _commit() -> str:
    told = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return told.stdout.strip() or "unknown"


def main() -> None:
    """Run the attacks that are named."""
    arguments = _arguments()
    names = arguments.names if arguments.names and not arguments.all else list(ATTACKS)
    tallies: dict[str, Tally] = {}
    print("| attack | tried | held | how they ended | limits |\n| --- | --- | --- | --- | --- |", flush=True)
    for name in names:
        start = time.monotonic()
        tallies[name] = ATTACKS[name].run(arguments.seed, arguments.scale)
        tallies[name].seconds = time.monotonic() - start
        print(row(tallies[name]), flush=True)
        for failure in tallies[name].failures:
            print(f"{name} --seed {arguments.seed}, try {failure.number}: {failure.what}\n{failure.evidence}", file=sys.stderr)
    if arguments.out is not None:
        facts = {"seed": arguments.seed, "scale": arguments.scale, "commit": _commit(), "python": platform.python_version()}
        found = {name: tally.to_json() for name, tally in tallies.items()}
        arguments.out.write_text(json.dumps({**facts, "machine": platform.platform(), "attacks": found}, indent=1))
    sys.exit(any(tally.failures for tally in tallies.values()))


if __name__ == "__main__":
    main()
