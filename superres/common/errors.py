"""Errors for the user to read: each message says what is wrong and what to do about it."""


class SharplineError(Exception):
    """A failure that the user can act on; the command line prints its message, no traceback."""

    exit_code = 1


class UsageError(SharplineError):
    """The arguments of a command were wrong."""

    exit_code = 2


class MissingExtra(SharplineError):
    """A command needs an optional dependency that is not installed here."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} needs an optional dependency: pip install 'sharpline[{extra}]'")
