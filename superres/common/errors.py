"""Errors that a person is meant to read: each says what is wrong and what to do about it."""


class SharplineError(Exception):
    """The work failed for a reason the user can act on; the command line prints it plainly."""

    exit_code = 1


class UsageError(SharplineError):
    """The words of a command were wrong."""

    exit_code = 2


class MissingExtra(SharplineError):
    """A command needs an optional dependency that is not installed here."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} needs an optional part: pip install 'sharpline[{extra}]'")
