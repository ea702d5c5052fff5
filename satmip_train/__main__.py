"""The commands `satmip-train`, also as `python -m satmip_train` for torchrun, and `satmip-eval`.

They are imported only when they are run, so that one that lacks the extra `train` can say so.
"""

import io
import os
import signal
import sys
from importlib import import_module


def main() -> None:
    """Run `satmip-train`."""
    _run("satmip_train.cli.train")


def evaluate() -> None:
    """Run `satmip-eval`."""
    _run("satmip_train.cli.evaluate")


def _run(module: str) -> None:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal without some signs, and names that are no Unicode, end no command
            stream.reconfigure(errors="backslashreplace")
    ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if ours:
        # An exception in the middle of an import shows lines of others' code; there is nothing yet that it should end in order.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    _wait_briefly()
    try:
        command = import_module(module).main
        if ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        command()
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("satmip_"):
            raise
        advice = "Run in the folder of satmip's source: pip install -e '.[train]'"
        sys.exit(f"Error: {error.name} is not installed, which training and evaluation need. {advice}")


def _wait_briefly() -> None:
    """Let torch's threads sleep soon when they wait for one another, unless the user says how they wait; before torch is imported.

    GNU's OpenMP, which torch's wheels for Linux bring, lets them spin 300,000 times. Beside another busy process that takes the
    cores from those they wait for: a sample then took twice the CPU time, at two thirds of the speed (docs/benchmarks.md).
    """
    if not os.environ.keys() & {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"}:
        os.environ["GOMP_SPINCOUNT"] = "10000"


if __name__ == "__main__":
    main()
