"""Which sizes in a graph, or in a trace of one, follow which sizes of its inputs.

A rule for an op says for each dimension of its result from which dimensions of its operands its
size comes. An op without a rule is taken to make each size of all: too much, never too little. What
is given to calls as integers makes no size follow anything: parsing notes that it was used.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType

from retiarii.ir.node import NodeRecord
from retiarii.ir.ops import op_spec
from retiarii.ir.types import Operand, Ref, leaves

# Dimensions of inputs: (number of the input, dimension).
Origins = frozenset[tuple[int, int]]
Sizes = tuple[Origins, ...]

_NONE: Origins = frozenset()
# A node, its operands' sizes -> those of its result; ``None``: not known.
Rule = Callable[[NodeRecord, list[Sizes]], Sizes | None]


class Reach:
    """Where sizes come from; worked out for the values that are asked about, and remembered.

    Args:
        starts: the records of inputs, each with the dimensions that count: not the batch.
        record_of: finds the record of a node by its name.
    """

    def __init__(
        self,
        starts: Sequence[tuple[NodeRecord, frozenset[int]]],
        record_of: Callable[[str], NodeRecord],
    ) -> None:
        self._record_of = record_of
        self._rules: dict[str, Rule | None] = {}
        self._sizes: dict[str, list[Sizes]] = {}
        self._starts = frozenset(record.name for record, _ in starts)
        for number, (record, dims) in enumerate(starts):
            made = [
                frozenset({(number, d)}) if d in dims else _NONE
                for d in range(len(record.types[0].shape))
            ]
            self._sizes[record.name] = [tuple(made)]

    def copy(self, record_of: Callable[[str], NodeRecord]) -> Reach:
        """The same, for a copy of the graph, which finds its records with ``record_of``."""
        twin = copy.copy(self)
        twin._record_of, twin._sizes = record_of, self._sizes.copy()
        return twin

    def of(self, ref: Ref, dim: int) -> Origins:
        """The input sizes that a size follows."""
        known, stack = self._sizes, [ref.node]
        while stack:
            if stack[-1] in known:
                stack.pop()
                continue
            record = self._record_of(stack[-1])
            missing = [above.node for above in record.inputs if above.node not in known]
            if missing:
                stack += missing
            else:
                known[stack.pop()] = self._made(record)
        return known[ref.node][ref.index][dim]

    def forget(self, name: str, users_of: Callable[[str], Iterable[str]]) -> None:
        """A node is another one: what was found about it, and behind it, is not known any more."""
        stack = [name]
        while stack:
            gone = stack.pop()
            if gone not in self._starts and self._sizes.pop(gone, None) is not None:
                stack += users_of(gone)

    def _made(self, record: NodeRecord) -> list[Sizes]:
        given = [self._sizes[ref.node][ref.index] for ref in record.inputs]
        if not any(any(sizes) for sizes in given):
            return [(_NONE,) * len(kind.shape) for kind in record.types]
        if record.op not in self._rules:
            self._rules[record.op] = _rule(record.op)
        rule = self._rules[record.op]
        made = None
        try:
            if rule is _broadcast:
                made = _broadcast_sizes(given, [self._shape(ref) for ref in record.inputs])
            elif rule is not None:
                made = rule(record, given)
        except (KeyError, IndexError, TypeError, ValueError, ZeroDivisionError):
            pass  # arguments in a form that the rule does not know
        known = len(record.types) if record.op in _ALIKE else 1
        return [
            made
            if made is not None and len(made) == len(kind.shape) and index < known
            else (_NONE.union(*(o for sizes in given for o in sizes)),) * len(kind.shape)
            for index, kind in enumerate(record.types)
        ]

    def _shape(self, ref: Ref) -> tuple[int, ...]:
        return self._record_of(ref.node).types[ref.index].shape


def _broadcast(record: NodeRecord, given: list[Sizes]) -> Sizes | None:
    """Operands that are broadcast: marks the rule, which needs their shapes."""
    raise NotImplementedError


def _broadcast_sizes(given: list[Sizes], shapes: list[tuple[int, ...]]) -> Sizes:
    rank = max(map(len, shapes))
    made = []
    for back in range(rank, 0, -1):
        parts = [
            (sizes[-back], shape[-back])
            for sizes, shape in zip(given, shapes, strict=True)
            if len(shape) >= back
        ]
        # What is of a size by itself, the others must have too.
        settled = any(not origins and size != 1 for origins, size in parts)
        made.append(_NONE if settled else _NONE.union(*(origins for origins, _ in parts)))
    return tuple(made)


def _same(_: NodeRecord, given: list[Sizes]) -> Sizes:
    return given[0]


def _convolution(spatial: int, *, transposed: bool = False) -> Rule:
    def rule(record: NodeRecord, given: list[Sizes]) -> Sizes:
        x = given[0]
        channels = _NONE
        if len(given) > 1 and op_spec(record.op).kind == "function":
            channels = given[1][int(transposed)]
            kernel = given[1][-spatial:]
            x = (*x[:-spatial], *(a | b for a, b in zip(x[-spatial:], kernel, strict=True)))
        return (*x[: -spatial - 1], channels, *x[-spatial:])

    return rule


def _adaptive(spatial: int) -> Rule:
    def rule(record: NodeRecord, given: list[Sizes]) -> Sizes:
        wanted = record.attrs["output_size"]
        sizes = wanted if isinstance(wanted, tuple) else (wanted,) * spatial
        x = given[0]
        ends = (a if n is None else _NONE for a, n in zip(x[-spatial:], sizes, strict=True))
        return (*x[:-spatial], *ends)

    return rule


def _linear(record: NodeRecord, given: list[Sizes]) -> Sizes:
    made = given[1][0] if record.op == "linear" and given[1] else _NONE
    return (*given[0][:-1], made)


def _embedding(record: NodeRecord, given: list[Sizes]) -> Sizes:
    return (*given[0], given[1][1] if record.op == "embedding" else _NONE)


def _recurrent(_: NodeRecord, given: list[Sizes]) -> Sizes:
    return (*given[0][:-1], _NONE)


def _matmul(_: NodeRecord, given: list[Sizes]) -> Sizes | None:
    a, b = given
    if len(a) < 2 or len(b) < 2:
        return None
    rank = max(len(a), len(b))
    fronts = [(_NONE,) * (rank - len(s)) + s[:-2] for s in (a, b)]
    front = [x | y for x, y in zip(*fronts, strict=True)]
    return (*front, a[-2], b[-1])


def _attention(_: NodeRecord, given: list[Sizes]) -> Sizes:
    return (*given[0][:-1], given[2][-1])


def _viewed(record: NodeRecord, given: list[Sizes]) -> Sizes | None:
    shape = record.attrs.get("size", record.attrs.get("shape"))
    if not isinstance(shape, tuple):
        return None
    rest = _NONE.union(*given[0])
    return tuple(rest if n == -1 else _NONE for n in shape)


def _flatten(record: NodeRecord, given: list[Sizes]) -> Sizes:
    x = given[0]
    first = 1 if op_spec(record.op).kind == "module" else 0
    start = record.attrs.get("start_dim", first) % len(x)
    end = record.attrs.get("end_dim", -1) % len(x)
    return (*x[:start], _NONE.union(*x[start : end + 1]), *x[end + 1 :])


def _permute(record: NodeRecord, given: list[Sizes]) -> Sizes:
    return tuple(given[0][d] for d in record.attrs["dims"])


def _transpose(record: NodeRecord, given: list[Sizes]) -> Sizes:
    made = list(given[0])
    a, b = (record.attrs[name] for name in ("dim0", "dim1"))
    made[a], made[b] = made[b], made[a]
    return tuple(made)


def _turned(_: NodeRecord, given: list[Sizes]) -> Sizes:
    return given[0][::-1]


def _unsqueeze(record: NodeRecord, given: list[Sizes]) -> Sizes:
    dim = record.attrs["dim"] % (len(given[0]) + 1)
    return (*given[0][:dim], _NONE, *given[0][dim:])


def _expand(record: NodeRecord, given: list[Sizes]) -> Sizes | None:
    wanted = record.attrs["size"]
    if not isinstance(wanted, tuple):
        return None
    before = (_NONE,) * (len(wanted) - len(given[0])) + given[0]
    return tuple(a if n == -1 else _NONE for a, n in zip(before, wanted, strict=True))


def _repeat(record: NodeRecord, given: list[Sizes]) -> Sizes | None:
    times = record.attrs.get("repeats", record.attrs.get("dims"))
    if not isinstance(times, tuple) or len(times) < len(given[0]):
        return None
    return (_NONE,) * (len(times) - len(given[0])) + given[0]


def _dims(record: NodeRecord, rank: int) -> frozenset[int]:
    named = record.attrs.get("dim")
    if named is None:
        return frozenset(range(rank))
    return frozenset(d % rank for d in (named if isinstance(named, tuple) else (named,)))


def _reduced(record: NodeRecord, given: list[Sizes]) -> Sizes | None:
    if len(given) > 1:
        return None
    gone = _dims(record, len(given[0]))
    if record.attrs.get("keepdim"):
        return tuple(_NONE if d in gone else a for d, a in enumerate(given[0]))
    return tuple(a for d, a in enumerate(given[0]) if d not in gone)


def _joined(record: NodeRecord, given: list[Sizes]) -> Sizes | None:
    if len({len(sizes) for sizes in given}) > 1:
        return None
    dim = record.attrs.get("dim", 0) % len(given[0])
    columns = list(zip(*given, strict=True))
    # Elsewhere all have the same size: that of one which has it by itself.
    return tuple(
        _NONE.union(*column) if d == dim or all(column) else _NONE
        for d, column in enumerate(columns)
    )


def _stacked(record: NodeRecord, given: list[Sizes]) -> Sizes:
    dim = record.attrs.get("dim", 0) % (len(given[0]) + 1)
    made = [_NONE.union(*column) if all(column) else _NONE for column in zip(*given, strict=True)]
    return (*made[:dim], _NONE, *made[dim:])


def _unbound(record: NodeRecord, given: list[Sizes]) -> Sizes:
    gone = record.attrs.get("dim", 0) % len(given[0])
    return tuple(a for d, a in enumerate(given[0]) if d != gone)


def _cut(record: NodeRecord, given: list[Sizes]) -> Sizes:
    """A part of one dimension, whose length the call says."""
    dim = record.attrs.get("dim", -1) % len(given[0])
    return tuple(_NONE if d == dim else a for d, a in enumerate(given[0]))


def _item(record: NodeRecord, given: list[Sizes]) -> Sizes | None:
    index = record.attrs["index"]
    parts = list(index) if type(index) is tuple else [index]
    if any(isinstance(leaf, Operand | bool) for part in parts for leaf in leaves(part)):
        return None
    if any(isinstance(part, tuple) for part in parts):
        return None
    taken = sum(part is not None and part is not Ellipsis for part in parts)
    if Ellipsis not in parts:
        parts.append(Ellipsis)
    left, made = list(given[0]), []
    for part in parts:
        if part is None:
            made.append(_NONE)
        elif part is Ellipsis:
            made += left[: len(given[0]) - taken]
            del left[: len(given[0]) - taken]
        elif isinstance(part, slice):
            made.append(left.pop(0))
        else:
            left.pop(0)
    return tuple(made)


def _resized(record: NodeRecord, given: list[Sizes]) -> Sizes:
    spatial = len(given[0]) - 2
    if record.attrs.get("size") is None:
        return given[0]
    return (*given[0][:2], *(_NONE,) * spatial)


def _summed(record: NodeRecord, given: list[Sizes]) -> Sizes | None:
    """``einsum``."""
    sides = str(record.attrs["equation"]).replace(" ", "").split("->")
    if len(sides) != 2 or "." in sides[0]:
        return None
    letters: dict[str, Origins] = {}
    for names, sizes in zip(sides[0].split(","), given, strict=True):
        for letter, origins in zip(names, sizes, strict=True):
            letters[letter] = letters.get(letter, _NONE) | origins
    return tuple(letters[letter] for letter in sides[1])


# Several results, all alike.
_ALIKE = frozenset({"chunk", "split", "tensor_split", "unbind", "topk", "sort"})
# Ops whose number of results follows a size: Python sees how many there are.
COUNTED = frozenset({"chunk", "split", "unbind"})

_RULES: Mapping[str, Rule] = MappingProxyType(
    {
        "where": _broadcast,
        **dict.fromkeys(("Linear", "linear"), _linear),
        **dict.fromkeys(("Embedding", "embedding"), _embedding),
        **dict.fromkeys(("LSTM", "GRU", "RNN"), _recurrent),
        **dict.fromkeys(("matmul", "bmm", "mm"), _matmul),
        "scaled_dot_product_attention": _attention,
        **dict.fromkeys(("view", "reshape"), _viewed),
        **dict.fromkeys(
            ("view_as", "reshape_as", "expand_as", "gather"), lambda _, given: given[1]
        ),
        **dict.fromkeys(("flatten", "Flatten"), _flatten),
        "permute": _permute,
        "transpose": _transpose,
        "t": _turned,
        "unsqueeze": _unsqueeze,
        **dict.fromkeys(("expand", "broadcast_to"), _expand),
        **dict.fromkeys(("repeat", "tile"), _repeat),
        "cat": _joined,
        "stack": _stacked,
        **dict.fromkeys(("unbind", "select"), _unbound),
        **dict.fromkeys(("narrow", "topk"), _cut),
        "getitem": _item,
        **dict.fromkeys(
            ("interpolate", "Upsample", "UpsamplingNearest2d", "UpsamplingBilinear2d"), _resized
        ),
        "einsum": _summed,
        **dict.fromkeys(
            ("new_zeros", "new_ones", "new_empty", "new_full"),
            lambda record, _: (_NONE,) * len(record.types[0].shape),
        ),
    }
)
_CONVOLUTION = re.compile(r"[Cc]onv(?P<transposed>Transpose|_transpose)?(?P<dims>[123])d\Z")
_POOL = re.compile(r"(?:LP|lp_|Max|max_|Avg|avg_)[Pp]ool[123]d\Z")
_ADAPTIVE = re.compile(r"[Aa]daptive_?(?:Max|max|Avg|avg)_?[Pp]ool(?P<dims>[123])d\Z")
# Ops whose result is of the size of their first operand, ...
_KEEPING = re.compile(
    r"(?:(?:Batch|Instance|Group|Layer|RMS|LocalResponse)Norm(?:[123]d)?"
    r"|(?:batch|instance|group|layer|rms|local_response)_norm"
    r"|\w*[Dd]ropout(?:[123]d)?|(?:Zero|Constant|Reflection|Replication|Circular)Pad[123]d|pad"
    r"|contiguous|clone|detach|to|type|type_as|roll|flip|cumsum|cumprod|tril|triu|copy|fill"
    r"|(?:zeros|ones|empty|full|rand|randn)_like|bernoulli|uniform|PReLU|prelu|GLU|glu"
    r"|(?:Log)?Soft(?:max|min)(?:2d)?|(?:log_)?soft(?:max|min)|normalize|MultiheadAttention"
    r"|(?:Pixel|Channel)(?:Uns|S)huffle|(?:pixel|channel)_(?:un)?shuffle|setitem|masked_fill"
    r"|masked_scatter|index_(?:fill|add|copy)|(?:slice_|select_)?scatter|scatter_add"
    r"|chunk|split|tensor_split|sort|argsort)\Z"
)
# ... and those that drop dimensions.
_REDUCING = re.compile(
    r"(?:(?:nan)?(?:sum|mean)|prod|a?max|a?min|argmax|argmin|all|any|logsumexp|(?:vector_)?norm"
    r"|var|std|squeeze)\Z"
)


def _rule(op: str) -> Rule | None:
    found = _RULES.get(op)
    if found is not None:
        return found
    if op_spec(op).elementwise:
        return _broadcast
    if _KEEPING.match(op) or _POOL.match(op):
        return _same
    if _REDUCING.match(op):
        return _reduced
    if (match := _CONVOLUTION.match(op)) is not None:
        return _convolution(int(match["dims"]), transposed=match["transposed"] is not None)
    if (match := _ADAPTIVE.match(op)) is not None:
        return _adaptive(int(match["dims"]))
    return None
