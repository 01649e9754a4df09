"""Errors that a user can mend, and the end that a user asked for."""


class UserError(ValueError):
    """What the user gave cannot be used. The message says what is wrong, where, and what to do.

    Raise it where the mistake is noticed. Each command catches it once, prints the message and ends with exit code 2.
    Every other exception is a fault of this program and keeps its traceback.
    """


class MissingFile(UserError, FileNotFoundError):
    """A file or folder is missing that the user named, or that an earlier step should have made."""


class DiskError(UserError, OSError):
    """A file cannot be written where the user wants it: the disk is full, or the folder is not writable."""


class Terminated(BaseException):
    """SIGTERM arrived where nothing is trained. It passes through everything, as Ctrl-C does."""
