"""Names of the files that trainings and evaluations write, and how a file is written. Needs no torch."""

import errno
import os
import tempfile
import zipfile
import zlib
from pathlib import Path
from typing import Any

from satmip_train.errors import UsageError

RUN_CONFIG = "config.json"
"""What a run resolved before its first step."""
WEIGHTS, CONFIG = "backbone.safetensors", "backbone.json"
BEST_WEIGHTS = "backbone-best.safetensors"
METADATA_WEIGHTS = "metadata.safetensors"
PROJECTIONS = "projections.safetensors"
"""What brings features of images and of metadata into their common space."""


def result_path(folder: Path, probe: str, modality: str = "image", share: float = 1.0) -> Path:
    """Return where a result is written, as `knn.json`, `linear-metadata.json` or, of few labels, `labels-0.01-knn.json`.

    The latter begins otherwise, so that nothing which reads scores takes one of few labels for one of all.
    """
    few = "" if share == 1.0 else f"labels-{share:g}-"
    return folder / f"{few}{probe}{'' if modality == 'image' else f'-{modality}'}.json"


def check_zip(path: Path) -> None:
    """Compare the parts of a zip file, which a PyTorch checkpoint is, with their checksums; other files are passed over.

    Torch itself does not look at them: of 600 checkpoints with one flipped byte it read 593, with other weights.

    Raises:
        ValueError: a part is damaged.
    """
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except (zipfile.BadZipFile, NotImplementedError, EOFError, zlib.error) as error:
        raise ValueError(f"the file is damaged: {error}") from error
    if damaged is not None:
        raise ValueError(f"the file is damaged: the checksum of {damaged} does not fit")


def write_atomically(path: Path, write: Any) -> None:
    """Let `write` fill a temporary file beside `path`, bring it to the disk and give it its name.

    Raises:
        UsageError: the disk is full or refuses; a file that was there before is whole.
    """
    try:
        replace_file(path, write)
    except (OSError, RuntimeError) as error:
        cause = _behind(error)
        if cause is None:
            raise
        if isinstance(cause, KeyboardInterrupt):
            raise cause from None
        raise UsageError(f"Cannot write {path}: {cause}. {advice(cause)}. What was saved before is whole.") from error


def advice(cause: OSError) -> str:
    """Return what to do where the system refuses to write, as the beginning of a sentence."""
    if cause.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return "Use a folder that may be written to"
    what = "Make room there" if cause.errno in (errno.ENOSPC, errno.EDQUOT) else "Correct that"
    return f"{what} and run the same command again"


def _behind(error: BaseException | None) -> OSError | KeyboardInterrupt | None:
    """Return what the system said, or that it was interrupted, which torch.save hides behind an error of its own."""
    while error is not None and not isinstance(error, (OSError, KeyboardInterrupt)):
        error = error.__context__
    return error


def replace_file(path: Path, write: Any) -> None:
    """Do what `write_atomically` does, and leave its errors as they are.

    Raises:
        OSError: the disk is full or refuses; `torch.save` makes a RuntimeError of it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)
