"""Print docs/cli.md from the commands' own help; a test compares the two."""

import click

from satmip_data.cli import main as data
from satmip_train.cli import main as train
from satmip_train.eval_cli import main as evaluate

HEAD = """# Commands

The help of every command, printed by `docs/make_cli.py`.
"""


def help_text(command: click.Command, name: str) -> str:
    """Return the help of a command at a fixed width."""
    context = click.Context(command, info_name=name, max_content_width=110, terminal_width=110, color=False)
    return command.get_help(context)


def section(command: click.Command, name: str, level: int) -> str:
    """Return a command's help and, below it, those of its subcommands."""
    text = f"\n{'#' * level} {name}\n\n```text\n{help_text(command, name)}\n```\n"
    children = command.commands if isinstance(command, click.Group) else {}
    return text + "".join(section(child, f"{name} {word}", level + 1) for word, child in children.items() if not child.hidden)


def page() -> str:
    """Return the page as Markdown."""
    commands = {"satmip-data": data, "satmip-train": train, "satmip-eval": evaluate}
    return HEAD + "".join(section(command, name, 2) for name, command in commands.items())


if __name__ == "__main__":
    print(page(), end="")
