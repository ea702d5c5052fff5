"""What a run says of itself before its first step, for people; `config.json` says the same for programs."""

from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from satmip_data.names import counted
from satmip_train.config import Settings, grouped_settings, resolve
from satmip_train.objectives import applies

_CHANGED = "bold yellow"


def show_run(console: Console, settings: Settings, description: dict[str, Any], recipe: str | None) -> None:
    """Print the settings, those that differ from the recipe's marked, and what follows from them."""
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
    steps = f"{description['total_steps']:,} of {description['steps_per_epoch']:,} an epoch"
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
        return f"captions of {metadata['context']} tokens at most"
    return f"{counted(metadata['numeric'], 'number')} and {counted(len(metadata['cardinalities']), 'category')}"
