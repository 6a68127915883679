"""Arithmetic, comparisons, logic and elementary functions, and the operators that mean them."""

from __future__ import annotations

from typing import Any, Final

from retiarii.ir.op_rows.spec import Row, Spelling, always, function
from retiarii.ir.types import Attrs, Operand

_ODD = (
    "abs neg expm1 log1p sqrt square sign sgn sin tan asin atan sinh asinh atanh erf erfinv ceil "
    "floor trunc frac positive deg2rad rad2deg nan_to_num"
)
_PLAIN = (
    "exp exp2 log log2 log10 rsqrt reciprocal cos acos cosh acosh erfc lgamma digamma isnan isinf "
    "isfinite signbit logical_not sinc i0"
)
_MORE_NAMES: Final = {
    "abs": ("torch.absolute", "Tensor.absolute", "Tensor.__abs__", "operator.abs"),
    "neg": ("torch.negative", "Tensor.negative", "Tensor.__neg__", "operator.neg"),
    "positive": ("Tensor.__pos__", "operator.pos"),
    "asin": ("torch.arcsin", "Tensor.arcsin"),
    "acos": ("torch.arccos", "Tensor.arccos"),
    "atan": ("torch.arctan", "Tensor.arctan"),
    "sinh": (),
    "asinh": ("torch.arcsinh", "Tensor.arcsinh"),
    "acosh": ("torch.arccosh", "Tensor.arccosh"),
    "atanh": ("torch.arctanh", "Tensor.arctanh"),
    "trunc": ("torch.fix", "Tensor.fix"),
    "erf": ("torch.special.erf",),
    "erfc": ("torch.special.erfc",),
    "expm1": ("torch.special.expm1",),
    "log1p": ("torch.special.log1p",),
    "exp2": ("torch.special.exp2",),
    "digamma": ("torch.special.digamma",),
    "lgamma": ("torch.special.gammaln",),
    "sinc": ("torch.special.sinc",),
    "i0": ("torch.special.i0",),
}
_MORE_PARAMETERS: Final = {"nan_to_num": ", nan=None, posinf=None, neginf=None"}


_COMMUTATIVE_WORDS: Final = frozenset({"add", "mul", "and", "or", "xor"})


def _operator(word: str, *, arithmetic: bool = True) -> tuple[Spelling, ...]:
    """The operator's methods (plain, reflected, in place) and the functions of ``operator``."""
    plain = (
        Spelling(f"Tensor.__{word}__"),
        Spelling(f"operator.{word}_" if word in ("and", "or") else f"operator.{word}"),
    )
    if not arithmetic:
        return plain
    return (
        *plain,
        Spelling(f"operator.i{word}", inplace=True),
        Spelling(f"Tensor.__i{word}__", inplace=True),
        # What commutes is one call, whichever side the number is on.
        Spelling(f"Tensor.__r{word}__", swapped=word not in _COMMUTATIVE_WORDS),
    )


def _tensors_only(attrs: Attrs) -> bool:
    """No numbers among the arguments: zeros make a zero."""
    return all(isinstance(attrs[n], Operand) for n in ("input", "other") if n in attrs)


def _divided_by_number(attrs: Attrs) -> bool:
    other = attrs.get("other")
    return "input" not in attrs and isinstance(other, int | float) and other != 0


def _positive_power(attrs: Attrs) -> bool:
    exponent = attrs.get("exponent")
    return "input" not in attrs and isinstance(exponent, int | float) and exponent > 0


def _zero_allowed(attrs: Attrs) -> bool:
    low, high = attrs.get("min"), attrs.get("max")
    numbers = all(v is None or isinstance(v, int | float) for v in (low, high))
    return numbers and (low is None or low <= 0) and (high is None or high >= 0)


def _unary(op: str, **facts: Any) -> Row:
    signature = "input: T" + _MORE_PARAMETERS.get(op, "")
    return function(
        op,
        signature,
        f"torch.{op}",
        *_MORE_NAMES.get(op, ()),
        elementwise=True,
        fuse="elementwise",
        **facts,
    )


def _binary(op: str, *more: Any, signature: str = "input: T, other: T", **facts: Any) -> Row:
    facts = {"elementwise": True, "fuse": "elementwise", **facts}
    return function(op, signature, f"torch.{op}", *more, **facts)


ELEMENTWISE: Final[tuple[Row, ...]] = (
    *(_unary(op, zero_preserving=always) for op in _ODD.split()),
    *(_unary(op) for op in _PLAIN.split()),
    function(
        "round",
        "input: T, *, decimals=0",
        "torch.round",
        elementwise=True,
        zero_preserving=always,
        fuse="elementwise",
    ),
    function(
        "logit",
        "input: T, eps=None",
        "torch.logit",
        "torch.special.logit",
        elementwise=True,
        fuse="elementwise",
    ),
    # Not marked commutative, for alpha scales the second input only.
    _binary(
        "add",
        *_operator("add"),
        signature="input: T, other: T, *, alpha=1",
        zero_preserving=_tensors_only,
    ),
    _binary(
        "sub",
        *_operator("sub"),
        "torch.subtract",
        "Tensor.subtract",
        Spelling("Tensor.subtract_", inplace=True),
        Spelling("torch.rsub", swapped=True),
        signature="input: T, other: T, *, alpha=1",
        zero_preserving=_tensors_only,
    ),
    _binary(
        "mul",
        *_operator("mul"),
        "torch.multiply",
        "Tensor.multiply",
        Spelling("Tensor.multiply_", inplace=True),
        commutative=True,
        zero_preserving=always,
    ),
    _binary(
        "div",
        *_operator("truediv"),
        Spelling("Tensor.__rdiv__", swapped=True),
        Spelling("Tensor.__idiv__", inplace=True),
        "Tensor.__div__",
        "torch.divide",
        "Tensor.divide",
        Spelling("Tensor.divide_", inplace=True),
        "torch.true_divide",
        "Tensor.true_divide",
        Spelling("Tensor.true_divide_", inplace=True),
        signature="input: T, other: T, *, rounding_mode=None",
        zero_preserving=_divided_by_number,
    ),
    _binary("floor_divide", *_operator("floordiv"), zero_preserving=_divided_by_number),
    _binary("remainder", *_operator("mod"), zero_preserving=_divided_by_number),
    _binary("fmod", zero_preserving=_divided_by_number),
    _binary(
        "pow",
        *_operator("pow"),
        signature="input: T, exponent: T",
        zero_preserving=_positive_power,
    ),
    _binary("float_power", signature="input: T, exponent: T", zero_preserving=_positive_power),
    _binary("atan2", "torch.arctan2", "Tensor.arctan2", zero_preserving=always),
    _binary("hypot", commutative=True, zero_preserving=always),
    _binary("copysign"),
    _binary("maximum", commutative=True, zero_preserving=always),
    _binary("minimum", commutative=True, zero_preserving=always),
    _binary("fmax", commutative=True, zero_preserving=always),
    _binary("fmin", commutative=True, zero_preserving=always),
    _binary("logaddexp", commutative=True),
    _binary("xlogy", "torch.special.xlogy"),
    _binary("ldexp", zero_preserving=always),
    *(
        _binary(op, *_operator(op, arithmetic=False), *names, commutative=commutes)
        for op, names, commutes in (
            ("eq", (), True),
            ("ne", ("torch.not_equal", "Tensor.not_equal"), True),
            ("lt", ("torch.less", "Tensor.less"), False),
            ("le", ("torch.less_equal", "Tensor.less_equal"), False),
            ("gt", ("torch.greater", "Tensor.greater"), False),
            ("ge", ("torch.greater_equal", "Tensor.greater_equal"), False),
        )
    ),
    _binary("isclose", signature="input: T, other: T, rtol=1e-05, atol=1e-08, equal_nan=False"),
    _binary("logical_and", commutative=True),
    _binary("logical_or", commutative=True),
    _binary("logical_xor", commutative=True),
    _binary("bitwise_and", *_operator("and"), commutative=True),
    _binary("bitwise_or", *_operator("or"), commutative=True),
    _binary("bitwise_xor", *_operator("xor"), commutative=True),
    _binary("bitwise_left_shift", *_operator("lshift")),
    _binary("bitwise_right_shift", *_operator("rshift")),
    _binary(
        "bitwise_not", "Tensor.__invert__", "operator.invert", "operator.inv", signature="input: T"
    ),
    _binary(
        "clamp",
        "torch.clip",
        "Tensor.clip",
        Spelling("torch.clip_", inplace=True),
        Spelling("Tensor.clip_", inplace=True),
        signature="input: T, min: T = None, max: T = None",
        zero_preserving=_zero_allowed,
    ),
    _binary("clamp_min", signature="input: T, min: T", zero_preserving=_zero_allowed),
    _binary("clamp_max", signature="input: T, max: T", zero_preserving=_zero_allowed),
    _binary("lerp", signature="input: T, end: T, weight: T", zero_preserving=always),
    _binary(
        "addcmul",
        signature="input: T, tensor1: T, tensor2: T, *, value=1",
        zero_preserving=always,
    ),
    _binary("addcdiv", signature="input: T, tensor1: T, tensor2: T, *, value=1"),
)
