"""SNIP."""

from __future__ import annotations

from typing import ClassVar

from retiarii.proxies.base import Pass, Proxy, is_weight, loss_of


class Snip(Proxy):
    """How much the loss would change if weights were taken away.

    The sum over weights of ``|w * dL/dw|``, for the loss L of one batch.

    Lee, Ajanthan and Torr, "SNIP: single-shot network pruning based on connection sensitivity"
    (ICLR 2019); as a proxy: Abdelfattah et al. (ICLR 2021).
    """

    name: ClassVar[str] = "snip"
    labelled: ClassVar[bool] = True

    def scores(self, run: Pass) -> list[float]:
        loss = loss_of(run.forward(run.sample), run.sample)
        return [
            sum(
                float((w.value * w.gradient).abs().sum())
                for w in own.values()
                if is_weight(w.value)
            )
            for own in run.gradients(loss)
        ]
