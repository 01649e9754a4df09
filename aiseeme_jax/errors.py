"""The one kind of error that a user can mend."""


class UserError(ValueError):
    """What the user gave cannot be used. The message says what is wrong, where, and what to do.

    Raised where it is noticed; a command catches it once, prints the message and ends with exit code 2. Every other
    exception is a fault of this program and keeps its traceback.
    """


class MissingFile(UserError, FileNotFoundError):
    """A file or folder that the user named, or that should have been made before, is not there."""


class DiskError(UserError, OSError):
    """A file cannot be written where the user wants it: the disk is full, or the folder belongs to somebody else."""
