"""The commands `satmip-train`, also as `python -m satmip_train` for torchrun, and `satmip-eval`.

They are imported only when they are run, so that one that lacks the extra `train` can say so.
"""

import io
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
    try:
        command = import_module(module).main
        if ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        command()
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("satmip_"):
            raise
        advice = "Type: pip install 'satmip[train]'"
        sys.exit(f"Error: training and evaluation need the extra train, however: {error.name} is not installed. {advice}")


if __name__ == "__main__":
    main()
