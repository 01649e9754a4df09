"""Which config file a command names, and how the program names one to the user."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import aiseeme_jax

PACKAGE = Path(aiseeme_jax.__file__).parent
SHIPPED = PACKAGE / "shipped" / "configs"
# The folder of the config files of this project: in an installed package, or beside it in a checkout.
CONFIGS = SHIPPED if SHIPPED.is_dir() else PACKAGE.parent / "configs"
CONFIG_FLAG = re.compile(r"--?config(?:\.(?P<field>[^=]+))?(?:=(?P<value>.*))?", re.DOTALL)
# A config for two CPU cores, by the name that is known wherever the package is.
EXAMPLE = "isic_curriculum:small"


def find_config(argv: Sequence[str]) -> str | None:
    """The value of --config; None if there is none."""
    return next((value for _, value in find_config_flags(argv)), None)


def find_config_flags(argv: Sequence[str]) -> Iterator[tuple[slice, str]]:
    """Where --config stands among the flags, and its value, which may be an argument of its own."""
    for i, argument in enumerate(argv):
        match = CONFIG_FLAG.fullmatch(argument)
        if match and not match["field"]:
            place = slice(i, i + 1 if match["value"] is not None else i + 2)
            yield place, match["value"] if match["value"] is not None else "".join(argv[i + 1 : i + 2])


def find_shipped(argv: list[str]) -> list[str]:
    """Flags in which the bare name of a config file of this project is the path of that file."""
    named = find_config(argv)
    name, colon, variant = (named or "").partition(":")
    file = CONFIGS / f"{name}.py"
    if not name.isidentifier() or Path(name).exists() or not is_config(file):
        return argv
    place, _ = next(find_config_flags(argv))
    return [*argv[: place.start], f"--config={file}{colon}{variant}", *argv[place.stop :]]


def find_wrong_file(argv: Sequence[str]) -> str | None:
    """Says what is wrong if --config names no config file."""
    named = find_config(argv)
    # Without the flag, its validator speaks.
    if named is None or is_config(file := Path(named.partition(":")[0])):
        return None
    what = "is no config file" if file.is_file() else "is a folder" if file.is_dir() else "is not there"
    files = [path for path in sorted(CONFIGS.glob("*.py")) if is_config(path)]
    known = ", ".join(path.stem if CONFIGS == SHIPPED else f"configs/{path.name}" for path in files)
    return f"--config: '{file}' {what}. Config files are {known}"


def is_config(file: Path) -> bool:
    """Whether a file looks like a config file."""
    return file.is_file() and file.suffix == ".py" and "get_config" in file.read_text(errors="replace")


def suggest_small(argv: list[str]) -> str:
    """Says which config suits a small machine: the variant `small` of the one that is named, if it has one.

    Args:
      argv: the command as the user gave it.
    """
    named = (find_config(argv) or "").partition(":")[0]
    file = Path((find_config(find_shipped(argv)) or "").partition(":")[0])
    if is_config(file) and re.search(r"^def small\(", file.read_text(errors="replace"), re.MULTILINE):
        return f"--config={named}:small is its variant for CPUs"
    return f"other configs have a variant for CPUs, such as --config={EXAMPLE}"
