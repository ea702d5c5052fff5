"""The outline of a run before its first step, for people; `config.json` holds the same for programs."""

from textwrap import wrap
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from satmip_data.names import counted
from satmip_train.config import Settings, grouped_settings, resolve
from satmip_train.files import RUN_CONFIG
from satmip_train.objectives import applies

_CHANGED = "bold yellow"
_INDENT = 8
"""Columns of the headings of the outline."""


def show_outline(console: Console, settings: Settings, description: dict[str, Any], recipe: str | None) -> None:
    """Print what is learned from what, and how long, in a few lines; then the settings that differ from the recipe's."""
    base = resolve(recipe, {}) if recipe is not None else settings
    facts, data = _facts(description), description["dataset"]
    width, height = data["chip"]
    samples = f"{data['samples']:,} samples of {data['split']}, {width} x {height} pixels, metadata {facts['Metadata']}"
    batch = f"batch {settings.batch_size:,}, peak learning rate {facts['Peak lr']}"
    changed = [f"{name} {_short(value)}" for name, value in settings if value != getattr(base, name) and applies(name, settings)]
    lines = {
        "Train": f"{settings.objective}, {settings.backbone}, {description['parameters'] / 1e6:.1f} M parameters",
        "Data": f"{data['root']}: {samples}",
        "Steps": f"{facts['Steps']}, {batch}",
        "Device": facts["Device"],
        "Recipe": (recipe or "none") + (f", with {', '.join(changed)}" if changed else ""),
    }
    if settings.knn_every:
        lines["kNN"] = facts["Online kNN"]
    for heading, text in lines.items():
        for number, line in enumerate(wrap(text, max(console.width - _INDENT, 40), break_long_words=False, break_on_hyphens=False)):
            console.print(f"{heading if not number else '':<{_INDENT}}{line}", soft_wrap=True)
    console.print(f"{'':<{_INDENT}}Every setting: --verbose, or {RUN_CONFIG} in the folder of the run", soft_wrap=True)


def show_run(console: Console, settings: Settings, description: dict[str, Any], recipe: str | None) -> None:
    """Print every setting, with those that differ from the recipe's marked, and what follows from them."""
    base = resolve(recipe, {}) if recipe is not None else settings
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for heading, names in grouped_settings().items():
        table.add_row(heading, _settings(settings, base, [name for name in names if applies(name, settings)]))
    table.add_row("", "")
    for heading, text in _facts(description).items():
        table.add_row(heading, text)
    if recipe is not None:
        marked = Text.assemble((f"Recipe {recipe}", "bold"), "; what differs from it is ", ("marked", _CHANGED))
        console.print(marked if settings != base else Text(f"Recipe {recipe}", "bold"))
    console.print(table)


def _settings(settings: Settings, base: Settings, names: list[str]) -> Text:
    parts = []
    for name in names:
        value, usual = getattr(settings, name), getattr(base, name)
        text = Text(f"{name} {_short(value)}", _CHANGED if value != usual else "")
        parts.append(text.append(f" (not {_short(usual)})") if value != usual else text)
    return Text(" · ").join(parts)


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_short(part)}" for key, part in value.items()) + "}"
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "-"}[value]
    if isinstance(value, (tuple, list)):
        return ",".join(map(str, value)) or "-"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _facts(description: dict[str, Any]) -> dict[str, str]:
    """Return what was resolved, as headings and lines."""
    data, metadata, chance = description["dataset"], description["metadata"], dict(description["chance"])
    loss = chance.pop("loss")
    parts = ", ".join(f"{name} {value:.4f}" for name, value in chance.items() if value != loss)
    width, height = data["chip"]
    steps = f"{description['total_steps']:,} ({description['steps_per_epoch']:,} per epoch)"
    if description["last_step"] < description["total_steps"]:
        steps += f"; this run stops after {description['last_step']:,}"
    device = f"{description['device_name']}, {description['ranks']} rank{'s' if description['ranks'] > 1 else ''}"
    samples = f"{counted(data['samples'], 'sample')} of {data['split']} in {counted(data['shards'], 'shard')}"
    return {
        "Shards": f"{data['root']}: {samples}; {width} x {height} pixels",
        "Metadata": _metadata(metadata),
        "Device": f"{device}, {description['precision']}{', compiled' if description['compiled'] else ''}; losses in fp32",
        "Data": description["data"],
        "Steps": steps,
        "Peak lr": f"{description['peak_lr']:.3g}",
        "First weights": description["start"],
        "Parameters": f"{description['parameters']:,}, of them {description['backbone_parameters']:,} in the backbone",
        "Chance": f"loss {loss:.4f}" + (f" = {parts}" if parts else ""),
        "Online kNN": description["online_knn"],
    }


def _metadata(metadata: dict[str, Any]) -> str:
    if not metadata["read"]:
        return "not read"
    if metadata["context"] is not None:
        return f"as captions of at most {metadata['context']} tokens"
    return f"as {metadata['numeric']} numbers and {len(metadata['cardinalities'])} categories"
