"""Errors that the user can put right."""


def cause(error: BaseException) -> str:
    """Return the words of an exception for a user: no class, no number, no full stop."""
    if isinstance(error, KeyError):
        return f'"{error.args[0]}" is missing' if error.args else "something is missing"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror} ({error.filename})" if error.filename else error.strerror
    return str(error).removesuffix(".") or f"its cause is not known ({type(error).__name__})"


class DataError(Exception):
    """The base of them, which the command line tells without a traceback; the message says what to type next."""


class BuildError(DataError):
    """A build that cannot go on."""


class ShardError(DataError):
    """A shard does not hold what `dataset.json` says."""
