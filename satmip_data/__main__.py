"""The command `satmip-data`, also as `python -m satmip_data`.

Worker processes import the main module again, so that this one imports the rest only when it is run.
"""

import io
import sys


def main() -> None:
    """Run the command line."""
    import signal

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal without some signs, and names that are no Unicode, end no command
            stream.reconfigure(errors="backslashreplace")
    ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if ours:
        # An exception in the middle of an import shows lines of others' code; there is nothing yet that it should end in order.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from satmip_data.cli.commands import main as command

    if ours:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    command()


if __name__ == "__main__":
    main()
