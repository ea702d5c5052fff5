"""A root folder anywhere fsspec reaches, with atomic writes."""

import errno
import fcntl
import os
import re
import shutil
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.zip import ZipFileSystem
from fsspec.utils import get_protocol

from satmip_data.storage import limits
from satmip_data.storage.web import http_options

PARTIAL = ".part"
"""Ending of files under way; they begin with a dot."""

_UNDER_WAY = re.compile(r"(.*/)?\.[^/]+\.[a-z0-9_]{8}" + re.escape(PARTIAL))
"""Names that `Store.staging` gives to files under way, and no others."""


def _umask() -> int:
    """Return the bits that new files leave out. Linux tells them; elsewhere they are read by setting them, and set again."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("Umask:"):
                return int(line.split()[1], 8)
    umask = os.umask(0o077)
    os.umask(umask)
    return umask


class LockedError(OSError):
    """Another process writes to the folder; the message says which folder."""


IN_FLIGHT = 32
"""Requests that one process has under way at a time, at most."""

# Several files are read at a time, not several parts of one: s3fs would ask for the size of each file before it reads it.
_OPTIONS: dict[str, dict[str, Any]] = {"s3": {"config_kwargs": {"max_pool_connections": IN_FLIGHT}, "max_concurrency": 1}}


_ZIP = "zip://::"


def _filesystem(url: str) -> tuple[Any, str]:
    # A relative path follows the working directory, which may change.
    start, path = (_ZIP, url[len(_ZIP) :]) if url.startswith(_ZIP) else ("", url)
    local = path.startswith("/") or ("://" not in path and ("::" not in path or os.path.exists(path)))
    return _connect(start + (os.path.abspath(path) if local else path))


@cache
def _connect(url: str) -> tuple[Any, str]:
    if url.startswith("/"):  # whatever is in its name: "::" makes no chain of a folder
        return LocalFileSystem(use_listings_cache=False), url.rstrip("/")
    # Listings are not kept: other processes write while this one looks.
    protocol = get_protocol(url)
    try:
        options = {"use_listings_cache": False, **_OPTIONS.get(protocol, http_options() if protocol in ("http", "https") else {})}
        if url.startswith(f"{_ZIP}/"):
            return _zip_file(url[len(_ZIP) :]), ""
        filesystem, root = fsspec.core.url_to_fs(url, **options)
    except zipfile.BadZipFile as error:
        raise OSError(f"{url.removeprefix(_ZIP)} is no whole zip file: {error}. Copy or download it again.") from error
    except ValueError as error:
        raise OSError(
            f"{url} is no folder of this machine and no URL that fsspec opens: {error}. Check how it is written."
        ) from error
    return filesystem, root.rstrip("/")


def check_regular(path: str) -> None:
    """Refuse a pipe, a socket or a device of this machine, whose end a reader may wait for for ever.

    What is not there is left to whoever opens it.

    Raises:
        OSError: `path` is one.
    """
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):  # a ValueError: NUL in a name
        return
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise OSError(f"{path} is no regular file, but a pipe, a socket or a device")


@dataclass(frozen=True, slots=True)
class Store:
    """Files below `url`, named by relative paths with slashes. A small value: every process opens its own connection.

    A name is one of a listing and nothing else, whatever it looks like: none leads out of a folder, and none is read as a URL.
    """

    url: str

    @property
    def local(self) -> bool:
        """Whether the files lie on this machine's own file system."""
        return isinstance(_filesystem(self.url)[0], LocalFileSystem)

    @property
    def remote(self) -> bool:
        """Whether every read is a request over a network, so that many at a time are faster than one after the other."""
        return bool(_filesystem(self.url)[0].async_impl)

    @property
    def protocol(self) -> str:
        """Protocol of the files, such as "file", "s3" or "https"."""
        return "file" if self.local else str(get_protocol(self.url))

    @property
    def filesystem(self) -> Any:
        """Fsspec's file system, for whoever opens files by `path` there."""
        return _filesystem(self.url)[0]

    def path(self, name: str = "") -> str:
        """Return the file system's own path of `name`.

        Raises:
            OSError: the name leads out of the folder.
        """
        filesystem, root = _filesystem(self.url)
        if ".." in name and isinstance(filesystem, LocalFileSystem) and ".." in name.split("/"):
            raise OSError(f"{name} leads out of {self.url}. Name a file in it.")
        if isinstance(filesystem, LocalFileSystem):
            return f"{root}/{name}" if name else root or "/"
        return f"{root}/{name}" if name and root else name or root

    def read(self, name: str) -> bytes:
        """Return the bytes of a file.

        Raises:
            FileNotFoundError: there is none.
            OSError: it cannot be read, or is no regular file.
        """
        filesystem, path = _filesystem(self.url)[0], self.path(name)
        if isinstance(filesystem, LocalFileSystem):
            check_regular(path)
            with open(path, "rb", buffering=0) as stream:
                return stream.readall()
        if isinstance(filesystem, ZipFileSystem):
            with _zip_errors(path):
                limits.check_unpacked(path, filesystem.zip.getinfo(path).file_size)
                data: bytes = filesystem.zip.read(path)
                return data
        with _web_errors():
            data = filesystem.cat_file(path)
        return data

    def read_range(self, name: str, start: int, end: int) -> bytes:
        """Return the bytes from `start` to before `end`; fewer where the file is shorter.

        Raises:
            FileNotFoundError: there is no such file.
        """
        filesystem, path = _filesystem(self.url)[0], self.path(name)
        if isinstance(filesystem, ZipFileSystem):
            with _zip_errors(path), filesystem.zip.open(path) as stream:
                # Who reads parts goes on to others, and each seek backwards unpacks the member from its beginning.
                limits.check_unpacked(path, filesystem.zip.getinfo(path).file_size)
                stream.seek(start)
                part: bytes = stream.read(end - start)
                return part
        with _web_errors():
            data: bytes = filesystem.cat_file(path, start=start, end=end)
        return data

    def read_many(self, names: Sequence[str]) -> list[bytes]:
        """Return the bytes of several files, many requests at a time."""
        with ThreadPoolExecutor(IN_FLIGHT) as pool:
            return list(pool.map(self.read, names))

    def exists(self, name: str = "") -> bool:
        """Tell whether there is a file or folder of that name."""
        return bool(_filesystem(self.url)[0].exists(self.path(name)))

    def size(self, name: str) -> int:
        """Return the size of a file in bytes."""
        with _web_errors():
            return int(_filesystem(self.url)[0].size(self.path(name)))

    def names(self, folder: str = "") -> list[str]:
        """Return the sorted names, relative to the root, of all files in `folder` and below; none where there is no such folder."""
        return sorted(self.sizes(folder))

    def sizes(self, folder: str = "") -> dict[str, int]:
        """Return the sizes in bytes of all files in `folder` and below, by name; on an object store a listing tells them all."""
        filesystem, root = _filesystem(self.url)
        if not filesystem.exists(self.path(folder)):
            return {}
        base = f"{root}/" if root or isinstance(filesystem, LocalFileSystem) else ""
        found = filesystem.find(self.path(folder), detail=True)
        # A web page may link to what does not lie below it, and tells no sizes.
        return {path[len(base) :]: int(entry["size"] or 0) for path, entry in found.items() if path.startswith(base)}

    def remove(self, name: str) -> None:
        """Delete a file or a whole folder, if there is one."""
        if self.exists(name):
            _filesystem(self.url)[0].rm(self.path(name), recursive=True)

    def check_writable(self) -> None:
        """Refuse a destination that cannot be written to, before hours of work; nothing is made.

        Raises:
            OSError: it is a file, a folder that may not be written to, or on a web server.
        """
        if self.protocol in ("http", "https"):
            raise OSError(
                f"{self.url} is on a web server, which takes no files. Choose a folder, or a URL such as s3://bucket/shards."
            )
        if not self.local:
            return
        folder = self.path()
        while not os.path.lexists(folder):
            folder = os.path.dirname(folder)
        if not os.path.isdir(folder):
            raise OSError(f"{folder} is a file, and {self.url} has to be a folder. Choose another destination.")
        if not os.access(folder, os.W_OK | os.X_OK):
            raise OSError(f"{folder} may not be written to. Change its mode, or choose another destination than {self.url}.")

    def occupied(self) -> bool:
        """Tell whether there is any file but what a process that was killed left under way."""
        return any(not _UNDER_WAY.fullmatch(name) for name in self.names())

    def remove_leftovers(self) -> None:
        """Remove what processes that were killed left under way; uploads leave nothing. Ask for the lock first."""
        if self.local:
            for name in self.names():
                if _UNDER_WAY.fullmatch(name):
                    self.remove(name)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes of this machine from writing here; the folder is made if there is none.

        The system drops the lock when the process ends, however it ends. Elsewhere than on this machine's own file system, and on
        file systems without locks, nothing is locked.

        Raises:
            LockedError: another process holds the lock.
        """
        if not self.local:
            yield
            return
        os.makedirs(self.path(), exist_ok=True)
        handle = os.open(self.path(), os.O_RDONLY)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise LockedError(f"Another process is writing to {self.url}. Wait for its end, or name another folder") from error
            except OSError:  # a network file system without locks
                pass
            yield
        finally:
            os.close(handle)

    def write(self, name: str, data: bytes) -> None:
        """Write a file whole or not at all."""
        with self.staging(name) as staged:
            staged.write_bytes(data)

    @contextmanager
    def staging(self, name: str) -> Iterator[Path]:
        """Give a local path to write to; when the block ends well, what was written becomes `name` in one step.

        On this machine that is fsync and rename; elsewhere one upload, which object stores make visible whole.
        """
        if self.local:
            target = Path(self.path(name))
            target.parent.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(prefix=f".{target.name}.", suffix=PARTIAL, dir=target.parent)
            os.close(handle)
            staged = Path(temporary)
            try:
                with _advice_on_a_full_disk(name, target.parent):
                    yield staged
                    staged.chmod(0o666 & ~_umask())
                    _sync(staged)
                    os.replace(staged, target)
                    _sync(target.parent)
            finally:
                staged.unlink(missing_ok=True)
        else:
            folder = Path(tempfile.mkdtemp(prefix="satmip-"))
            try:
                with _advice_on_a_full_disk(name, folder):
                    yield folder / "staged"
                _filesystem(self.url)[0].put_file(str(folder / "staged"), self.path(name))
            finally:
                shutil.rmtree(folder)


@contextmanager
def _web_errors() -> Iterator[None]:
    """Make errors of aiohttp, some of which are of no common kind, those of a file."""
    try:
        yield
    except Exception as error:
        if not type(error).__module__.startswith(("aiohttp.", "yarl.")) or isinstance(error, OSError):
            raise
        raise OSError(f"The web server did not give the file: {type(error).__name__}: {error}") from error


def _zip_file(path: str) -> ZipFileSystem:
    stream = open(path, "rb")  # noqa: SIM115 (the file system keeps it open)
    try:
        return ZipFileSystem(stream)
    except BaseException:
        stream.close()
        raise


@contextmanager
def _zip_errors(name: str) -> Iterator[None]:
    """Say what is wrong with a member of a zip file, by errors of a file."""
    try:
        yield
    except KeyError as error:
        raise FileNotFoundError(f"There is no {name} in the zip file.") from error
    except NotImplementedError as error:
        raise OSError(f"{name} is packed by a method other than Deflate, as Deflate64. Unpack the zip file first.") from error
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise OSError(f"{name} is damaged in the zip file: {error}. Copy the zip file again.") from error
    except RuntimeError as error:  # zipfile's, of members with a password
        raise OSError(f"{name} is encrypted. Unpack the zip file with its password.") from error


@contextmanager
def _advice_on_a_full_disk(name: str, folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise OSError(
            f"Cannot write {name} into {folder}: {error.strerror}. "
            "Make room there and run the same command again: what is finished is kept"
        ) from error


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
