"""What a task's own fields must lie between; a ValueError names the task and the field."""


def positive(task: str, **fields: float) -> None:
    """Temperatures: above 0."""
    for name, value in fields.items():
        if not value > 0:
            raise ValueError(f"{task}: `{name}` must be above 0, not {value}")


def shares(task: str, **fields: float) -> None:
    """Shares, momenta, probabilities: from 0 to 1."""
    for name, value in fields.items():
        if not 0 <= value <= 1:
            raise ValueError(f"{task}: `{name}` must lie between 0 and 1, not {value}")


def dropout(task: str, value: float) -> None:
    """A share that is dropped, which leaves some."""
    if not 0 <= value < 1:
        raise ValueError(f"{task}: `dropout` must be at least 0 and below 1, not {value}")


def at_least(task: str, least: float, **fields: float) -> None:
    """Sizes, counts and weights."""
    for name, value in fields.items():
        if not value >= least:
            raise ValueError(f"{task}: `{name}` must be at least {least}, not {value}")
