"""Recurrent layers of many members."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from retiarii.optimizer.kernels.cells import GruScan, LstmScan, RnnScan
from retiarii.optimizer.kernels.linear import cast_for_product, linear


class Weights(NamedTuple):
    """Parameters of one layer in one direction, for K gates: names as in torch.

    Attributes:
        ih: ``[G, K * H, in]``.
        hh: ``[G, K * H, H]``.
        bias_ih: ``[G, K * H]``.
        bias_hh: ``[G, K * H]``.
        hr: the projection of an LSTM's hidden state, ``[G, P, H]``.
    """

    ih: Tensor
    hh: Tensor
    bias_ih: Tensor | None = None
    bias_hh: Tensor | None = None
    hr: Tensor | None = None


# From what the input adds to the gates, the first states and the weights to all hidden states
# and the last of the others.
_Scan = Callable[[Tensor, Sequence[Tensor], Weights, int], tuple[Tensor, ...]]


def _rnn(relu: bool) -> _Scan:
    def scan(
        pre: Tensor, states: Sequence[Tensor], weights: Weights, time: int
    ) -> tuple[Tensor, ...]:
        return (RnnScan.apply(pre, *states, weights.hh, relu, time),)  # type: ignore[no-untyped-call]

    return scan


def _gru(pre: Tensor, states: Sequence[Tensor], weights: Weights, time: int) -> tuple[Tensor, ...]:
    return (GruScan.apply(pre, *states, weights.hh, weights.bias_hh, time),)  # type: ignore[no-untyped-call]


def _lstm(pre: Tensor, states: Sequence[Tensor], weights: Weights, time: int) -> tuple[Tensor, ...]:
    made: tuple[Tensor, Tensor] = LstmScan.apply(pre, *states, weights.hh, weights.hr, time)  # type: ignore[no-untyped-call]
    return made


def rnn(
    x: Tensor,
    layers: Sequence[Sequence[Weights]],
    hx: Tensor | None = None,
    *,
    relu: bool = False,
    batch_first: bool = False,
) -> tuple[Tensor, Tensor]:
    """Each member's `torch.nn.RNN`.

    Args:
        x: ``[G, T, B, in]``; ``[G, B, T, in]`` where ``batch_first``; ``[G, T, in]``.
        layers: the weights, layer by layer, of one direction or of two.
        hx: the first states, ``[G, layers * directions, B, H]``, without ``B`` where x has none;
            zeros by default.
        relu: instead of tanh.
        batch_first: the order of the first two dimensions of a member.

    Returns:
        The hidden states of the last layer in the layout of ``x``, and the last ones of each layer
        in that of ``hx``.
    """
    out, hidden = _run(_rnn(relu), x, layers, [hx], batch_first)
    return out, hidden


def gru(
    x: Tensor,
    layers: Sequence[Sequence[Weights]],
    hx: Tensor | None = None,
    *,
    batch_first: bool = False,
) -> tuple[Tensor, Tensor]:
    """Each member's `torch.nn.GRU`; see `rnn`."""
    out, hidden = _run(_gru, x, layers, [hx], batch_first)
    return out, hidden


def lstm(
    x: Tensor,
    layers: Sequence[Sequence[Weights]],
    hx: tuple[Tensor, Tensor] | None = None,
    *,
    batch_first: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Each member's `torch.nn.LSTM`; see `rnn`. The cells' last states are the third result."""
    out, hidden, cells = _run(_lstm, x, layers, hx or (None, None), batch_first)
    return out, hidden, cells


def rnn_cell(
    x: Tensor, weights: Weights, hx: Tensor | None = None, *, relu: bool = False
) -> Tensor:
    """Each member's `torch.nn.RNNCell` on ``x [G, B, in]`` or ``[G, in]``."""
    return rnn(x.unsqueeze(1), [[weights]], _once(hx), relu=relu)[0].squeeze(1)


def gru_cell(x: Tensor, weights: Weights, hx: Tensor | None = None) -> Tensor:
    """Each member's `torch.nn.GRUCell` on ``x [G, B, in]`` or ``[G, in]``."""
    return gru(x.unsqueeze(1), [[weights]], _once(hx))[0].squeeze(1)


def lstm_cell(
    x: Tensor, weights: Weights, hx: tuple[Tensor, Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """Each member's `torch.nn.LSTMCell` on ``x [G, B, in]`` or ``[G, in]``."""
    states = None if hx is None else (hx[0].unsqueeze(1), hx[1].unsqueeze(1))
    out, _, cells = lstm(x.unsqueeze(1), [[weights]], states)
    return out.squeeze(1), cells.squeeze(1)


def _once(state: Tensor | None) -> Tensor | None:
    return None if state is None else state.unsqueeze(1)


def _run(
    scan: _Scan,
    x: Tensor,
    layers: Sequence[Sequence[Weights]],
    first: Sequence[Tensor | None],
    batch_first: bool,
) -> tuple[Tensor, ...]:
    batched = x.ndim == 4
    if not batched:
        x = x.unsqueeze(2)
        first = [None if state is None else state.unsqueeze(2) for state in first]
    time = 2 if batch_first and batched else 1
    last: list[list[Tensor]] = [[] for _ in first]
    for number, directions in enumerate(layers):
        count = len(directions)
        places = range(number * count, number * count + count)
        begun = [None if s is None else torch.cat([s[:, i] for i in places]) for s in first]
        x, ended = _layer(scan, x, directions, begun, time)
        for found, states in zip(last, ended, strict=True):
            found.extend(states.chunk(count))
    stacked = [torch.stack(states, 1) for states in last]
    if batched:
        return x, *stacked
    return x.squeeze(2), *(t.squeeze(2) for t in stacked)


def _layer(
    scan: _Scan,
    x: Tensor,
    directions: Sequence[Weights],
    begun: Sequence[Tensor | None],
    time: int,
) -> tuple[Tensor, list[Tensor]]:
    """Both directions at once: the second is that of more members, on the time turned round."""
    folds = scan is not _gru
    pre = [linear(x, w.ih, _bias(w, folds)) for w in directions]
    if len(directions) == 2:
        pre[1] = pre[1].flip(time)
    gates = pre[0] if len(pre) == 1 else torch.cat(pre)
    weights = Weights(*(_together(tensors) for tensors in zip(*directions, strict=True)))  # type: ignore[arg-type]
    rows = (gates.shape[0], gates.shape[3 - time])
    width = weights.hh.shape[-1]
    widths = (width, width if weights.hr is None else weights.hr.shape[-1])
    states = [
        gates.new_zeros(*rows, width) if state is None else state.to(gates.dtype)
        for state, width in zip(begun, widths, strict=False)
    ]
    out, *others = scan(gates, states, weights, time)
    ended = [out.select(time, -1), *others]
    if len(directions) == 2:
        ahead, back = out.chunk(2)
        out = torch.cat([ahead, back.flip(time)], -1)
    return out, ended


def _bias(weights: Weights, folds: bool) -> Tensor | None:
    """What is added to the gates at each step; a GRU adds the second bias elsewhere."""
    if weights.bias_ih is None or weights.bias_hh is None or not folds:
        return weights.bias_ih
    return weights.bias_ih + weights.bias_hh


def _together(tensors: Sequence[Tensor | None]) -> Tensor | None:
    """One parameter of all directions, as products take it."""
    found = cast_for_product(*(t for t in tensors if t is not None))
    if not found:
        return None
    return found[0] if len(found) == 1 else torch.cat(found)
