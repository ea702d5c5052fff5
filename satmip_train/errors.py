"""The one exception for what the user can put right."""


class UsageError(ValueError):
    """What was asked cannot be done with these shards, settings or files; the message says what to change."""
