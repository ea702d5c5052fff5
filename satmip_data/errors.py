"""Errors that the user can put right."""

OPTIONAL = {
    "aiohttp": "3.12", "h5py": "3.11", "ray": "2.40", "s3fs": "2026.6", "tensorboard": "2.16",
    "transformers": "4.46", "turbojpeg": "0.0.2", "wandb": "0.18",
}  # fmt: skip
"""Packages that only some commands need, and the lowest versions that pyproject.toml admits, which a test compares."""


def cause(error: BaseException) -> str:
    """Return the words of an exception for a user: no class, no number, no full stop."""
    if isinstance(error, KeyError):
        return f'"{error.args[0]}" is missing' if error.args else "something is missing"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror} ({error.filename})" if error.filename else error.strerror
    return str(error).removesuffix(".") or f"its cause is not known ({type(error).__name__})"


def missing_package(error: ImportError) -> str | None:
    """Return the package without which something cannot be imported; None where an import failed for another reason.

    An error may tell in its own words what a package is needed for, and follow from that of the import.
    """
    step: BaseException | None = error
    while step is not None:
        if isinstance(step, ModuleNotFoundError) and step.name:
            return step.name.partition(".")[0]
        step = step.__cause__ or step.__context__
    return None


def install(package: str) -> str:
    """Return the command that installs a package in a version that satmip works with: no index of packages holds satmip itself."""
    floor = OPTIONAL.get(package)
    return f"pip install '{package}>={floor}'" if floor else f"pip install {package}"


class DataError(Exception):
    """The base of them, which the command line tells without a traceback; the message says what to type next."""


class BuildError(DataError):
    """A build that cannot go on."""


class ShardError(DataError):
    """A shard does not hold what `dataset.json` says."""
