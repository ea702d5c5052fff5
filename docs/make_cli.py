"""Print docs/cli.md from the commands' own help; a test compares the two."""

import click

from satmip_data.cli.commands import main as data
from satmip_train.cli.evaluate import main as evaluate
from satmip_train.cli.train import main as train

HEAD = """# Commands

The help of every command, printed by `docs/make_cli.py`.
"""


def context_of(command: click.Command, word: str, parent: click.Context | None = None) -> click.Context:
    """Return the context in which click would run a command, at a fixed width."""
    settings = {**command.context_settings, "max_content_width": 110, "terminal_width": 110, "color": False}
    return click.Context(command, parent=parent, info_name=word, **settings)


def section(context: click.Context, level: int) -> str:
    """Return a command's help and, below it, those of its subcommands."""
    command = context.command
    text = f"\n{'#' * level} {context.command_path}\n\n```text\n{command.get_help(context)}\n```\n"
    children = command.commands if isinstance(command, click.Group) else {}
    visible = {word: child for word, child in children.items() if not child.hidden}
    return text + "".join(section(context_of(child, word, context), level + 1) for word, child in visible.items())


def page() -> str:
    """Return the page as Markdown."""
    commands = {"satmip-data": data, "satmip-train": train, "satmip-eval": evaluate}
    return HEAD + "".join(section(context_of(command, name), 2) for name, command in commands.items())


if __name__ == "__main__":
    print(page(), end="")
