"""The command `satmip-data`, also as `python -m satmip_data`.

Worker processes import the main module again, so that this one imports the rest only when it is run.
"""

import signal


def main() -> None:
    """Run the command line."""
    interrupted = signal.getsignal(signal.SIGINT)
    if interrupted is signal.default_int_handler:
        # An exception in the middle of an import shows lines of others' code; there is nothing yet that it should end in order.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from satmip_data.cli import main as command

    signal.signal(signal.SIGINT, interrupted)
    command()


if __name__ == "__main__":
    main()
