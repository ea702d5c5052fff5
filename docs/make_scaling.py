"""Print docs/scaling.md: cost and time past one machine, from measured rates; a test compares the two.

    python docs/make_scaling.py > docs/scaling.md
    python docs/make_scaling.py --core-hour 0.03 --egress 0     # the same plan at other prices

Every number that goes in stands in `NUMBERS` and `ARCHIVES`, once.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Number:
    """Something the plan is computed from."""

    value: float
    unit: str
    kind: str
    """measured, official, computed, published, goal or guess."""
    where: str


_INDEX = "[indexing](benchmarks.md#indexing-and-planning-100000-records)"
_MAIN = "[main process](benchmarks.md#the-main-process-of-a-build)"
_STEPS = "[steps](benchmarks.md#steps-beside-simclrs)"
_PACK = "[packing](benchmarks.md#packing-chips-and-rewriting-captions)"
_MEMORY = "[memory](benchmarks.md#memory-as-the-data-grows)"
_STREAM = "[reading shards](benchmarks.md#reading-shards-in-training)"

NUMBERS = {
    "index": Number(0.090, "ms of a core a record", "measured", f"{_INDEX}: finds and indexes"),
    "main": Number(0.174, "ms of the main process a sample", "measured", f"{_MAIN}: last row"),
    "base": Number(142, "MB, libraries of the main process", "measured", f"{_INDEX}: below the table"),
    "sample": Number(5.4, "kB of the main process a sample", "measured", f"{_MEMORY}: a build, slope"),
    "plan": Number(1.5, "kB of JSON a sample, over which the plan's hash goes", "measured", f"{_INDEX}: below the table"),
    "pack": Number(151.6, "JPEG chips/s of a core", "measured", f"{_PACK}: with all that packing adds"),
    "mix": Number(0.86, "MB a JPEG of the mix that was packed", "measured", f"{_PACK}: 129 MB, 150 files"),
    "tiff": Number(100.0, "MB/s of TIFF a core", "guess", "no TIFF was timed"),
    "shard": Number(38.0, "kB a sample in a shard", "measured", f"{_PACK}: made-up chips with noise; real ones are smaller"),
    "gets": Number(2.15, "requests to read a sample", "computed", "a record, an image; two more for the 7.4 % of files over 1 MB"),
    "entry": Number(0.42, "kB a shard in `dataset.json`", "computed", "its form"),
    "stream": Number(2381, "samples/s decoded by a core", "measured", f"{_STREAM}: first row"),
    "member": Number(0.20, "kB of each reading process a sample", "measured", f"{_MEMORY}: a stream, slope"),
    "parameters": Number(
        76.3e6, "parameters of SatMIPS", "measured", f"{_STEPS}: weights, gradients and averages of SatMIPS / 16 bytes"
    ),
    "floats": Number(1536, "floats gathered a sample", "computed", "SatMIPS: 2 x 256 of two views, 2 x 512 of image and metadata"),
}
RATES = {1600: "computed", 4000: "published", 6500: "goal"}
"""Samples/s of SatMIPS on one GPU. None of them was measured by us."""


@dataclass(frozen=True)
class Archive:
    """What is built from."""

    name: str
    samples: float
    gigabytes: float
    tiff: bool = False


ARCHIVES = (
    Archive("fmow-rgb", 523_846, 183.5 + 24.2 + 22.7),
    Archive("fmow-full", 523_846, 3_500, tiff=True),
    Archive("1 billion chips", 1e9, 1e9 * 230.4 / 523_846),
)
FLEETS = ((2, 1, 1.0), (16, 1, 1.0), (16, 1, 10.0), (1024, 64, 10.0))
"""Cores in all, machines, Gbit/s of each."""


@dataclass(frozen=True)
class Prices:
    """Assumed prices in dollars; they are nobody's list."""

    core_hour: float = 0.05
    gpu_hour: float = 2.5
    gb_month: float = 0.023
    egress: float = 0.09
    reads: float = 0.0004
    writes: float = 0.005


PRICED = {
    "core_hour": "a core-hour",
    "gpu_hour": "a GPU-hour",
    "gb_month": "1 GB stored for a month",
    "egress": "1 GB out of its region",
    "reads": "1,000 requests to read",
    "writes": "1,000 to write",
}


def value(name: str) -> float:
    """Return a number of the table."""
    return NUMBERS[name].value


def core_hours(archive: Archive) -> tuple[float, float]:
    """Return the hours of one core that indexing and packing take."""
    index = archive.samples * value("index") / 3.6e6
    pack = archive.gigabytes * 1e3 / value("tiff") / 3600 if archive.tiff else archive.samples / value("pack") / 3600
    return index, pack


def main_hours(samples: float) -> float:
    """Return the hours that the main process works by itself."""
    return samples * value("main") / 3.6e6


def hours(archive: Archive, cores: int, machines: int, gbit: float) -> float:
    """Return the hours of a build: what the main process does alone, and the cores or the link, whichever takes longer."""
    link = archive.gigabytes / (machines * gbit / 8) / 3600
    return main_hours(archive.samples) + max(sum(core_hours(archive)) / cores, link)


def shards(samples: float) -> float:
    """Return the number of shards of 1,000 samples."""
    return samples / 1000


def gigabytes_written(samples: float) -> float:
    """Return the size of all shards in GB."""
    return samples * value("shard") / 1e6


def main_memory_gb(samples: float) -> float:
    """Return the memory of the main process in GB."""
    return value("base") / 1e3 + samples * value("sample") / 1e6


def number(found: float) -> str:
    """Return a number as people read it, with about two digits."""
    if found >= 100:
        return f"{found:,.0f}"
    return f"{found:.1f}" if found >= 1 else f"{found:.2g}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]], words: Sequence[int] = (0,)) -> str:
    """Return a table of Markdown; columns of words stand to the left, numbers to the right."""
    rule = ["---" if column in words else "---:" for column in range(len(head))]
    return "".join(f"| {' | '.join(line)} |\n" for line in (head, rule, *rows))


def numbers_table() -> str:
    """Return what goes in."""
    rows = [(name, f"{n.value:,.10g}", n.unit, n.kind, n.where) for name, n in NUMBERS.items()]
    return table(("name", "number", "what", "kind", "where from"), rows, words=(0, 2, 3, 4))


def build_table() -> str:
    """Return work, traffic and memory of a build of each archive."""
    rows = []
    for archive in ARCHIVES:
        index, pack = core_hours(archive)
        n = archive.samples
        written = gigabytes_written(n)
        found = (index, pack, main_hours(n), archive.gigabytes, written, n * value("gets") / 1e6, shards(n), main_memory_gb(n))
        rows.append((archive.name, f"{n:,.0f}", *map(number, found)))
    head = ("archive", "samples", "core-hours, index", "core-hours, pack", "hours, main process", "GB read", "GB written")
    return table((*head, "million requests", "shards", "GB of memory, main process"), rows)


def hours_table() -> str:
    """Return how long builds take on several fleets."""
    head = [f"{cores:,} cores, {machines} x {gbit:g} Gbit/s" for cores, machines, gbit in FLEETS]
    rows = [(archive.name, *(number(hours(archive, *fleet)) for fleet in FLEETS)) for archive in ARCHIVES]
    return table(("hours", *head), rows)


def money_table(prices: Prices) -> str:
    """Return what builds cost."""
    rows = []
    for archive in ARCHIVES:
        n = archive.samples
        work = (sum(core_hours(archive)) + main_hours(n)) * prices.core_hour
        requests = n * value("gets") / 1e3 * prices.reads + 2 * shards(n) / 1e3 * prices.writes
        month, egress = gigabytes_written(n) * prices.gb_month, archive.gigabytes * prices.egress
        rows.append((archive.name, *(f"${number(sum_)}" for sum_ in (work, requests, month, work + requests + month, egress))))
    head = ("archive", "cores", "requests", "a month of the shards", "together", "and, read from another region")
    return table(head, rows)


def ends_table() -> str:
    """Return what grows with the number of samples in one process."""
    rows = []
    for n in (523_846, 10e6, 100e6, 1e9):
        sizes = (main_memory_gb(n), n * value("plan") / 1e6, main_hours(n), shards(n) * value("entry") / 1e6)
        training = (n * 16 / 1e9, n * value("member") / 1e6, n * 224 * 224 * 3 / 1e9)
        rows.append((f"{n:,.0f}", *map(number, (*sizes, *training))))
    head = ("samples", "index, GB", "JSON of the plan, GB", "main process, hours", "`dataset.json`, GB")
    return table((*head, "order of an epoch, GB", "tables of members, GB", "resident chips, GB"), rows)


def training_table(prices: Prices) -> str:
    """Return GPU-hours and money of training at rates that were not measured."""
    rows = []
    for what, samples in (("fMoW, 200 epochs", 363_572 * 200), ("1 billion chips, 1 epoch", 1e9), ("the same, 10 epochs", 1e10)):
        for rate, kind in RATES.items():
            gpu_hours = samples / rate / 3600
            found = (gpu_hours, gpu_hours / 64)
            feed = f"{rate * value('shard') / 1e3:,.0f} MB/s, {rate / value('stream'):.1f} cores"
            rows.append(
                (f"{what}, {rate:,} samples/s ({kind})", *map(number, found), feed, f"${number(gpu_hours * prices.gpu_hour)}")
            )
    return table(("run", "GPU-hours", "hours on 64 GPUs, at best", "feed and cores of a GPU", "money"), rows)


def gather_table() -> str:
    """Return what ranks send one another in a step."""
    rows = []
    for batch, ranks in ((1024, 8), (4096, 16), (32_768, 128)):
        rows_mb = batch * value("floats") * 4 / 1e6
        gradients = 2 * value("parameters") * 4 / 1e6
        step = batch / ranks / 4000 * 1e3
        logits = 6 * batch / ranks * batch * 4 / 1e6
        sent = (3 * rows_mb, gradients, (3 * rows_mb + gradients) / 12.5, step, logits)
        rows.append((f"{batch:,} on {ranks}", *map(number, sent)))
    head = (
        "batch, GPUs",
        "embeddings, MB",
        "gradients of weights, MB",
        "both at 100 Gbit/s, ms",
        "step at 4,000 samples/s, ms",
        "logits, MB",
    )
    return table(head, rows)


def facts(prices: Prices) -> dict[str, str]:
    """Return the numbers that the text names."""
    per_core = value("pack") * value("mix")
    return {
        "pack_mb": f"{per_core:.0f}",
        "cores_1g": f"{125 / per_core:.1f}",
        "cores_10g": f"{1250 / per_core:.0f}",
        "cores_100g": f"{12500 / per_core:.0f}",
        "plan_cores": f"{(value('index') + 1e3 / value('pack')) / value('main'):.0f}",
        "main_billion": f"{main_hours(1e9):.0f}",
        "whole": f"{1e3 / value('main'):,.0f}",
        "samples_64": f"{(64 - value('base') / 1e3) / value('sample'):.0f}",
        "samples_1t": f"{(1000 - value('base') / 1e3) / value('sample'):.0f}",
        "prices": "\n    ".join(f"{label:<26}${getattr(prices, name):g}" for name, label in PRICED.items()),
        **{name: f"{number.value:g}" for name, number in NUMBERS.items()},
    }


def page(prices: Prices | None = None) -> str:
    """Return the page as Markdown."""
    prices = prices or Prices()
    tables = {
        "numbers": numbers_table(),
        "build": build_table(),
        "hours": hours_table(),
        "money": money_table(prices),
        "ends": ends_table(),
        "training": training_table(prices),
        "gather": gather_table(),
    }
    text = TEXT
    for name, content in {**facts(prices), **{f"table_{name}": content.rstrip() for name, content in tables.items()}}.items():
        text = text.replace(f"{{{name}}}", content)
    return text


def main() -> None:
    """Print the page at the prices of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for field in fields(Prices):
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=float, default=field.default)
    print(page(Prices(**vars(parser.parse_args()))), end="")


TEXT = """# Past one machine

What builds and training cost at three sizes, where the simple design ends, and what takes over there. Printed by
`docs/make_scaling.py`: everything is computed from the numbers of the first table and from prices that are **assumed**:

    {prices}

At other prices: `python docs/make_scaling.py --core-hour 0.03`. Nothing here was run at these sizes. *Measured* is what a
benchmark found, mostly on two crowded cores, so times are upper bounds; *official* is what fMoW's authors publish; the rest is
what it says.

{table_numbers}

fMoW-rgb has 523,846 images: 363,572 of train, 53,041 of val, the rest of test and seq. Its archives have 183.5, 24.2 and 22.7 GB
(official), two products and the records together, so less than that is read. fMoW-full has about 3.5 TB (official). A billion
chips is as if fMoW-rgb were 1,900 times as large. The mix that was packed is val_sample's, with twice the bytes an image ({mix} MB
against 0.44), so packing is an upper bound here too.

## Builds

    core-hours, index  = samples x index                   million requests = samples x gets to read, 2 a shard to write
    core-hours, pack   = samples / pack                    GB written       = samples x shard
      of TIFFs         = GB read / tiff, a guess           shards           = samples / 1,000
    main process       = samples x main                    GB of memory     = base + samples x sample

{table_build}

    hours = main process + the longer of (index + pack) / cores and GB read / (machines x link); 1 Gbit/s is 125 MB/s

{table_hours}

{table_money}

Bytes that leave their region cost more than all the rest: build where the archive lies. Cores that wait for a link are paid too,
and are not in here. Left out in the other direction: of large JPEGs only the part above the window's end is fetched, and of TIFFs
the blocks of the window, at a request each. A worker takes about 0.1 GB, its window, and over a network up to
0.5 GB of images ahead (see [remote.md](remote.md#memory-of-a-worker)).

## What grows with the number of samples

{table_ends}

    order of an epoch = 16 bytes a sample, and as much again while it is made, in each process that reads
    tables of members = samples x member, in each process that reads;   resident chips = 224 x 224 x 3 bytes a sample, on each GPU

## Where it ends, and what takes over

What the hashes of the plan, of the shards and of the training order say does not depend on the engine. So a part that is moved to
another one can be held against the one that stands, on a small archive, to the byte.

* **One machine's cores and link.** A core packs {pack_mb} MB/s: 1 Gbit/s is full at {cores_1g} cores, 10 Gbit/s at {cores_10g},
  100 Gbit/s at {cores_100g}. Takes over: **Ray**, which is here (`--engine ray`), on machines beside the archive. Stands: a task
  is a small value, a shard is committed whole or not at all, its bytes do not depend on the engine. To change: nothing.
* **One index in memory.** 64 GB hold {samples_64} million samples, 1 TB {samples_1t} million. Takes over: a **Parquet** dataset,
  one file a task, read by **DuckDB** or **Polars** on one machine and by **Spark** past it. Stands: tasks of the index know
  nothing of one another, whatever gives no sample is a row, and `tables.py` has a column for every field. To change: `index.py`
  returns names of files instead of samples, and finds duplicates by a `GROUP BY key`; `where.py` hands its conditions to the
  engine.
* **One plan.** The main process takes {main} ms a sample, {whole} samples/s, nearly half of it for `index.parquet`: it is what a
  fleet waits for past {plan_cores} packing cores, and for a billion it works {main_billion} hours. Takes over: the same engines.
  Stands: the order is a hash of seed and name, of no generator, so that samples and places get their numbers where they are
  indexed; the order is then `row_number()` and `count()` over a place, and a sort. To change: `plan.py` gives shards as ranges of
  the sorted Parquet, and `shards.PackTask` names a range; `build._fingerprint` becomes a hash of the shards' hashes (which changes
  `plan` in `dataset.json`); `tabular.fit`, whose exact sums want all values at once, adds exact partial sums; `build._seal` writes
  `index.parquet` in parts.
* **One list of shards.** A billion samples are a million shards, each a record to write, to read again when a build goes on, and
  an entry of `dataset.json`. Takes over first: `--samples-per-shard 10000`; then a Parquet table of shards. Stands: counts,
  channel sums and lengths of captions merge in any order. To change: the schema of `dataset.json`, `journal.py`,
  `satmip_train.data.dataset.open_dataset`.
* **One disk.** Takes over: **object storage**. Stands: source, destination and training take any fsspec URL. To change:
  `satmip_train.data.dataset.Dataset.fetch`, which copies the whole split before the first step, fetches a block ahead and
  drops what is read.
* **One order of an epoch.** Takes over: the same formula by blocks. Stands: shards are permuted, and samples only inside blocks of
  `shuffle_shards`. To change: `stream.epoch_order` gives one block at a time, in the same order, and `shards.Readers` closes the
  shards of past blocks, so that the tables of members stop growing.
* **One GPU's memory for chips.** 54.7 GB hold fMoW's train split. Takes over: `--data stream`, by itself. To change: nothing.
* **One GPU.** See below. Takes over: **torchrun**, one process a GPU, on any number of machines. Stands: exact gradients over the
  ranks, samples and views that do not depend on their number, going on with another number. To change: the losses, for batches
  past 32,768.

## Training

The rates of one GPU are **not measured by us**. 1,600 samples/s is what 16 cores that make two views of a sample by Pillow can
feed (computed), 4,000 what a published run of a like network on an H100 comes to (7,716 views/s, compiled, without data), 6,500
our goal.

{table_training}

    GPU-hours = samples x epochs / rate;   feed = rate x shard;   cores = rate / stream, for decoding; the GPU makes the views

    embeddings = 3 x batch x floats x 4 bytes: gathered once, their gradient summed over the ranks (twice as much on the wire)
    gradients  = 2 x parameters x 4 bytes (ring all-reduce)
    logits     = 6 x batch / GPUs x batch x 4 bytes on each GPU, before their gradient

{table_gather}

Up to a batch of about 30,000 the gradient of the weights is the larger part. It overlaps the backward pass; embeddings do not, as
the loss waits for them. Both want a link between machines that is faster than this one, or more samples a GPU. A third of the
weights is the table of 49,408 tokens, of which captions use a few hundred. Logits grow with the square of the batch: past 32,768
`losses.py` has to take the candidates in parts, as SigLIP's loss allows (`--metadata-loss siglip`). The paper's batch is 1,024.
"""


if __name__ == "__main__":
    main()
