"""The shape of one row of the op table, and the short notation that rows are written in."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Final, Literal

import torch
from torch import nn
from torch.nn import functional

from retiarii.ir.types import Attrs, TensorType

Predicate = Callable[[Attrs], bool]
Alias = Callable[[Attrs], tuple[str, Attrs] | None]
Flops = Callable[[Attrs, tuple[TensorType, ...], tuple[TensorType, ...]], int]
Normalise = Callable[
    [tuple[Any, ...], dict[str, Any], Callable[[Any], bool]], tuple[tuple[Any, ...], dict[str, Any]]
]

_NONE: Final = Attrs()


@dataclass(frozen=True, slots=True)
class OpSpec:
    """One row of the op table: all that the compiler knows of one operation.

    Attributes:
        name: the key in the table.
        kind: a layer with a constructor, a function, or a part of the graph itself.
        target: the ``nn`` class or the callable; ``None`` where it is called as a method.
        method: called as ``x.METHOD(...)``.
        call: how generated code spells it: ``torch.cat``, ``F.relu``, ``.view``, ``[]``,
            ``nn.Conv2d``, or the name of a helper whose text is ``helper``.
        signature: parameter names in order; of the constructor for modules.
        defaults: of ``signature`` and ``forward``. Functions leave out attributes equal to them.
        operands: names that may be tensors, in order.
        positional: names that are passed by position although they are no leading tensors.
        variadic: the first tensor parameter is one list of tensors (``cat``).
        star: the first tensor parameter is ``*tensors`` (``einsum``).
        rest: the parameter that gathers trailing integers (``view``, ``zeros``).
        forward: modules: parameter names of ``forward`` in order. Attributes with these names
            belong to the call and not to the constructor.
        inferred: modules: constructor arguments that follow from the input types, each with the
            argument that must divide it, if there is one.
        optional: modules: constructor arguments kept only where they differ from their default.
        placed: modules: the constructor takes ``device`` and ``dtype``.
        presets: attributes that the name called implies (``x.float()`` is ``to`` with a dtype).
        fallbacks: attributes that it implies where they are not given (``x.bernoulli_()``).
        swapped: the first two parameters come in the other order (``__rsub__``).
        generic: a torch function without a row of its own.
        normalise: brings the overloads of a call to one form before it is bound.
        pure: equal inputs give equal outputs, and nothing else happens.
        random: may draw random numbers; see :meth:`is_random`.
        draws: whether it does with these attributes; ``None``: always, where ``random``.
        stateful: writes buffers.
        commutative: the order of the inputs does not matter.
        elementwise: each result element depends on the input elements at its own place.
        identity: whether it is the identity with these attributes.
        zero_preserving: whether it makes zeros of inputs that are all zero.
        alias: the row and attributes that it is another way to write.
        flops: of one call: 2 for each multiply-accumulate, 0 for elementwise work.
        resize: name of the rule in ``resize.py`` by which attributes follow the inputs.
        fuse: family of operations that fuse alike.
        helper: source of the function to print beside generated code.
    """

    name: str
    kind: Literal["module", "function", "structural"]
    target: Any = None
    method: str | None = None
    call: str = ""
    signature: tuple[str, ...] = ()
    defaults: Attrs = _NONE
    operands: tuple[str, ...] = ()
    positional: frozenset[str] = frozenset()
    variadic: bool = False
    star: bool = False
    rest: str | None = None
    forward: tuple[str, ...] = ()
    inferred: Mapping[str, str | None] = field(default_factory=lambda: MappingProxyType({}))
    optional: tuple[str, ...] = ()
    placed: bool = False
    presets: Attrs = _NONE
    fallbacks: Attrs = _NONE
    swapped: bool = False
    generic: bool = False
    normalise: Normalise | None = None
    pure: bool = True
    random: bool = False
    draws: Predicate | None = None
    stateful: bool = False
    commutative: bool = False
    elementwise: bool = False
    identity: Predicate | None = None
    zero_preserving: Predicate | None = None
    alias: Alias | None = None
    flops: Flops | None = None
    resize: str | None = None
    fuse: str | None = None
    helper: str | None = None

    @property
    def varargs(self) -> bool:
        """Trailing integers come as ``*args`` or as one tuple; attributes keep the tuple."""
        return self.rest is not None

    def placeholders(self, attrs: Mapping[str, Any]) -> dict[str, Any]:
        """Values for inferred arguments that are left out, with which the layer can be made.

        Never equal to their divisor: a convolution would be taken for a depthwise one.
        """
        return {
            name: 2 * attrs.get(by, 1) if by else 1
            for name, by in self.inferred.items()
            if name not in attrs
        }

    def is_random(self, attrs: Attrs) -> bool:
        """Whether a call with these attributes draws random numbers (in training, if it asks)."""
        return self.random and (self.draws is None or self.draws(attrs))


@dataclass(frozen=True, slots=True)
class Spelling:
    """One more way to call a row: ``"torch.softmax"``, or with a signature of its own.

    Attributes:
        path: where the callable lives: ``F.relu``, ``torch.relu``, ``Tensor.relu``; a trailing
            ``.__get__`` names a property.
        signature: text of its parameters, where they differ from the row's.
        presets: attributes that it implies, whatever is passed.
        fallbacks: attributes that it implies where they are not given.
        swapped: its first two parameters are in the other order.
        inplace: it writes its first argument.
    """

    path: str
    signature: str | None = None
    presets: Mapping[str, Any] | None = None
    fallbacks: Mapping[str, Any] | None = None
    swapped: bool = False
    inplace: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """An entry of a family's table: the spec and the callables that lead to it."""

    spec: OpSpec
    callables: tuple[tuple[Any, OpSpec, bool], ...] = ()


@dataclass(frozen=True, slots=True)
class Parameters:
    """A parsed signature text."""

    names: tuple[str, ...]
    defaults: Attrs
    operands: tuple[str, ...]
    positional: frozenset[str]
    variadic: bool
    star: bool
    rest: str | None


_ROOTS: Final[Mapping[str, Any]] = MappingProxyType(
    {
        "torch": torch,
        "F": functional,
        "Tensor": torch.Tensor,
        "nn": nn,
        "operator": operator,
    }
)


def always(_attrs: Attrs) -> bool:
    """The predicate that holds whatever the attributes are."""
    return True


def never(_attrs: Attrs) -> bool:
    """The predicate that never holds."""
    return False


def twin(
    op: str,
    signature: str,
    *,
    same_as: Mapping[str, str] | None = None,
    fixed: Mapping[str, Any] | None = None,
) -> Alias:
    """The alias rule of a layer that is a function of the same arguments.

    Args:
        op: the function's row.
        signature: the function's signature, whose defaults are left out.
        same_as: arguments that the layer fills from another one where they are not given.
        fixed: arguments that the layer always passes.
    """
    parsed = parse_signature(signature)

    def alias(attrs: Attrs) -> tuple[str, Attrs]:
        kept: dict[str, Any] = {}
        for name in parsed.names:
            if name not in attrs or name == "inplace":
                continue
            value = attrs[name]
            default = parsed.defaults.get(name, ...)
            if default is not ... and (value == default or repr(value) == repr(default)):
                continue
            if same_as and name in same_as and value == attrs[same_as[name]]:
                continue
            kept[name] = value
        return op, Attrs({**kept, **(fixed or {})})

    return alias


def parse_signature(text: str) -> Parameters:
    """Reads ``"x: T, dim, keepdim=False"``.

    ``T`` marks tensors, ``Ts`` one list of tensors, ``P`` what must be passed by position.
    ``*x: T`` gathers tensors, ``*x`` integers.
    """
    function = ast.parse(f"def f({text}): ...").body[0]
    assert isinstance(function, ast.FunctionDef)
    found = function.args
    mark = {
        a.arg: a.annotation.id
        for a in (*found.args, *found.kwonlyargs, *([found.vararg] if found.vararg else []))
        if isinstance(a.annotation, ast.Name)
    }
    defaults: dict[str, Any] = {}
    if found.defaults:
        for a, value in zip(found.args[-len(found.defaults) :], found.defaults, strict=True):
            defaults[a.arg] = ast.literal_eval(value)
    for a, keyword in zip(found.kwonlyargs, found.kw_defaults, strict=True):
        if keyword is not None:
            defaults[a.arg] = ast.literal_eval(keyword)
    names = [a.arg for a in found.args]
    rest = None
    star = False
    if found.vararg is not None:
        names.append(found.vararg.arg)
        star = mark.get(found.vararg.arg) == "T"
        rest = None if star else found.vararg.arg
    names += [a.arg for a in found.kwonlyargs]
    operands = tuple(n for n in names if mark.get(n) in ("T", "Ts"))
    positional = {*operands, *(n for n in names if mark.get(n) == "P"), *([rest] if rest else [])}
    return Parameters(
        tuple(names),
        Attrs(defaults),
        operands,
        frozenset(positional),
        "Ts" in mark.values(),
        star,
        rest,
    )


def lookup(path: str) -> Any:
    """The object at ``F.relu`` or ``torch.special.expit``; ``None`` where there is none."""
    root, *rest = path.split(".")
    found = _ROOTS[root]
    for part in rest:
        found = getattr(found, part, None)
        if found is None:
            return None
    return found


def function(
    name: str,
    signature: str,
    first: str,
    *more: str | Spelling,
    search: bool = True,
    inplace: bool = True,
    target: Any = None,
    call: str | None = None,
    **facts: Any,
) -> Row:
    """A row for a function or a tensor method.

    Args:
        name: the op.
        signature: see :func:`parse_signature`.
        first: how it is called in generated code: ``torch.add``, ``F.relu``, ``Tensor.view``.
        more: other callables that mean it.
        search: look for callables of the same name in torch, torch.nn.functional and Tensor.
        inplace: take ``NAME_`` for the in-place twin.
        target: the callable, where ``first`` is not an importable name.
        call: its spelling in generated code, where it is not ``first``.
        facts: further fields of :class:`OpSpec`.
    """
    parsed = parse_signature(signature)
    as_method = first.startswith("Tensor.")
    short = first.rpartition(".")[2]
    spec = OpSpec(
        name=name,
        kind="function",
        target=None if as_method else (target or lookup(first)),
        method=short if as_method else None,
        call=call or (f".{short}" if as_method else first),
        signature=parsed.names,
        defaults=parsed.defaults,
        operands=parsed.operands,
        positional=parsed.positional,
        variadic=parsed.variadic,
        star=parsed.star,
        rest=parsed.rest,
        **facts,
    )
    if not as_method and spec.target is None:
        raise LookupError(f"{first} is not in this torch")
    spellings = [m if isinstance(m, Spelling) else Spelling(m) for m in more]
    given = {s.path for s in spellings}
    if target is None:
        spellings.append(Spelling(first))
    if search:
        for root in ("torch", "F", "Tensor"):
            spellings += [Spelling(f"{root}.{name}")] if f"{root}.{name}" not in given else []
            if inplace and f"{root}.{name}_" not in given:
                spellings.append(Spelling(f"{root}.{name}_", inplace=True))
    found = [(lookup(s.path), _as_called(spec, s), s.inplace) for s in spellings]
    return Row(spec, tuple(entry for entry in found if entry[0] is not None))


def _as_called(spec: OpSpec, spelling: Spelling) -> OpSpec:
    if spelling.signature is not None:
        parsed = parse_signature(spelling.signature)
        spec = replace(
            spec,
            signature=parsed.names,
            rest=parsed.rest,
            variadic=parsed.variadic,
            star=parsed.star,
        )
    if spelling.presets or spelling.fallbacks or spelling.swapped:
        spec = replace(
            spec,
            presets=Attrs(spelling.presets or {}),
            fallbacks=Attrs(spelling.fallbacks or {}),
            swapped=spelling.swapped,
        )
    return spec


def module(
    target: type[nn.Module],
    signature: str = "",
    forward: str = "input: T",
    *,
    inferred: str = "",
    optional: str = "",
    placed: bool = False,
    **facts: Any,
) -> Row:
    """A row for a layer: its constructor's parameters and those of its ``forward``."""
    made = parse_signature(signature)
    called = parse_signature(forward)
    spec = OpSpec(
        name=target.__name__,
        kind="module",
        target=target,
        call=f"nn.{target.__name__}",
        signature=made.names,
        defaults=made.defaults.merged(called.defaults),
        operands=called.operands,
        positional=called.positional,
        forward=called.names,
        inferred=MappingProxyType(
            {name: by or None for name, _, by in (i.partition(":") for i in inferred.split())}
        ),
        optional=tuple(optional.split()),
        placed=placed,
        **facts,
    )
    return Row(spec)
