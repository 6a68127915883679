"""Odd models and odd use: right, or refused with the reason; never silently different."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from retiarii.errors import MergeError, ParseError
from retiarii.ir.parse import parse
from retiarii.optimizer.merge import merge as merge_where_it_pays
from retiarii.testing.merging import check_merged, mixed_loss, tensors, train_alone, train_merged

merge = partial(merge_where_it_pays, fuse="on")  # whatever the machine's measurements say
X = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def net(width: int = 5, seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = nn.Sequential(nn.Linear(3, width), nn.Tanh(), nn.Linear(width, 2))
    return made.double()


def normed(seed: int = 0, channels: int = 3) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = nn.Sequential(
            nn.Linear(3, channels), nn.BatchNorm1d(channels), nn.ReLU(), nn.Linear(channels, 2)
        )
    return made.double()


# --- refused, with the reason ---------------------------------------------------------------------


def test_no_models() -> None:
    with pytest.raises(MergeError, match="0 models"):
        merge([], X)


def test_modules_without_example_inputs() -> None:
    with pytest.raises(MergeError, match="no example inputs"):
        merge([net()])


def test_something_else_than_a_model() -> None:
    with pytest.raises(MergeError, match="model 1 is a str"):
        merge([net(), "resnet18"], X)


def test_a_module_where_a_list_of_them_is_meant() -> None:
    with pytest.raises(MergeError, match=r"one Sequential, not a list.*(?s:.*)fix: .*\[model\]"):
        merge(net(), X)


def test_a_model_that_does_not_run_is_named() -> None:
    with pytest.raises(ParseError, match=r"at: model 1, "):
        merge([net(), nn.Linear(5, 2)], X)


def test_one_module_twice() -> None:
    model = net()
    with pytest.raises(MergeError, match="train one parameter together"):
        merge([model, model], X)


def test_a_trainable_layer_in_two_models() -> None:
    a, b = net(), net(seed=1)
    b[0] = a[0]
    with pytest.raises(MergeError, match=r"models 0 and 1 .*'0\.weight'") as caught:
        merge([a, b], X)
    assert "deepcopy" in str(caught.value)


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2).double()

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.layer(x + y)


def test_different_arguments() -> None:
    with pytest.raises(MergeError, match="take different inputs"):
        merge([parse(net(), X), parse(TwoInputs(), (X, X))])


def test_different_input_shapes() -> None:
    wide = nn.Linear(7, 2).double()
    graphs = [parse(net(), X), parse(wide, torch.zeros(4, 7, dtype=torch.float64))]
    with pytest.raises(
        MergeError, match=r"models 0 and 1 take different inputs.*\[4, 3\].*\[4, 7\]"
    ):
        merge(graphs)


def test_different_input_dtypes() -> None:
    graphs = [parse(net(), X), parse(net().float(), X.float())]
    with pytest.raises(MergeError, match="take different inputs"):
        merge(graphs)


def test_different_devices() -> None:
    other = net().to("meta")
    with pytest.raises(MergeError, match=r"meta") as caught:
        merge([net(), other], X)
    assert "one device" in str(caught.value)


def test_hooks_on_parameters_are_refused() -> None:
    model = net()
    model[0].weight.register_hook(lambda grad: grad * 2)
    with pytest.raises(MergeError, match=r"'0\.weight' of model 1 has a hook"):
        merge([net(seed=1), model], X)


@pytest.mark.parametrize("inside", [True, False])
def test_modules_that_run_with_no_other_parameters_are_refused(inside: bool) -> None:
    parallel = nn.DataParallel(net())
    model = nn.Sequential(parallel) if inside else parallel
    with pytest.raises(MergeError, match="model 1 holds a DataParallel"):
        merge([net(seed=1), model], X)


def test_a_wrong_number_of_seeds() -> None:
    with pytest.raises(MergeError, match="1 seeds for 2 models"):
        merge([net(), net()], X, seeds=[1])
    with pytest.raises(MergeError, match="3 seeds for 2 models"):
        merge([net(), net()], X).seed([1, 2, 3])


def test_arguments_of_another_structure() -> None:
    merged = merge([net(), net(7)], X)
    with pytest.raises(MergeError, match="cannot be called so"):
        merged(X, X)
    with pytest.raises(MergeError, match="argument"):
        merged([X])


def test_inputs_of_another_number_of_dimensions() -> None:
    """Alone, a linear layer takes them; stacked, its members' dimension would be another."""
    merged = merge([net(), net(7)], X)
    with pytest.raises(MergeError, match=r"has shape \[4, 1, 3\], .* for 2 dim"):
        merged(X[:, None])
    with pytest.raises(MergeError, match=r"has shape \[3\], .* for 2 dim"):
        merged(X[0])


def test_state_of_another_model() -> None:
    merged = merge([net(), net(7)], X)
    with pytest.raises(MergeError, match="does not fit model 1"):
        merged.load_state_dict_of(1, net().state_dict())
    with pytest.raises(MergeError, match="no model 2"):
        merged.state_dict_of(2)


# --- right ----------------------------------------------------------------------------------------


def test_forward_hooks() -> None:
    model = net()
    model[0].register_forward_pre_hook(lambda module, args: (args[0] + 1,))
    model[0].register_forward_hook(lambda module, args, out: out * 2)
    check_merged([model, net(seed=1)], [(X,), (X,)])


def test_backward_hooks_on_modules() -> None:
    model = net()
    model[2].register_full_backward_hook(lambda module, grads, outs: (grads[0] * 2,))
    check_merged([model, net(seed=1)], [(X,), (X,)])


def test_one_model() -> None:
    check_merged([normed()], [(X,), (X[:3],)])


def test_copies_of_one_model() -> None:
    model = normed()
    check_merged([model, copy.deepcopy(model)], [(X,), (X,)])


def test_a_frozen_module_in_two_models() -> None:
    backbone = normed().requires_grad_(False)
    models = [nn.Sequential(backbone, nn.Linear(2, 2).double()) for _ in range(2)]
    merged = check_merged(models, [(X,), (X,)])
    assert merged.stats.shared >= 4


def test_a_frozen_layer_that_models_share_stays_frozen() -> None:
    stem = nn.Linear(4, 4).requires_grad_(False)
    models = [nn.Sequential(stem, nn.Linear(4, 2)) for _ in range(3)]
    merged = merge(models, torch.zeros(2, 4))
    merged.requires_grad_(True)
    with pytest.raises(MergeError, match=r"share '0\.weight'"):
        merged(torch.zeros(2, 4))


def test_layers_that_are_frozen_after_merging_stay_so_when_models_leave() -> None:
    merged = merge([net(5, 0), net(5, 1), net(6, 2)], X)
    first = next(iter(merged.parameters())).requires_grad_(False)
    left = merged.without([1])
    assert [p.requires_grad for p in left.parameters()].count(False) == 1
    assert next(iter(left.parameters())).shape[1:] == first.shape[1:]


def test_partly_frozen_layers() -> None:
    models = [normed(s) for s in range(3)]
    models[0][0].bias.requires_grad_(False)
    models[1][0].weight.requires_grad_(False)
    models[2][1].bias.requires_grad_(False)
    check_merged(models, [(X,), (X,), (X,)])


def test_parametrizations() -> None:
    models = [net(seed=s) for s in range(2)]
    for model in models:
        nn.utils.parametrizations.weight_norm(model[0])
    check_merged(models, [(X,), (X,)])


def test_a_parametrization_of_the_users_own() -> None:
    class Positive(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.exp()

    models = [net(seed=s) for s in range(2)]
    parametrize.register_parametrization(models[1][2], "weight", Positive())
    check_merged(models, [(X,), (X,)])


def test_modules_in_mixed_modes_keep_them_until_train_is_called() -> None:
    models = [normed(s) for s in range(2)]
    models[0][1].eval()
    models[1].train()
    merged = merge(models, X)
    for _ in range(2):
        outputs = merged(X)
        for model, got in zip(models, outputs, strict=True):
            torch.testing.assert_close(got, model(X), rtol=1e-10, atol=1e-10)
    for i, model in enumerate(models):
        for key, value in merged.state_dict_of(i).items():
            torch.testing.assert_close(value, model.state_dict()[key], rtol=1e-10, atol=1e-10)
    for module, model in zip(merged.unmerge(), models, strict=True):
        assert [m.training for m in module.modules()] == [m.training for m in model.modules()]
    merged.train()
    for model, got in zip(models, merged(X), strict=True):
        torch.testing.assert_close(got, model.train()(X), rtol=1e-10, atol=1e-10)


def test_models_in_evaluation_are_merged_so() -> None:
    models = [normed(s).eval() for s in range(2)]
    merged = merge(models, X)
    assert not merged.training
    for model, got in zip(models, merged(X), strict=True):
        torch.testing.assert_close(got, model(X), rtol=1e-10, atol=1e-10)
    merged.train()
    for model, got in zip(models, merged(X), strict=True):
        torch.testing.assert_close(got, model.train()(X), rtol=1e-10, atol=1e-10)


def test_second_order_gradients() -> None:
    models = [net(seed=s) for s in range(2)] + [net(7), Sliced()]
    merged = merge(models, X)
    x = X.clone().requires_grad_()

    def penalty(output: Tensor, inputs: Tensor) -> Tensor:
        (grad,) = torch.autograd.grad(mixed_loss(output), inputs, create_graph=True)
        return grad.square().sum()

    for i, (model, output) in enumerate(zip(models, merged(x), strict=True)):
        model.zero_grad()
        merged.zero_grad()
        penalty(output, x).backward(retain_graph=True)
        alone = X.clone().requires_grad_()
        penalty(model(alone), alone).backward()
        for key, parameter in model.named_parameters():
            number, member = merged.storage.places[i, key]
            grad = getattr(merged, merged.storage.stacks[number].name).grad[member]
            expected = torch.zeros_like(grad) if parameter.grad is None else parameter.grad
            torch.testing.assert_close(grad, expected, rtol=1e-9, atol=1e-9)


class Sliced(nn.Module):
    """Its branches make groups that read slices, and parts of slices."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Linear(3, 5).double()
        self.right = nn.Linear(3, 5).double()
        self.head = nn.Linear(5, 2).double()

    def forward(self, x: Tensor) -> Tensor:
        a, b = torch.tanh(self.left(x)), torch.tanh(self.right(x))
        return self.head(torch.relu(a + b) + a * b)


class NoGrad(nn.Module):
    def __init__(self, seed: int) -> None:
        super().__init__()
        self.body = net(seed=seed)
        self.head = nn.Linear(2, 2).double()

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            quiet = self.body(x).tanh()
        return self.head(quiet) + self.body(x).detach()


def test_no_grad_and_detach_inside_forward() -> None:
    merged = check_merged([NoGrad(s) for s in range(2)], [(X,), (X,)])
    assert merged.stats.fused


class Branches(nn.Module):
    """Cannot be traced: which way it goes depends on the data."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.a, self.b = net(seed=seed), net(seed=seed + 10)
        self.norm = nn.BatchNorm1d(2).double()

    def forward(self, x: Tensor) -> Tensor:
        chosen = self.a if float(x.detach().sum()) > 0 else self.b
        return self.norm(chosen(x))


@pytest.mark.parametrize("sign", [1, -1])
def test_opaque_modules(sign: int) -> None:
    models = [nn.Sequential(Branches(s), nn.Linear(2, 2).double()) for s in range(2)]
    both = [(X.abs() * sign,), (X.abs() * sign,)]
    merged = check_merged([*models, net()], both)
    assert merged.stats.apart == 2


def test_opaque_modules_that_go_either_way() -> None:
    """A parameter that a step does not use has no gradient then, alone and merged."""
    models = [nn.Sequential(Branches(s), nn.Linear(2, 2).double()) for s in range(2)]
    check_merged(models, [(X.abs(),), (-X.abs(),), (X.abs(),)])


class Keywords(nn.Module):
    def __init__(self, seed: int) -> None:
        super().__init__()
        self.body = net(seed=seed)

    def forward(
        self, x: Tensor, *, scale: Tensor, shift: Tensor | None = None
    ) -> dict[str, Tensor]:
        out = self.body(x) * scale
        return {"out": out if shift is None else out + shift}


def test_keyword_arguments() -> None:
    models = [Keywords(s) for s in range(2)]
    scale = torch.tensor([2.0, 3.0], dtype=torch.float64)
    merged = merge(models, {"x": X, "scale": scale})
    for model, got in zip(models, merged(X, scale=scale + 1), strict=True):
        assert list(got) == ["out"]
        torch.testing.assert_close(got["out"], model(X, scale=scale + 1)["out"])
    with pytest.raises(MergeError, match="shift"):
        merged(X, scale=scale, shift=scale)
    with pytest.raises(MergeError, match="cannot be called so"):
        merged(X)


def test_outputs_changed_in_place() -> None:
    """What is written into one model's output reaches no other's."""
    models = [net(seed=s) for s in range(3)]
    merged = merge(models, X)
    with torch.no_grad():
        first, second, third = merged(X)
        kept = second.clone(), third.clone()
        first.fill_(float("nan"))
    assert torch.equal(second, kept[0])
    assert torch.equal(third, kept[1])


def test_outputs_changed_in_place_under_gradients() -> None:
    models = [net(seed=s) for s in range(3)]
    first, *_ = merge(models, X)(X)
    with pytest.raises(RuntimeError, match="modified inplace"):
        first.mul_(2)


def test_shared_outputs_are_each_models_own() -> None:
    """An output that all models share is handed out so that writing to one harms no other."""

    class Same(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * 2

    merged = merge([Same(), Same()], X)
    first, second = merged(X)
    first.zero_()
    assert torch.equal(second, X * 2)


def test_an_output_that_is_the_input() -> None:
    merged = merge([nn.Identity(), net()], X)
    first, _ = merged(X)
    assert torch.equal(first, X)


# --- the merged model as a module -----------------------------------------------------------------


def trained() -> tuple[Any, list[nn.Module]]:
    models = [normed(0), normed(1), net(7)]
    merged = merge(models, X)
    train_merged(merged, [(X,), (X,)])
    return merged, models


def test_unmerged_modules_are_of_the_class_that_was_merged() -> None:
    merged, models = trained()
    merged.eval()
    for i, (module, model) in enumerate(zip(merged.unmerge(), models, strict=True)):
        assert type(module) is type(model)
        assert module is not model
        expected = train_alone(model, [(X,), (X,)], seed=i).state
        for key, value in module.state_dict().items():
            torch.testing.assert_close(value, expected[key], rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(merged(X)[i], module(X), rtol=1e-9, atol=1e-9)
        assert not any(p.grad is not None for p in module.parameters())


def test_states_go_round() -> None:
    merged, models = trained()
    states = [merged.state_dict_of(i) for i in range(3)]
    models[1].load_state_dict(states[1], strict=True)
    other = merge([normed(5), normed(6), net(7, seed=3)], X)
    for i, state in enumerate(states):
        other.load_state_dict_of(i, state)
    for i, state in enumerate(states):
        for key, value in other.state_dict_of(i).items():
            assert torch.equal(value, state[key])
    # One alone: the others stay.
    before = other.state_dict_of(1)
    other.load_state_dict_of(0, normed(9).state_dict())
    assert all(torch.equal(v, before[k]) for k, v in other.state_dict_of(1).items())


def test_loading_into_a_frozen_part_that_models_share() -> None:
    """Loading one model must not change another: refused, or kept apart."""
    backbones = [normed(3).requires_grad_(False) for _ in range(2)]
    models = [nn.Sequential(b, nn.Linear(2, 2).double()) for b in backbones]
    merged = merge(models, X)
    assert merged.stats.shared
    same = merged.state_dict_of(0)
    merged.load_state_dict_of(0, same)
    other = {**same, "0.0.weight": same["0.0.weight"] + 1}
    before = merged.state_dict_of(1)
    with pytest.raises(MergeError, match="share"):
        merged.load_state_dict_of(0, other)
    assert all(torch.equal(v, before[k]) for k, v in merged.state_dict_of(1).items())


def test_a_state_dict_of_the_whole() -> None:
    merged, _ = trained()
    other = merge([normed(5), normed(6), net(7, seed=3)], X)
    other.load_state_dict(merged.state_dict())
    for a, b in zip(merged.eval()(X), other.eval()(X), strict=True):
        assert torch.equal(a, b)


def test_a_copy_trains_on_its_own() -> None:
    merged, _ = trained()
    twin = copy.deepcopy(merged)
    before = [merged.state_dict_of(i) for i in range(3)]
    train_merged(twin, [(X,)])
    for i, state in enumerate(before):
        assert all(torch.equal(v, state[k]) for k, v in merged.state_dict_of(i).items())
        assert any(not torch.equal(v, state[k]) for k, v in twin.state_dict_of(i).items())
    train_merged(merged, [(X,)])
    for i in range(3):
        for key, value in twin.state_dict_of(i).items():
            assert torch.equal(value, merged.state_dict_of(i)[key])


@pytest.mark.parametrize("convert", [lambda m: m.float(), lambda m: m.to(torch.float32)])
def test_another_dtype(convert: Callable[[nn.Module], nn.Module]) -> None:
    merged, _ = trained()
    modules = [convert(m) for m in merged.unmerge()]
    merged = convert(merged)
    x = X.float()
    for got, module in zip(merged.eval()(x), modules, strict=True):
        assert got.dtype is torch.float32
        torch.testing.assert_close(got, module.eval()(x), rtol=1e-5, atol=1e-5)
    assert all(v.dtype != torch.float64 for v in merged.state_dict_of(0).values())
    assert all(m[0].weight.dtype is torch.float32 for m in merged.unmerge()[:2])


def test_pickling_is_refused_with_the_way_to_save() -> None:
    merged, _ = trained()
    with pytest.raises(MergeError, match="state_dict"):
        pickle.dumps(merged)


def test_bfloat16_autocast() -> None:
    class Plain(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, width, 3, padding=1)
            self.norm = nn.BatchNorm2d(width)
            self.head = nn.Linear(width, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = F.max_pool2d(self.norm(self.conv(x)).relu(), 2)
            return self.head(x.mean((2, 3))).softmax(-1)

    torch.manual_seed(0)
    models = [Plain(4), Plain(4), Plain(6)]
    x = torch.randn(4, 3, 6, 6)
    merged = merge(models, x)
    with torch.autocast("cpu", torch.bfloat16):
        outputs = merged(x)
        alone = [m(x) for m in models]
    for got, expected in zip(outputs, alone, strict=True):
        assert got.dtype == expected.dtype
        torch.testing.assert_close(got, expected, rtol=0.02, atol=0.02)
    torch.stack([o.float().square().sum() for o in outputs]).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in merged.parameters())


def test_random_numbers_of_the_caller_are_left_alone() -> None:
    models = [nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5)).double() for _ in range(2)]
    merged = merge(models, X)
    before = torch.get_rng_state()
    merged(X)
    assert torch.equal(before, torch.get_rng_state())


def test_models_are_not_changed_by_training() -> None:
    models = [normed(s) for s in range(2)]
    merged = merge(models, X)
    before = [copy.deepcopy(m.state_dict()) for m in models]
    train_merged(merged, [(X,)])
    for model, state in zip(models, before, strict=True):
        assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert next(tensors(merged(X))).requires_grad


def test_frozen_layers_of_models_in_other_modes_are_not_one() -> None:
    """One writes its statistics, and the other does not, although both begin with equal ones."""
    models = [
        nn.Sequential(normed(3).requires_grad_(False), nn.Linear(2, 2).double()) for _ in "ab"
    ]
    models[0][0][1].eval()
    merged = merge(models, X)
    for _ in range(2):
        for model, got in zip(models, merged(X), strict=True):
            torch.testing.assert_close(got, model(X), rtol=1e-10, atol=1e-10)
    for i, model in enumerate(models):
        for key, value in merged.state_dict_of(i).items():
            torch.testing.assert_close(value, model.state_dict()[key], rtol=1e-10, atol=1e-10)


def test_a_frozen_backbone_in_evaluation_is_shared_while_heads_train() -> None:
    models = [
        nn.Sequential(normed(3).requires_grad_(False), nn.Linear(2, 2).double()) for _ in "ab"
    ]
    for model in models:
        model[0].eval()
    merged = merge(models, X)
    assert merged.stats.shared == 4
    for _ in range(2):
        for model, got in zip(models, merged(X), strict=True):
            torch.testing.assert_close(got, model(X), rtol=1e-10, atol=1e-10)
    for i, model in enumerate(models):
        for key, value in merged.state_dict_of(i).items():
            torch.testing.assert_close(value, model.state_dict()[key], rtol=1e-10, atol=1e-10)
