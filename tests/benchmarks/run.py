"""Every benchmark that needs no GPU, at small sizes, one after the other in a process of its own: what `make bench` runs.

    python tests/benchmarks/run.py [--out out/bench] [--only pack,stream]

Prints the machine once, then each table with its targets. The rows of each script come into the folder as JSON, and what it printed
beside them. The true sizes are the scripts' own options, see docs/benchmarks.md.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

import timing

PARTS = {
    "index_100k": ("--records", "10000"),
    "pack": ("--images", "100", "--rounds", "3"),
    "decoders": ("--rounds", "3"),
    "stream": ("--rounds", "3"),
    "memory": (),
    "main_process": ("--records", "5000", "--rounds", "3"),
    "steps": ("--batch", "4", "--rounds", "3"),
    "views": ("--rounds", "3"),
    "probes": ("--scale", "0.1"),
}
"""Script -> its options, by which all together take about 15 minutes on two quiet cores."""

PACKAGES = (
    "numpy",
    "pillow",
    "simplejpeg",
    "turbojpeg",
    "opencv-python-headless",
    "orjson",
    "torch",
    "webdataset",
    "open_clip_torch",
    "scikit-learn",
    "faiss-cpu",
)


def run(script: str, options: tuple[str, ...], out: Path) -> int:
    """Run one script, show and keep what it prints, and return its exit status."""
    path = Path(__file__).with_name(f"{script}.py")
    # One thread each, so that rates are those of a core.
    environment = {**os.environ, "SATMIP_BENCH": str(out), "OMP_NUM_THREADS": "1"}
    with (
        (out / f"{script}.txt").open("w", encoding="utf-8") as kept,
        subprocess.Popen([sys.executable, str(path), *options], stdout=subprocess.PIPE, text=True, env=environment) as process,
    ):
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            kept.write(line)
    return process.returncode


def main() -> None:
    """Run all parts; fail in the end where one has failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/bench"), help="folder for JSON and text")
    parser.add_argument("--only", default=",".join(PARTS), help="parts, with commas between them")
    chosen = parser.parse_args()
    chosen.out.mkdir(parents=True, exist_ok=True)
    print(timing.machine(*PACKAGES), flush=True)
    failed = []
    for script in chosen.only.split(","):
        start = time.perf_counter()
        print(f"\n## {script} {' '.join(PARTS[script])}", flush=True)
        if run(script, PARTS[script], chosen.out.resolve()):
            failed.append(script)
        print(f"({time.perf_counter() - start:.0f} s)", flush=True)
    if failed:
        sys.exit(f"These parts did not run to their end: {', '.join(failed)}")


if __name__ == "__main__":
    main()
