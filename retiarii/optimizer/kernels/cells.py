"""Recurrences over time of stacked members, with their own derivatives.

Autograd would run each step's derivative by itself and add up a gradient of the weights at each.
Here a step's derivative is a handful of calls into buffers made once, and the weights' is one
product at the end.

Throughout, ``pre [G, T, B, K]`` (or ``[G, B, T, K]``, then ``time`` is 2) is what the input adds to
the K gates, states are ``[G, B, H]``, and weights ``[G, K, H]``. Derivatives are of first order.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_Gradients = tuple[Tensor | None, ...]
_sigmoid_backward = torch.ops.aten.sigmoid_backward
_tanh_backward = torch.ops.aten.tanh_backward
_threshold_backward = torch.ops.aten.threshold_backward


def _states(pre: Tensor, first: Tensor, time: int) -> Tensor:
    """Room for the states before, between and after the steps, laid out as ``pre`` is."""
    shape = [*pre.shape[:-1], first.shape[-1]]
    shape[time] += 1
    made = first.new_empty(shape)
    made.select(time, 0).copy_(first)
    return made


def _steps(pre: Tensor, width: int, time: int) -> Tensor:
    """Room for something of each step: ``[T, G, B, width]``."""
    return pre.new_empty(pre.shape[time], pre.shape[0], pre.shape[3 - time], width)


def _before(states: Tensor, time: int) -> Tensor:
    return states.narrow(time, 0, states.shape[time] - 1)


def _after(states: Tensor, time: int) -> Tensor:
    return states.narrow(time, 1, states.shape[time] - 1)


def _weight_gradient(gates: Tensor, states: Tensor) -> Tensor:
    """The sum over steps and samples of ``gates * states``, for each pair of one of both."""
    return torch.bmm(gates.flatten(1, 2).mT, states.flatten(1, 2))


class RnnScan(torch.autograd.Function):
    """``h = tanh(pre + W h)``, or relu."""

    @staticmethod
    def forward(ctx: Any, pre: Tensor, h: Tensor, w: Tensor, relu: bool, time: int) -> Tensor:
        states = _states(pre, h, time)
        squash = torch.relu if relu else torch.tanh
        hidden = states.unbind(time)
        for t, step in enumerate(pre.unbind(time)):
            hidden[t + 1].copy_(squash(torch.baddbmm(step, hidden[t], w.mT)))
        ctx.relu, ctx.time = relu, time
        ctx.save_for_backward(w, states)
        return _after(states, time)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> _Gradients:
        w, states = ctx.saved_tensors
        to_pre = torch.empty_like(_before(states, ctx.time), memory_format=torch.contiguous_format)
        got, hidden, made = (t.unbind(ctx.time) for t in (grad, states, to_pre))
        dh = got[-1]
        for t in reversed(range(len(got))):
            if ctx.relu:
                _threshold_backward(dh, hidden[t + 1], 0, grad_input=made[t])
            else:
                _tanh_backward(dh, hidden[t + 1], grad_input=made[t])
            dh = torch.baddbmm(got[t - 1], made[t], w) if t else torch.bmm(made[t], w)
        dw = None
        if ctx.needs_input_grad[2]:
            dw = _weight_gradient(to_pre, _before(states, ctx.time))
        return to_pre, dh, dw, None, None


class GruScan(torch.autograd.Function):
    """``h = n + z (h - n)`` with the gates r, z and ``n = tanh(pre + r (W h + b))``."""

    @staticmethod
    def forward(ctx: Any, pre: Tensor, h: Tensor, w: Tensor, b: Tensor | None, time: int) -> Tensor:
        width = h.shape[-1]
        states = _states(pre, h, time)
        hidden = states.unbind(time)
        # The gates r and z, what r multiplies, and n.
        kept = _steps(pre, 4 * width, time)
        for t, (step, row) in enumerate(zip(pre.unbind(time), kept.unbind(), strict=True)):
            r, z, hn, n = row.chunk(4, -1)
            h = hidden[t]
            inner = torch.bmm(h, w.mT) if b is None else torch.baddbmm(b.unsqueeze(1), h, w.mT)
            torch.add(inner[..., : 2 * width], step[..., : 2 * width], out=row[..., : 2 * width])
            row[..., : 2 * width].sigmoid_()
            hn.copy_(inner[..., 2 * width :])
            torch.addcmul(step[..., 2 * width :], r, hn, out=n).tanh_()
            torch.addcmul(n, z, h - n, out=hidden[t + 1])
        ctx.time = time
        ctx.save_for_backward(w, states, kept)
        return _after(states, time)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> _Gradients:
        w, states, kept = ctx.saved_tensors
        time, width = ctx.time, states.shape[-1]
        shape = (*grad.shape[:-1], 3 * width)
        to_pre, to_inner = grad.new_empty(shape), grad.new_empty(shape)
        got, hidden, outward, inward = (t.unbind(time) for t in (grad, states, to_pre, to_inner))
        dh = got[-1]
        for t in reversed(range(len(got))):
            r, z, hn, n = kept[t].chunk(4, -1)
            dr, dz, dn = outward[t].chunk(3, -1)
            keep = dh * z
            _tanh_backward(dh - keep, n, grad_input=dn)
            _sigmoid_backward(dn * hn, r, grad_input=dr)
            _sigmoid_backward(dh * (hidden[t] - n), z, grad_input=dz)
            inward[t].copy_(outward[t])
            inward[t][..., 2 * width :].mul_(r)
            dh = keep.baddbmm_(inward[t], w)
            if t:
                dh += got[t - 1]
        _, _, to_w, to_b, _ = ctx.needs_input_grad
        dw = _weight_gradient(to_inner, _before(states, time)) if to_w else None
        return to_pre, dh, dw, to_inner.sum((1, 2)) if to_b else None, None


class LstmScan(torch.autograd.Function):
    """``c = f c + i g``, ``h = o tanh(c)``, then ``h = P h`` where there is a projection."""

    @staticmethod
    def forward(
        ctx: Any, pre: Tensor, h: Tensor, c: Tensor, w: Tensor, p: Tensor | None, time: int
    ) -> tuple[Tensor, Tensor]:
        width, count = c.shape[-1], pre.shape[time]
        states = _states(pre, h, time)
        hidden = states.unbind(time)
        cells = c.new_empty(count + 1, *c.shape)
        cells[0] = c
        kept, squashed = _steps(pre, 4 * width, time), _steps(pre, width, time)
        # What is projected is kept for the gradient of the projection.
        full = pre.new_empty(*pre.shape[:-1], width) if p is not None else None
        for t, step in enumerate(pre.unbind(time)):
            gates = torch.baddbmm(step, hidden[t], w.mT, out=kept[t])
            i, f, g, o = gates.chunk(4, -1)
            gates[..., : 2 * width].sigmoid_()
            g.tanh_()
            o.sigmoid_()
            torch.mul(f, cells[t], out=cells[t + 1]).addcmul_(i, g)
            torch.tanh(cells[t + 1], out=squashed[t])
            if p is None or full is None:
                torch.mul(o, squashed[t], out=hidden[t + 1])
            else:
                made = torch.mul(o, squashed[t], out=full.select(time, t))
                hidden[t + 1].copy_(torch.bmm(made, p.mT))
        ctx.time = time
        ctx.save_for_backward(w, p, states, cells, kept, squashed, full)
        return _after(states, time), cells[-1].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, to_cells: Tensor) -> _Gradients:
        w, p, states, cells, kept, squashed, full = ctx.saved_tensors
        time, width = ctx.time, cells.shape[-1]
        to_pre = grad.new_empty(*grad.shape[:-1], 4 * width)
        to_hidden = None if p is None else grad.new_empty(grad.shape)
        got, made = grad.unbind(time), to_pre.unbind(time)
        dh, dc = got[-1], to_cells.clone()
        for t in reversed(range(len(got))):
            i, f, g, o = kept[t].chunk(4, -1)
            di, df, dg, do = made[t].chunk(4, -1)
            if to_hidden is not None:
                to_hidden.select(time, t).copy_(dh)
                dh = torch.bmm(dh, p)
            dc += _tanh_backward(dh * o, squashed[t])
            _sigmoid_backward(dc * g, i, grad_input=di)
            _sigmoid_backward(dc * cells[t], f, grad_input=df)
            _tanh_backward(dc * i, g, grad_input=dg)
            _sigmoid_backward(dh * squashed[t], o, grad_input=do)
            dc *= f
            dh = torch.baddbmm(got[t - 1], made[t], w) if t else torch.bmm(made[t], w)
        _, _, _, to_w, to_p, _ = ctx.needs_input_grad
        dw = _weight_gradient(to_pre, _before(states, time)) if to_w else None
        dp = _weight_gradient(to_hidden, full) if to_p and to_hidden is not None else None
        return to_pre, dh, dc, dw, dp, None
