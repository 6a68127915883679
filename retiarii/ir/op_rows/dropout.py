"""Dropout and its relatives."""

from __future__ import annotations

from typing import Any, Final

from torch import nn

from retiarii.ir.op_rows.spec import Row, Spelling, always, function, module, twin
from retiarii.ir.types import Attrs, Training


def _drops_nothing(attrs: Attrs) -> bool:
    return attrs.get("p", 0.5) == 0 or attrs.get("training", True) is False


def _drops(attrs: Attrs) -> bool:
    return not _drops_nothing(attrs)


def _pair(layer: type[nn.Module], op: str, *, zeros: bool = True) -> tuple[Row, Row]:
    # nn.AlphaDropout drops by default in training only, F.alpha_dropout never unless told to.
    always_on = op.startswith("dropout")
    signature = f"input: T, p=0.5, training={always_on}, inplace=False"
    facts: dict[str, Any] = {
        "pure": False,
        "random": True,
        "draws": _drops,
        "identity": _drops_nothing,
        "zero_preserving": always if zeros else None,
        "fuse": "dropout",
    }
    as_builtin = "input: T, p, training"
    function_facts = facts | ({} if always_on else _OFF_BY_DEFAULT)
    return (
        module(
            layer,
            "p=0.5, inplace=False",
            alias=twin(op, "input: T, p=0.5", fixed={"training": Training()}),
            **facts,
        ),
        function(
            op,
            signature,
            f"F.{op}",
            Spelling(f"torch.{op}", as_builtin),
            Spelling(f"torch.{op}_", as_builtin, inplace=True),
            **function_facts,
        ),
    )


def _inactive(attrs: Attrs) -> bool:
    return attrs.get("p", 0.5) == 0 or attrs.get("training", False) is False


def _active(attrs: Attrs) -> bool:
    return not _inactive(attrs)


_OFF_BY_DEFAULT: Final = {"identity": _inactive, "draws": _active}

_RRELU: Final = "lower=0.125, upper=0.3333333333333333"

DROPOUT: Final[tuple[Row, ...]] = (
    *_pair(nn.Dropout, "dropout"),
    *_pair(nn.Dropout1d, "dropout1d"),
    *_pair(nn.Dropout2d, "dropout2d"),
    *_pair(nn.Dropout3d, "dropout3d"),
    *_pair(nn.AlphaDropout, "alpha_dropout", zeros=False),
    # A leaky ReLU whose slope is drawn in training.
    module(
        nn.RReLU,
        f"{_RRELU}, inplace=False",
        pure=False,
        random=True,
        zero_preserving=always,
        alias=twin("rrelu", f"input: T, {_RRELU}", fixed={"training": Training()}),
        fuse="rrelu",
    ),
    function(
        "rrelu",
        f"input: T, {_RRELU}, training=False, inplace=False",
        "F.rrelu",
        pure=False,
        random=True,
        draws=lambda attrs: attrs.get("training", False) is not False,
        zero_preserving=always,
        fuse="rrelu",
    ),
    *_pair(nn.FeatureAlphaDropout, "feature_alpha_dropout", zeros=False),
)
