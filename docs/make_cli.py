"""Print docs/cli.md from the commands' own help; a test compares the two."""

import click

from satmip_data.cli.commands import main as data
from satmip_train.cli.evaluate import main as evaluate
from satmip_train.cli.train import main as train

HEAD = """# Commands

Every command has `--help` with an example. What it prints goes to standard output; progress, warnings, errors and the line
"Next:" go to standard error. In a pipe nothing is wrapped or cut.

* `--json` prints one JSON document instead of tables, for programs: `satmip-data rejects out/shards --json | jq .reasons`.
* `-q`, `--quiet` prints the result alone, without progress and notes.

The exit code is 0 for success, 1 for an error or problems found, 2 for a wrong command line, and 130 after Ctrl-C.

## Completion

Names of fields, recipes, sources, splits and policies are completed by your shell. In bash, add to `~/.bashrc`:

```bash
eval "$(_SATMIP_DATA_COMPLETE=bash_source satmip-data)"
eval "$(_SATMIP_TRAIN_COMPLETE=bash_source satmip-train)"
eval "$(_SATMIP_EVAL_COMPLETE=bash_source satmip-eval)"
```

For zsh write `zsh_source`. For fish, once for each command:

```fish
_SATMIP_DATA_COMPLETE=fish_source satmip-data > ~/.config/fish/completions/satmip-data.fish
```

The help of every command follows, printed by `docs/make_cli.py`.
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
