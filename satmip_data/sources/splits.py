"""Assignment of samples to splits: by the names of folders, a user's lists, or shares drawn with a seed."""

import csv
import hashlib
import io
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import PurePosixPath

from satmip_data.errors import cause
from satmip_data.geometry import wrap_longitude
from satmip_data.storage.store import Store

FOLDERS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
"""Names by which archives call a split -> our name."""


class SplitFileError(FileNotFoundError):
    """A list of splits cannot be read as one."""


def name_split(word: str) -> str:
    """Return our name of a split: "Training" is "train", "valid" is "val"; other names stay as they are.

    Raises:
        ValueError: it is no word, so that no folder can be named after it.
    """
    split = FOLDERS.get(word.strip().lower(), word.strip())
    if not re.fullmatch("[A-Za-z0-9_-]+", split):
        raise ValueError(f'The name of a split is a word of letters, digits, - and _, which "{word}" is not')
    return split


def parse_shares(text: str) -> dict[str, float]:
    """Return the shares that a text such as "train=60,val=20,test=20" stands for, summing to 1.

    Raises:
        ValueError: it is no such text, or a share is not positive.
    """
    shares: dict[str, float] = {}
    for part in text.split(","):
        name, _, number = part.strip().partition("=")
        value = float(number) if re.fullmatch(r"\d+(\.\d+)?", number) else 0.0
        if not re.fullmatch("[a-z][a-z0-9_]*", name) or name in shares or value <= 0.0:
            raise ValueError(f'Cannot read --shares "{text}". Write it as train=60,val=20,test=20, each above 0')
        shares[name] = value
    total = math.fsum(shares.values())
    return {name: value / total for name, value in shares.items()}


def deal(
    strata: Mapping[str, str], shares: Mapping[str, float], seed: int = 0, sizes: Mapping[str, int] | None = None
) -> dict[str, str]:
    """Deal names to splits by their shares, each stratum alike: the same split for a name on any machine and version.

    Stratum by stratum the names are shuffled, and each goes to the split that lags most behind its share. The counts are thus
    exact to within one over all names (with `sizes`: to within the largest), and nearly so in each stratum.

    Args:
        strata: name -> what is to stand in all splits alike, as its class.
        shares: split -> its share; they sum to 1.
        seed: of the shuffle.
        sizes: name -> how many samples it stands for; by default 1.
    """
    counts = dict.fromkeys(shares, 0)
    out, dealt = {}, 0
    for name in sorted(strata, key=lambda name: (strata[name], _digest(seed, name))):
        size = 1 if sizes is None else sizes[name]
        dealt += size
        split = max(shares, key=lambda split: shares[split] * dealt - counts[split])
        counts[split] += size
        out[name] = split
    return out


def block_of(longitude: float, latitude: float, degrees: float) -> str:
    """Return the name of the block of so many degrees of longitude and latitude that a point on Earth lies in.

    Blocks are counted from 180 W and 90 S, so that none lies on both sides of a meridian or parallel that is one's border.
    """
    column, row = (math.floor(value / degrees) for value in (wrap_longitude(longitude) + 180.0, latitude + 90.0))
    return f"block/{column}/{row}"


def _digest(seed: int, name: str) -> bytes:
    """Return what shuffles the names: a hash, since library generators change with their versions."""
    # A name that is no Unicode is dealt too: it becomes a reject later.
    return hashlib.blake2b(f"{seed}/split/{name}".encode("utf-8", "surrogatepass"), digest_size=16).digest()


def folder_split(path: str) -> str | None:
    """Return the split that a folder of the path names, the innermost of several; None where there is none."""
    named = [FOLDERS[part] for part in map(str.lower, PurePosixPath(path).parts[:-1]) if part in FOLDERS]
    return named[-1] if named else None


def find_split(lists: Mapping[str, str], path: str) -> str | None:
    """Return the split that lists give an image: by its path, or else by its name, with or without the ending."""
    whole = PurePosixPath(path)
    names = (path, str(whole.with_suffix("")), whole.name, whole.stem)
    return next((lists[name] for name in names if name in lists), None)


def without_endings(lists: Mapping[str, str]) -> dict[str, str]:
    """Return lists whose names have no endings; those that stand in two splits then are left out."""
    found: dict[str, set[str]] = {}
    for name, split in lists.items():
        found.setdefault(re.sub(r"\.[^./]+$", "", name), set()).add(split)
    return {name: split for name, (split, *others) in found.items() if not others}


def read_split_file(url: str) -> dict[str, str]:
    """Return name -> split from a file of lists, which may be

    * JSON: `{"train": ["AnnualCrop_1.jpg", ...], "test": [...]}`
    * CSV with a header that has a column `split`; the names stand in the first other column
    * text: `<name> <split>` a line
    * a folder of files named after their split (`eurosat-train.txt`, `val.csv`): a name a line, first of its columns.

    Raises:
        SplitFileError: there is no such file, it is in none of these forms, or a name stands in two splits.
    """
    folder, _, name = url.rstrip("/").rpartition("/")
    try:
        if names := Store(url).names() if not PurePosixPath(name).suffix else []:
            return _gather(_folder_lists(Store(url), names), url)
        text = Store(folder or ("/" if url.startswith("/") else ".")).read(name).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise SplitFileError(f"Cannot read --split-file {url}: {cause(error)}") from error
    return _gather(_parse(name, text), url)


def _gather(pairs: Iterable[tuple[str, str]], url: str) -> dict[str, str]:
    lists: dict[str, str] = {}
    for name, split in pairs:
        try:
            split = name_split(split)
        except ValueError as error:
            raise SplitFileError(f'{error} ("{name}" in {url})') from error
        if not name:
            raise SplitFileError(f'A row of {url} names the split "{split}" and no sample')
        if lists.setdefault(name, split) != split:
            raise SplitFileError(f'{url} has "{name}" in two splits, "{lists[name]}" and "{split}". Leave it in one')
    if not lists:
        raise SplitFileError(f"--split-file {url} is empty. Name the samples of each split in it")
    return lists


def _folder_lists(store: Store, names: Iterable[str]) -> Iterator[tuple[str, str]]:
    for name in names:
        word = re.split(r"[-_. ]", PurePosixPath(name).stem.lower())[-1]
        if word in FOLDERS:
            for line in store.read(name).decode("utf-8-sig").splitlines():
                if entry := line.split(",")[0].strip():
                    yield entry, FOLDERS[word]


def _parse(name: str, text: str) -> Iterator[tuple[str, str]]:
    """Yield (name, split) of one file."""
    if name.endswith(".json"):
        try:
            lists = json.loads(text)
        except ValueError as error:
            raise SplitFileError(f"{name} is no readable JSON: {cause(error)}") from error
        if not isinstance(lists, dict) or not all(isinstance(entries, list) for entries in lists.values()):
            raise SplitFileError(f'{name} is not of the form {{"train": [names], ...}}')
        yield from ((str(entry), split) for split, entries in lists.items() for entry in entries)
    elif name.endswith(".csv"):
        rows = csv.DictReader(io.StringIO(text))
        columns = list(rows.fieldnames or ())
        if "split" not in columns or len(columns) < 2:
            found = ", ".join(columns) or "none"
            raise SplitFileError(f"{name} needs a column of names and a column split; its columns are: {found}")
        first = next(column for column in columns if column != "split")
        yield from ((row[first] or "", row["split"] or "") for row in rows)  # None, where a row is short
    else:
        for line in filter(None, map(str.strip, text.splitlines())):
            entry, _, split = line.replace(",", " ").replace("\t", " ").rpartition(" ")
            if not entry:
                raise SplitFileError(f'{name} has the line "{line}", which is not of the form <name> <split>')
            yield entry.strip(), split
