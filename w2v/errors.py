"""The one exception that means "the user must change something".

Its message is one line: the rule, the value that broke it, the remedy. Recipes print it without a
traceback and exit with code 2; library callers can catch it as a ValueError.
"""

from collections.abc import Iterable


class InputError(ValueError):
    """A rule the caller broke: data, checkpoint or setting that cannot be used as given."""


class UnusableAudioError(InputError):
    """A recording that holds no speech a model could use; str() is the reason for skipped.tsv."""


def listed(names: Iterable[str], most: int = 200) -> str:
    """Names that came from files, for an error's one line: short, and quoted where one holds control characters."""
    text = ", ".join(names)
    return text[:most] if text.isprintable() else show(text, most)


def show(value: object, most: int = 60) -> str:
    """A value that came from a file, for an error's one line: short, and printable whatever it holds."""
    try:
        text = repr(value) if isinstance(value, str) else ascii(value)
    except (RecursionError, ValueError):  # thousands of brackets in each other, or of digits
        text = f"a {type(value).__name__} too long to show"
    return text if len(text) <= most else f"{text[:most]} ..."


def named(value: object, most: int = 80) -> str:
    """A name that came from a file: as it is where it is short and printable, else as `show` writes it."""
    return value if isinstance(value, str) and value.isprintable() and 0 < len(value) <= most else show(value)


def reason(error: Exception, most: int = 200) -> str:
    """What another library says of a file, for an error's one line; the exception's name where it says nothing."""
    try:
        lines = str(error).strip().splitlines()
    except (RecursionError, ValueError):  # it would show an object of the file that cannot be shown
        lines = []
    text = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in lines[0][:most]) if lines else ""
    return text[:most] or type(error).__name__
