"""Locations of files, as a user types them, a listing gives them, or data name them. One rule for all sources and for `embed`.

* What a user types (a source, a table, lists, a destination) may be any path or URL that fsspec opens: a `Store`.
* What a listing gives (files of a folder, members of an archive, keys of a bucket) is a name in that `Store` and nothing else.
* What data say (a table's `image`, a STAC item's `href`) is read through `locate`, which refuses what could run or read more.
"""

import logging
import os
import posixpath
from collections import Counter
from collections.abc import Iterator

from satmip_data.storage.store import Store

REMOTE = ("http", "https", "s3", "gs", "gcs", "az", "abfs", "hf")
"""Protocols of the URLs that data may hold; what is fetched by them is read as an image and runs nothing."""

_log = logging.getLogger(__name__)


class OutsideError(ValueError):
    """Data name a place that they may not name; the message says which and what to do."""


def archive_url(root: str) -> str:
    """Return the URL below which the files of `root` lie: a zip file is read as the folder that it holds, and never unpacked."""
    return f"zip://::{root}" if root.lower().endswith(".zip") and not root.startswith("zip:") else root


def locate(root: str, path: str, allow_outside: bool = False) -> tuple[Store, str]:
    """Return where a file lies that data name: below the source, or at a URL of `REMOTE`.

    Nothing is opened. A URL or an absolute path below the source is a path below it.

    Args:
        root: folder or URL of the source, as the user typed it.
        path: what the data say.
        allow_outside: whether absolute paths, `..` and `file://` may lead out of the source.

    Raises:
        OutsideError: it is a chain of URLs, of another protocol, or leads out of the source.
    """
    if "::" in path and ("://" in path or path.partition("::")[0].isalpha()):
        raise OutsideError(f'Chains of URLs ("::") are not read from data: {path}. Name the file itself.')
    if (below := _below(root, path)) is not None:
        return Store(archive_url(root)), below
    protocol, mark, rest = path.partition("://")
    if mark and protocol.lower() in REMOTE:
        bucket, _, name = rest.partition("/")
        return Store(f"{protocol.lower()}://{bucket}"), name
    if mark and protocol.lower() != "file":
        raise OutsideError(f"Data may name URLs of {', '.join(REMOTE)} only: {path}. Copy the file below the source.")
    if not allow_outside:
        raise OutsideError(f"{path} leads out of the source {root}. Copy the file below it, or add: --allow-outside")
    path = rest if mark else path
    if path.startswith("/vsi"):
        raise OutsideError(f"{path} names no file but one of GDAL's virtual file systems. Name the file itself.")
    if not path.startswith("/"):
        return Store(posixpath.join(root, posixpath.dirname(path))), posixpath.basename(path)
    folder, _, name = path.rpartition("/")
    return Store(folder or "/"), name


def _below(root: str, path: str) -> str | None:
    """Return the name of a path, relative, absolute or a URL, below the source; None where it leads out of it."""
    if "://" in path or path.startswith("/"):
        here = Store(root)
        base = f"{here.path()}/" if here.local else f"{root.rstrip('/')}/"
        path = path.removeprefix("file://") if here.local else path
        if not path.startswith(base):
            return None
        path = path[len(base) :]
    if ".." not in path.split("/"):
        return path
    inside = posixpath.normpath(path)
    return None if inside == ".." or inside.startswith(("../", "/")) else inside


def same_place(one: str, other: str) -> bool:
    """Tell whether two paths or URLs that a user types name one place: `fmow/`, `fmow` and the absolute path do."""
    return _one_spelling(one) == _one_spelling(other)


def _one_spelling(place: str) -> str:
    path = place.removeprefix("file://")
    return path.rstrip("/") if not path or "://" in path or "::" in path else os.path.abspath(path)


def hidden(path: str) -> bool:
    """Tell whether a system or a program put a file beside the user's own: .DS_Store, ._a.tif, .ipynb_checkpoints, @eaDir."""
    return any(map(_is_hidden, path.split("/")))


def _is_hidden(name: str) -> bool:
    return (name.startswith((".", "__MACOSX")) and name not in (".", "..")) or name == "@eaDir"


def list_files(root: str, *folders: str) -> list[str]:
    """Return the paths of all files below `folders` of `root` (all of it without any), relative, "/" between parts; unsorted.

    Hidden files and folders are passed over. Symbolic links are followed, and a file to which several names lead is listed once: by
    its own name, else by the first of its links. What is passed over is counted in the log. A folder that is not there holds none.

    Raises:
        OSError: a folder cannot be read.
    """
    store, passed = Store(root), Counter[str]()
    if store.local:
        found = _Walk(store.path(), passed).files(folders or ("",))
    else:
        names = [name for folder in folders or ("",) for name in store.names(folder)]
        found = [name for name in names if not hidden(name)]
        passed["hidden"] = len(names) - len(found)
    if passed["hidden"]:
        _log.warning("Hidden files and folders passed over: %s", f"{passed['hidden']:,}")
    if passed["linked"]:
        _log.warning("Links passed over, whose files are read by another name: %s", f"{passed['linked']:,}")
    return found


class _Walk:
    """The files below a folder of this machine. `os.scandir` tells links from files without asking the system for each file."""

    def __init__(self, base: str, passed: Counter[str]) -> None:
        self._base, self._passed = base, passed
        self._folders: set[str] = set()
        """Real paths of the folders that were read."""
        self._links: list[str] = []

    def files(self, folders: tuple[str, ...]) -> list[str]:
        found = [path for folder in folders if os.path.isdir(self._full(folder)) for path in self._below(folder)]
        if not self._links:
            return found
        real = {os.path.realpath(self._full(path)) for path in found}
        while self._links:
            links, self._links = sorted(self._links), []
            for link in links:
                listed = self._followed(link)
                fresh = [path for path in listed if os.path.realpath(self._full(path)) not in real]
                real.update(os.path.realpath(self._full(path)) for path in fresh)
                found += fresh
                self._passed["linked"] += not fresh
        return found

    def _followed(self, link: str) -> list[str]:
        """Return the files to which a link leads; none where it leads back to a folder that it lies in, or that was read."""
        full = self._full(link)
        if not os.path.isdir(full):
            return [link]
        target = os.path.join(os.path.realpath(full), "")
        around = (os.path.realpath(os.path.dirname(full)), os.path.realpath(self._base))
        back = any(os.path.join(folder, "").startswith(target) for folder in around)
        return [] if back else list(self._below(link))

    def _below(self, folder: str) -> Iterator[str]:
        full = self._full(folder)
        if (real := os.path.realpath(full)) in self._folders:
            return
        self._folders.add(real)
        with os.scandir(full) as entries:
            inner = []
            for entry in entries:
                path = f"{folder}/{entry.name}" if folder else entry.name
                if _is_hidden(entry.name):
                    self._passed["hidden"] += 1
                elif entry.is_symlink():
                    self._links.append(path)
                elif entry.is_dir():
                    inner.append(path)
                else:
                    yield path
        for path in inner:
            yield from self._below(path)

    def _full(self, path: str) -> str:
        return os.path.join(self._base, path) if path else self._base
