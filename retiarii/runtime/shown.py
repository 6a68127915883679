"""Values as JSON: what can be, as it is; the rest as readable text."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from retiarii.mutators.choice import show


def plain(value: Any) -> Any:
    """``value`` as JSON: numbers, text, lists and mappings stay; others become stable text.

    A number that is not finite becomes text too: JSON has none.
    """
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else repr(float(value))
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    item = getattr(value, "item", None)  # numpy scalars, tensors of one element
    if callable(item) and getattr(value, "ndim", None) == 0:
        return plain(item())
    return show(value)
