"""Errors that the user can put right."""


class BuildError(Exception):
    """A build that cannot go on; the message says what to type next."""


class ShardError(Exception):
    """A shard does not hold what `dataset.json` says."""
