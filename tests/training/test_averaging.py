"""The average of one model's weights against torch's."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from retiarii.training.averaging import Average


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.99])
def test_it_equals_torchs(toys, decay):
    model = toys.convnet()
    theirs = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay))
    ours = Average(list(model.parameters()), decay)
    for seed in range(5):
        torch.manual_seed(seed)
        with torch.no_grad():
            for p in model.parameters():
                p.add_(torch.randn_like(p))
        model(torch.randn(4, 1, 4, 4))
        ours.update()
        theirs.update_parameters(model)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with ours.applied():
        for name, value in theirs.module.state_dict().items():
            assert torch.equal(model.state_dict()[name], value), name
        assert decay == 0 or not torch.equal(model[0].weight, before["0.weight"])
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_the_weights_come_back_after_an_error():
    param = nn.Parameter(torch.zeros(2))
    average = Average([param], 0.5)
    average.update()
    param.data.fill_(2.0)
    average.update()

    def fail():
        with average.applied():
            assert param.tolist() == [1.0, 1.0]
            raise RuntimeError("in validation")

    with pytest.raises(RuntimeError):
        fail()
    assert param.tolist() == [2.0, 2.0]


def test_it_goes_on_from_where_it_was():
    param = nn.Parameter(torch.zeros(2))
    whole = Average([param], 0.5)
    for value in (1.0, 2.0):
        param.data.fill_(value)
        whole.update()
    again = Average([param], 0.5)
    again.restore({k: v.clone() for k, v in whole.tensors().items()}, whole.count)
    param.data.fill_(5.0)
    for average in (whole, again):
        average.update()
    assert torch.equal(whole.tensors()["average.0"], again.tensors()["average.0"])
    assert again.count == 3
    with pytest.raises(KeyError):
        again.restore({}, 1)
