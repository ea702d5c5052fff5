"""The command `satmip-data`, also as `python -m satmip_data`.

Worker processes import the main module again, so that this one imports the rest only when it is run.
"""


def main() -> None:
    """Run the command line."""
    from satmip_data.cli import main as command

    command()


if __name__ == "__main__":
    main()
