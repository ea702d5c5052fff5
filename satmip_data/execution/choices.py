"""Types of options whose values are names: the nearest one is suggested, and a shell completes them."""

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from satmip_data.names import unknown_name

DEFAULT_SHARDS = "out/shards"
"""The shard directory where none is named."""


class Choice(click.Choice[str]):
    """One of some names; an unknown one is told with the nearest."""

    def __init__(self, choices: Iterable[str], kind: str = "", see: str = "", metavar: str = "") -> None:
        """Name the `kind` of thing that is chosen and, where the names are many, the command or page that lists them."""
        super().__init__([*choices])
        self._kind, self._see, self._metavar = kind, see, metavar

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str | None:
        """Return what help shows for a value."""
        return self._metavar or super().get_metavar(param, ctx)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the name."""
        if value in self.choices:
            return str(value)
        kind = self._kind or (param.name or "value").replace("_", " ") if param else self._kind or "value"
        self.fail(unknown_name(kind, str(value), self.choices, see=self._see), param, ctx)


class Name(click.ParamType[str]):
    """Any text; a shell completes it by the names that are known when it asks."""

    name = "text"

    def __init__(self, known: Callable[[click.Context], Iterable[str]], metavar: str = "TEXT") -> None:
        """Take the names from `known`, which may look at the options typed before."""
        self._known, self.name = known, metavar

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Return the names that begin with what was typed."""
        return [CompletionItem(name) for name in self._known(ctx) if name.startswith(incomplete)]


class NameList(Name):
    """A comma-separated list of names, as text; a shell completes its last name."""

    def __init__(self, known: Sequence[str], metavar: str = "NAMES") -> None:
        """Take the names from `known`."""
        super().__init__(lambda ctx: known, metavar)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Return the ways to go on with the last name of the list."""
        return complete_list([*self._known(ctx)], incomplete)


def splits_of(shards: str) -> list[str]:
    """Return the splits of a shard directory on this machine; the usual ones where it cannot be read."""
    try:
        return list(json.loads((Path(shards) / "dataset.json").read_text(encoding="utf-8"))["splits"])
    except (OSError, ValueError, KeyError, TypeError):
        return ["train", "val", "test"]


def split_option(*names: str, shards: str = "shards", **settings: Any) -> Callable[[Any], Any]:
    """Return an option that takes the name of a split, which a shell completes from the shards that the option `shards` names."""
    return click.option(*names, type=Name(lambda ctx: splits_of(ctx.params.get(shards) or DEFAULT_SHARDS), "SPLIT"), **settings)


def complete_list(known: Sequence[str], incomplete: str) -> list[CompletionItem]:
    """Return the ways to go on with the last name of a comma-separated list."""
    before, comma, last = incomplete.rpartition(",")
    taken = before.split(",")
    return [CompletionItem(f"{before}{comma}{name}") for name in known if name.startswith(last) and name not in taken]
