"""Errors that the user can put right."""


class DataError(Exception):
    """The base of them, which the command line tells without a traceback; the message says what to type next."""


class BuildError(DataError):
    """A build that cannot go on."""


class ShardError(DataError):
    """A shard does not hold what `dataset.json` says."""
