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


def show(value, most: int = 60) -> str:
    """A value that came from a file, for an error's one line: short, and printable whatever it holds."""
    try:
        text = repr(value) if isinstance(value, str) else ascii(value)
    except (RecursionError, ValueError):  # thousands of brackets in each other, or of digits
        text = f"a {type(value).__name__} too long to show"
    return text if len(text) <= most else f"{text[:most]} ..."
