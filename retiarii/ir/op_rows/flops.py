"""Floating point operations of one call: two for each multiply-accumulate, as torch counts them.

Elementwise work, pooling and normalisation count nothing, as in ``torch.utils.flop_counter``.
"""

from __future__ import annotations

from collections import Counter
from math import isqrt, prod

from retiarii.ir.types import Attrs, TensorType

Types = tuple[TensorType, ...]


def conv_layer(attrs: Attrs, _inputs: Types, outputs: Types) -> int:
    kernel = _kernel(attrs, len(outputs[0].shape))
    width: int = attrs["in_channels"] // attrs["groups"]
    return 2 * prod(outputs[0].shape) * width * kernel


def conv_transpose_layer(attrs: Attrs, inputs: Types, _outputs: Types) -> int:
    kernel = _kernel(attrs, len(inputs[0].shape))
    width: int = attrs["out_channels"] // attrs["groups"]
    return 2 * prod(inputs[0].shape) * width * kernel


def _kernel(attrs: Attrs, rank: int) -> int:
    size = attrs["kernel_size"]
    return prod(size) if isinstance(size, tuple) else int(size ** max(rank - 2, 1))


def conv(_attrs: Attrs, inputs: Types, outputs: Types) -> int:
    return 2 * prod(outputs[0].shape) * prod(inputs[1].shape[1:])


def conv_transpose(_attrs: Attrs, inputs: Types, _outputs: Types) -> int:
    return 2 * prod(inputs[0].shape) * prod(inputs[1].shape[1:])


def matmul(_attrs: Attrs, inputs: Types, outputs: Types) -> int:
    """``linear`` too: the contracted width is the last of the first input."""
    return 2 * prod(outputs[0].shape) * inputs[0].shape[-1]


def added_matmul(_attrs: Attrs, inputs: Types, outputs: Types) -> int:
    """``addmm`` and its like: the product is of the second and third input."""
    return 2 * prod(outputs[0].shape) * inputs[1].shape[-1]


def addbmm(_attrs: Attrs, inputs: Types, outputs: Types) -> int:
    return 2 * prod(outputs[0].shape) * inputs[1].shape[-1] * inputs[1].shape[0]


def bilinear(_attrs: Attrs, inputs: Types, outputs: Types) -> int:
    return 2 * prod(outputs[0].shape) * inputs[0].shape[-1] * inputs[1].shape[-1]


def tensordot(_attrs: Attrs, inputs: Types, outputs: Types) -> int:
    first, second, out = (prod(t.shape) for t in (inputs[0], inputs[1], outputs[0]))
    # first = kept1 * c, second = kept2 * c, out = kept1 * kept2.
    return 2 * out * isqrt(first * second // out) if out else 0


def einsum(attrs: Attrs, inputs: Types, _outputs: Types) -> int:
    """Pair by pair from the left; a single operand multiplies nothing."""
    written, arrow, wanted = str(attrs["equation"]).replace(" ", "").partition("->")
    names = [
        _without_dots(name, len(kind.shape))
        for name, kind in zip(written.split(","), inputs, strict=True)
    ]
    letters = Counter("".join(names))
    if arrow:
        kept = set(_without_dots(wanted, _MOST_DOTS))
    else:
        kept = {letter for letter, times in letters.items() if times == 1 or letter.isdigit()}
    sizes: dict[str, int] = {}
    for name, kind in zip(names, inputs, strict=True):
        for letter, size in zip(name, kind.shape, strict=True):
            sizes[letter] = max(size, sizes.get(letter, 1))
    total = 0
    held = set(names[0])
    for i, name in enumerate(names[1:], start=1):
        both = held | set(name)
        later = kept.union(*names[i + 1 :])
        # What only one of the two has, and nobody asks for later, is summed before.
        product = (held & set(name)) | (both & later)
        total += 2 * prod(sizes[letter] for letter in product)
        held = both & later
    return total


_MOST_DOTS = 10


def _without_dots(name: str, rank: int) -> str:
    """A term with digits, counted from the right, for the dimensions that ``...`` stands for."""
    if "..." not in name:
        return name
    number = min(rank - len(name) + 3, _MOST_DOTS)
    return name.replace("...", "".join(str(i) for i in reversed(range(number))))


def attention(_attrs: Attrs, inputs: Types, _outputs: Types) -> int:
    query, key, value = (t.shape for t in inputs[:3])
    return 2 * prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


def attention_layer(attrs: Attrs, inputs: Types, _outputs: Types) -> int:
    query, key = inputs[0].shape, inputs[1].shape
    embed: int = attrs["embed_dim"]
    time = 1 if attrs["batch_first"] and len(query) == 3 else 0
    batch = query[1 - time] if len(query) == 3 else 1
    target, source = query[time], key[time]
    attended = source + bool(attrs.get("add_bias_kv")) + bool(attrs.get("add_zero_attn"))
    inner: int = 2 * target * embed + source * (attrs["kdim"] + attrs["vdim"])
    return 2 * batch * embed * (inner + 2 * target * attended)


def recurrent(gates: int, attrs: Attrs, inputs: Types) -> int:
    steps = prod(inputs[0].shape[:-1])
    hidden: int = attrs["hidden_size"]
    projected: int = attrs.get("proj_size", 0)
    state = projected or hidden
    ways = 2 if attrs["bidirectional"] else 1
    total = 0
    width: int = attrs["input_size"]
    for _ in range(attrs["num_layers"]):
        total += ways * (gates * hidden * (width + state) + hidden * projected)
        width = ways * state
    return 2 * steps * total


def rnn(attrs: Attrs, inputs: Types, _outputs: Types) -> int:
    return recurrent(1, attrs, inputs)


def gru(attrs: Attrs, inputs: Types, _outputs: Types) -> int:
    return recurrent(3, attrs, inputs)


def lstm(attrs: Attrs, inputs: Types, _outputs: Types) -> int:
    return recurrent(4, attrs, inputs)


def cell(gates: int, attrs: Attrs, inputs: Types) -> int:
    batch = prod(inputs[0].shape[:-1])
    hidden: int = attrs["hidden_size"]
    width: int = attrs["input_size"]
    return 2 * batch * gates * hidden * (width + hidden)


def rnn_cell(attrs: Attrs, inputs: Types, _outputs: Types) -> int:
    return cell(1, attrs, inputs)


def gru_cell(attrs: Attrs, inputs: Types, _outputs: Types) -> int:
    return cell(3, attrs, inputs)


def lstm_cell(attrs: Attrs, inputs: Types, _outputs: Types) -> int:
    return cell(4, attrs, inputs)
