"""Random tensors: drawn member by member, each from its own stream, into one stack."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from retiarii.ir.types import Operand, leaves
from retiarii.optimizer.rules.base import Call, Form, Fusion, Lowering, Rule
from retiarii.optimizer.rules.dims import from_end, members
from retiarii.optimizer.rules.writing import Code, argument, names, ordered, printed, rules, written


def _made(fusion: Fusion) -> Lowering | None:
    """Rows that make a tensor of sizes and numbers alone."""
    call = fusion.call
    if call.inputs or argument(call, "requires_grad"):
        return None
    given = {"generator": Code("s"), "device": Code("s.device"), "dtype": call.results[0].dtype}
    made = written(call, (), given)
    text = f"kernels.drawn(lambda s: {made}, $streams, device)"
    return Lowering(text, (), (Form.MEMBERS,))


def _drawn(*tensors: str) -> Rule:
    """Rows whose numbers depend on their inputs: a call a member."""

    def rule(fusion: Fusion) -> Lowering | None:
        call = fusion.call
        found = names(call)
        if set(found) - set(tensors) or len(found) != len(call.inputs) or not call.inputs:
            return None
        made = written(call, [f"x{i}" for i in range(len(call.inputs))], {"generator": Code("s")})
        given = "".join(f"x{i}, " for i in range(len(call.inputs)))
        stacks = "".join(f", ${i}" for i in range(len(call.inputs)))
        return members(fusion, f"kernels.drawn_from(lambda {given}s: {made}, $streams{stacks})")

    return rule


def _filled(fill: Callable[[Call], str]) -> Rule:
    """Rows that have the shape of their input, and nothing else of it."""

    def rule(fusion: Fusion) -> Lowering | None:
        call = fusion.call
        if len(call.inputs) != 1 or argument(call, "requires_grad"):
            return None
        if any(isinstance(v, Operand) for a in call.attrs.values() for v in leaves(a)):
            return None
        shape = "$0.shape" if fusion.shared[0] else "$0.shape[1:]"
        dtype = call.results[0].dtype
        write = f"lambda part, s: part.{fill(call)}"
        text = f"kernels.filled({shape}, $streams, $0, {write}, {dtype}{ordered(call)})"
        return members(fusion, text, (0,))

    return rule


def _between(method: str, low: str, high: str) -> Callable[[Call], str]:
    def fill(call: Call) -> str:
        bounds = (printed(argument(call, name)) for name in (low, high))
        return f"{method}({', '.join(bounds)}, generator=s)"

    return fill


def _normal(fusion: Fusion) -> Lowering | None:
    return _drawn("mean", "std")(fusion) if fusion.call.inputs else _made(fusion)


def _bernoulli(fusion: Fusion) -> Lowering | None:
    if argument(fusion.call, "p") is None:
        return _drawn("input")(fusion)
    return _filled(lambda call: f"bernoulli_({printed(call.attrs['p'])}, generator=s)")(fusion)


def _gumbel_softmax(fusion: Fusion) -> Lowering | None:
    call = fusion.call
    tau, hard, dim = (argument(call, n) for n in ("tau", "hard", "dim"))
    rank = len(call.inputs[0].shape)
    if len(call.inputs) != 1 or type(dim) is not int or not rank or type(hard) is not bool:
        return None
    arguments = f"{printed(tau)}, {hard}, {from_end(dim, rank)}"
    return members(fusion, f"kernels.gumbel_softmax($0, $streams, {arguments})")


_OPS: Final[Mapping[str, Rule]] = MappingProxyType(
    {
        "rand": _made,
        "randn": _made,
        "randint": _made,
        "randperm": _made,
        "normal": _normal,
        "rand_like": _filled(lambda _: "uniform_(generator=s)"),
        "randn_like": _filled(lambda _: "normal_(generator=s)"),
        "randint_like": _filled(_between("random_", "low", "high")),
        "uniform": _filled(_between("uniform_", "low", "high")),
        "gaussian": _filled(_between("normal_", "mean", "std")),
        "bernoulli": _bernoulli,
        "multinomial": _drawn("input"),
        "poisson": _drawn("input"),
        "gumbel_softmax": _gumbel_softmax,
    }
)


def random(fusion: Fusion) -> Lowering | None:
    """Any row that draws a tensor."""
    rule = _OPS.get(fusion.call.op)
    return None if rule is None or len(fusion.call.results) != 1 else rule(fusion)


def fractional(fusion: Fusion) -> Lowering | None:
    """Fractional pooling: where its windows lie is drawn for each channel of each sample."""
    call = fusion.call
    spatial = int(call.op[-2])
    if len(call.inputs) != 1 or len(call.inputs[0].shape) != spatial + 2:
        return None
    given = [argument(call, n) for n in ("kernel_size", "output_size", "output_ratio")]
    indices = bool(argument(call, "return_indices"))
    if argument(call, "_random_samples") is not None or len(call.results) != 1 + indices:
        return None
    arguments = ", ".join(map(printed, given))
    text = f"kernels.fractional_max_pool($0, $streams, {spatial}, {arguments})"
    return members(fusion, text if indices else f"{text}[0]")


RULES: Final[Mapping[str, Rule]] = rules({"random": random, "fractional": fractional})
