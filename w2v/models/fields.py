"""What the fields of a config may hold: the types of its annotations, and ranges by name.

Configs come from files that anybody may have written: a wrong type or an absurd size is refused here, by name, before
anything is computed or allocated with it.
"""

import dataclasses
import math
import typing
from typing import TYPE_CHECKING, Any, TypeVar

from torch import Tensor

from w2v.errors import InputError, show

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Count = TypeVar("Count", int, Tensor)  # samples or frames of a clip, or of each clip (B,)
# Wider than any model that was ever trained, and small enough to be counted with.
WIDTH, LENGTH, LAYERS = 2**16, 10_000, 1000
MASK_RANGES: dict[str, tuple[float, float]] = {
    "mask_time_length": (1, LENGTH),
    "mask_time_min_masks": (0, LENGTH),
    "mask_feature_length": (1, LENGTH),
    "mask_feature_min_masks": (0, LENGTH),
}
KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


def check_fields(
    config: "DataclassInstance", ranges: dict[str, tuple[float, float]], unchecked: tuple[str, ...] = ()
) -> None:
    """InputError naming the first field that is not as its annotation says, or lies outside of its range.

    config: a frozen dataclass of int, float, bool, str, tuple[int, ...], and of these or None. Lists become tuples and
    whole numbers floats where the annotation says so. ranges: field -> least and largest value, of each entry in a
    tuple; None is outside of no range. unchecked: fields that check themselves.
    """
    hints = typing.get_type_hints(type(config))
    for name in (field.name for field in dataclasses.fields(config) if field.name not in unchecked):
        annotation = hints[name]
        value, limits = getattr(config, name), ranges.get(name)
        choices = typing.get_args(annotation) if type(None) in typing.get_args(annotation) else (annotation,)
        if value is None and type(None) in choices:
            continue
        kind = next(choice for choice in choices if choice is not type(None))
        is_list = typing.get_origin(kind) is tuple
        of = typing.get_args(kind)[0] if is_list else kind
        fits = isinstance(value, (list, tuple)) if is_list else True
        if not fits or not all(_is(of, item, limits) for item in (value if is_list else [value])):
            words = f"a list with {KINDS[of]} for each layer" if is_list else KINDS[of]
            words += f" from {limits[0]:g} to {limits[1]:g}" if limits else ""
            raise InputError(f"{name} must be {words}{' or null' if len(choices) > 1 else ''}, got {show(value)}")
        if is_list or of is float:
            object.__setattr__(config, name, tuple(value) if is_list else float(value))


def check_probabilities(config: "DataclassInstance") -> None:
    """InputError where a dropout, LayerDrop or a share of masks is no probability, or a dropout would leave nothing."""
    for field in dataclasses.fields(config):
        value, is_dropout = getattr(config, field.name), field.name.endswith("dropout")
        if (is_dropout or field.name.endswith(("layerdrop", "_prob"))) and not 0.0 <= value <= 1.0:
            raise InputError(f"{field.name} must be a probability between 0 and 1, got {value}")
        if is_dropout and value == 1.0:
            raise InputError(f"{field.name} must be below 1, got {value}: nothing would be left")


def check_fixed(file: str, fixed: dict[str, Any], given: dict[str, Any], remedy: str) -> None:
    """InputError for a field whose other values would need code that is not here. file: where `given` was read."""
    for name, value in fixed.items():
        if given.get(name, value) != value:
            raise InputError(f"{file}: {name} must be {value!r}, got {show(given[name])}; {remedy}")


def _is(kind: type, value: Any, limits: tuple[float, float] | None) -> bool:
    if isinstance(value, bool) or kind in (bool, str):  # True counts as 1 elsewhere
        return isinstance(value, kind) and (kind in (bool, str))
    if not isinstance(value, (int, float) if kind is float else int):
        return False
    if isinstance(value, float) and not math.isfinite(value):
        return False
    return abs(value) < 1e300 and (limits is None or limits[0] <= value <= limits[1])
