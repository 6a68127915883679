"""The norm of the first gradient."""

from __future__ import annotations

from typing import ClassVar

from retiarii.proxies.base import Pass, Proxy, is_weight, loss_of


class GradNorm(Proxy):
    """How steep the loss of one batch is.

    The sum over weights (each a tensor) of the Euclidean norm of ``dL/dw``.

    Abdelfattah, Mehrotra, Dudziak and Lane, "Zero-cost proxies for lightweight NAS" (ICLR 2021).
    """

    name: ClassVar[str] = "grad_norm"
    labelled: ClassVar[bool] = True

    def scores(self, run: Pass) -> list[float]:
        loss = loss_of(run.forward(run.sample), run.sample)
        return [
            sum(float(w.gradient.norm()) for w in own.values() if is_weight(w.value))
            for own in run.gradients(loss)
        ]
