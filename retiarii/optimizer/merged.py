"""The merged model: many models as one module, each with its own weights."""

from __future__ import annotations

import copy
import linecache
import weakref
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from retiarii.errors import MergeError
from retiarii.ir.ops import constructor_attrs, op_spec
from retiarii.ir.tracing.structure import rebuild
from retiarii.ir.types import Result
from retiarii.optimizer import kernels
from retiarii.optimizer.arguments import inputs_of, signature_of
from retiarii.optimizer.beginning import Begun, begin
from retiarii.optimizer.compile import Compiled, Options, compile_plan, compiled
from retiarii.optimizer.forest import Item
from retiarii.optimizer.leaving import Moved, leave, selected, staying
from retiarii.optimizer.lift import Model
from retiarii.optimizer.plan import OutputStack, Plan
from retiarii.optimizer.stats import Stats


@dataclass(frozen=True, slots=True)
class Program:
    """The code of one mode.

    Attributes:
        plan: what it runs.
        source: its text.
        run: the compiled text: (merged model, inputs) -> output stacks.
        templates: layers that it calls as they are.
        calls: for each model, the calls that it alone makes.
        stats: what merging did.
    """

    plan: Plan
    source: str
    run: Callable[[Any, Sequence[Tensor]], tuple[Tensor, ...]]
    templates: tuple[nn.Module, ...]
    calls: tuple[int, ...]
    stats: Stats


class Remaining(NamedTuple):
    """What `MergedModel.remaining` returns.

    Attributes:
        merged: the models that stay.
        moved: where they, and the members of their stacks, were before.
    """

    merged: MergedModel
    moved: Moved


class MergedModel(nn.Module):
    """Many models as one; made by `rt.merge`.

    Calling it with the arguments of one model returns a list with what each model returns.
    Parameters of equal calls are stacked along a new first dimension, so an optimizer of
    ``torch.optim`` over ``parameters()`` trains all models at once; losses are summed.

    Attributes:
        models: how many there are.
        storage: which model's tensor lies where.
        streams: each model's random numbers (dropout).
    """

    def __init__(
        self,
        models: Sequence[Model],
        originals: Sequence[nn.Module | None],
        options: Options,
        begun: Begun | None = None,
    ) -> None:
        super().__init__()
        self._models = tuple(models)
        self._originals = tuple(originals)
        self._options = options
        self._programs: dict[bool | None, Program] = {}
        self._streams: tuple[kernels.ModelStream, ...] | None = None
        begun = begin(models, options) if begun is None else begun
        self.storage = begun.storage
        self._sharing = begun.sharing
        self._laid = dict(begun.laid)
        self._opaque = dict(begun.opaque)
        for stack, value in zip(begun.storage.stacks, begun.values, strict=True):
            if stack.kind == "parameter":
                self.register_parameter(stack.name, nn.Parameter(value, stack.trainable))
            else:
                self.register_buffer(stack.name, value)
        context = models[0].graph.context
        self._spec = context.forward
        self._signature = signature_of(context.forward)
        self._mode = begun.mode
        self.training = begun.training
        if begun.first is not None:
            self._programs[True] = self._program(begun.first)
        self.seed([torch.initial_seed() % 2**63 + i for i in range(len(models))])

    @property
    def models(self) -> int:
        """How many models there are."""
        return len(self._models)

    # --- running ------------------------------------------------------------------------------

    def forward(self, *args: Any, **kwargs: Any) -> list[Any]:
        """What each model returns.

        Raises:
            MergeError: arguments of another structure than those the models were merged with.
        """
        stacks = self.stacked(*args, **kwargs)
        found: list[dict[int, Tensor]] = [{} for _ in self._models]
        for out, tensor in stacks:
            shared = len(out.ports) > 1 and out.ports[0] == out.ports[1]
            plain = shared or self._is_plain(out)
            members = [tensor] * len(out.models) if plain else tensor.unbind(0)
            for model, member in zip(out.models, members, strict=True):
                found[model][out.position] = member
        outputs = self.program.plan.forest.outputs
        return [
            rebuild(out.structure, partial(_placed, own))
            for out, own in zip(outputs, found, strict=True)
        ]

    def stacked(self, *args: Any, **kwargs: Any) -> list[tuple[OutputStack, Tensor]]:
        """The models' outputs as they are computed: equal ones stacked, [G, *S].

        An output that is the same for all models has no dimension for members.
        """
        inputs = inputs_of(self._spec, self._signature, args, kwargs)
        program = self.program
        return list(zip(program.plan.outputs, program.run(self, inputs), strict=True))

    def _is_plain(self, out: OutputStack) -> bool:
        return self.program.plan.forest.items[out.ports[0].item].owner < 0

    @property
    def program(self) -> Program:
        """The program of the present mode."""
        found = self._programs.get(self._mode)
        if found is None:
            held = self.storage, self._sharing
            laid = self._laid.pop(self._mode, None)
            if laid is not None:
                made = compiled(laid[0], *held, laid[1])
            else:
                made = compile_plan(self._models, self._mode, self._options, held)
            found = self._programs[self._mode] = self._program(made)
        return found

    @property
    def source(self) -> str:
        """The generated code of the present mode."""
        return self.program.source

    @property
    def stats(self) -> Stats:
        """What merging did."""
        return self.program.stats

    @property
    def templates(self) -> tuple[nn.Module, ...]:
        """Layers that the present program calls as they are, with our parameters."""
        return self.program.templates

    @property
    def streams(self) -> tuple[kernels.ModelStream, ...]:
        """Each model's random numbers."""
        device = next((t.device for t in self.parameters()), torch.device("cpu"))
        if self._streams is None or self._streams[0].device != device:
            self._streams = tuple(kernels.ModelStream(s, device) for s in self._seeds)
        return self._streams

    def seed(self, seeds: Sequence[int]) -> None:
        """Begins each model's random numbers anew, as ``torch.manual_seed`` does for one model.

        Raises:
            MergeError: not one seed for each model.
        """
        if len(seeds) != len(self._models):
            raise MergeError(
                f"{len(seeds)} seeds for {len(self._models)} models", fix="give one for each model"
            )
        self._seeds = tuple(seeds)
        self._streams = None

    def train(self, mode: bool = True) -> MergedModel:
        """Sets the mode of all models and all their layers."""
        super().train(mode)
        self._mode = mode
        for program in self._programs.values():
            for template in program.templates:
                template.train(mode)
        for module in self._opaque.values():
            module.train(mode)
        return self

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> MergedModel:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for module in self._opaque.values():
            _apply_to_buffers(module, fn)
        return self

    # --- one model's state --------------------------------------------------------------------

    def tensor_of(self, model: int, key: str) -> Tensor:
        """A parameter or buffer of one model: a view of the stack that holds it."""
        stack, member = self.storage.places[model, key]
        held = self.storage.stacks[stack]
        tensor: Tensor = getattr(self, held.name).detach()
        return tensor if held.plain else tensor[member]

    def state_dict_of(self, model: int) -> dict[str, Tensor]:
        """The ``state_dict`` that the model alone would have; copies.

        Raises:
            MergeError: there is no such model.
        """
        self._check(model)
        return {
            key: self.value_of(model, key, value).clone()
            for key, value in self._models[model].module.state_dict().items()
        }

    def value_of(self, model: int, key: str, initial: Tensor) -> Tensor:
        """A parameter or buffer of one model, also one that is in no ``state_dict``.

        Args:
            model: its number.
            key: its name in the model.
            initial: what the model was merged with; it is handed back where the merged model
                does not hold it.
        """
        if (model, key) in self.storage.places:
            return self.tensor_of(model, key)
        return self._opaque_buffer(model, key, initial).detach()

    def load_state_dict_of(self, model: int, state: Mapping[str, Tensor]) -> None:
        """Gives one model the values of a ``state_dict``; the others stay as they are.

        Raises:
            MergeError: keys or shapes that are not the model's.
        """
        self._check(model)
        own = self._models[model].module.state_dict()
        wrong = sorted(set(own) ^ set(state)) or [
            k for k, v in state.items() if v.shape != own[k].shape
        ]
        if wrong:
            raise MergeError(
                f"the state does not fit model {model}: {', '.join(wrong[:5])}",
                fix="give what state_dict_of(model) returns, or the model's own state_dict",
            )
        with torch.no_grad():
            for key, value in state.items():
                if (model, key) in self.storage.places:
                    self.tensor_of(model, key).copy_(value)
                else:
                    self._opaque_buffer(model, key, own[key]).copy_(value)

    def without(self, models: Collection[int]) -> MergedModel:
        """The other models, as `remaining` makes them."""
        return self.remaining(models).merged

    def remaining(self, leaving: Collection[int]) -> Remaining:
        """The models that stay when some leave, merged anew in a fraction of a merge's time.

        They have their present weights, gradients, buffers and random streams; what they compute
        does not change. This merged model stays as it is, and shares nothing with the new one.

        Args:
            leaving: the numbers of the models that leave. The others are numbered anew, in order.

        Raises:
            MergeError: a model that is not there, or none that stays.
        """
        stay = staying(len(self._models), leaving)
        old = [getattr(self, stack.name) for stack in self.storage.stacks]
        plans = {m: (p.plan, p.calls) for m, p in self._programs.items()} | self._laid
        held = Begun(
            self.storage, self._sharing, old, self._mode, self.training, plans, self._opaque
        )
        begun, moved = leave(held, stay)
        made = MergedModel(
            [self._models[i] for i in stay],
            [self._originals[i] for i in stay],
            self._options,
            begun,
        )
        for stack, origin in zip(begun.storage.stacks, moved.stacks, strict=True):
            grad = old[origin.stack].grad
            if grad is not None:
                getattr(made, stack.name).grad = selected(grad, origin)
        made.seed([self._seeds[i] for i in stay])
        if self._streams is not None:
            made._streams = tuple(self._streams[i].copy() for i in stay)
        return Remaining(made, moved)

    def unmerge(self) -> list[nn.Module]:
        """Standalone modules with the present weights: of the class that was merged."""
        return [self.module_of(i) for i in range(len(self._models))]

    def module_of(self, model: int) -> nn.Module:
        """One model on its own, with its present weights, in the present mode."""
        self._check(model)
        given, original = self._models[model], self._originals[model]
        made = copy.deepcopy(original) if original is not None else given.graph.to_module()
        device = next((t.device for t in self.parameters()), torch.device("cpu"))
        made = made.to(device)
        named: dict[str, Tensor] = dict(made.named_parameters(remove_duplicate=False))
        named.update(made.named_buffers(remove_duplicate=False))
        with torch.no_grad():
            for key, tensor in named.items():
                if (model, key) in self.storage.places:
                    tensor.copy_(self.tensor_of(model, key))
                elif key in given.tensors:
                    tensor.copy_(self._opaque_buffer(model, key, given.tensors[key]))
        if self._mode is not None:
            made.train(self._mode)
        return made

    def _opaque_buffer(self, model: int, key: str, initial: Tensor) -> Tensor:
        """A buffer of a submodule that is called as it is."""
        for (owner, path), module in self._opaque.items():
            prefix = f"{path}." if path else ""
            if owner == model and key.startswith(prefix):
                buffers = dict(module.named_buffers(remove_duplicate=False))
                if key.removeprefix(prefix) in buffers:
                    return buffers[key.removeprefix(prefix)]
        return initial

    def _check(self, model: int) -> None:
        if not 0 <= model < len(self._models):
            raise MergeError(
                f"there is no model {model}",
                fix=f"models are numbered from 0 to {len(self._models) - 1}",
            )

    # --- making -------------------------------------------------------------------------------

    def _program(self, made: Compiled) -> Program:
        code = made.code
        scope: dict[str, Any] = {"torch": torch, "F": functional, "kernels": kernels, **code.scope}
        digest = blake2b(code.source.encode(), digest_size=6).hexdigest()
        filename = f"<retiarii merged {digest}.{id(scope):x}>"
        exec(compile(code.source, filename, "exec", dont_inherit=True), scope)
        linecache.cache[filename] = (
            len(code.source),
            None,
            code.source.splitlines(keepends=True),
            filename,
        )
        weakref.finalize(self, linecache.cache.pop, filename, None)
        templates = tuple(self._template(made.plan.forest.items[i]) for i in code.templates)
        return Program(made.plan, code.source, scope["run"], templates, made.calls, made.stats)

    def _template(self, item: Item) -> nn.Module:
        """The layer that an item calls, to be given our tensors."""
        if item.template is not None:
            known = self._opaque.get((item.owner, item.template))
            if known is not None:
                return known
            inner = self._models[item.owner].module.get_submodule(item.template)
            made = self._opaque[item.owner, item.template] = copy.deepcopy(inner)
        else:
            with torch.device("meta"):
                made = op_spec(item.call.op).target(
                    **constructor_attrs(op_spec(item.call.op), item.call.attrs)
                )
        made.train(item.call.training)
        return made


def _placed(own: Mapping[int, Tensor], leaf: Any) -> Any:
    return own[leaf.index] if isinstance(leaf, Result) else leaf


def _apply_to_buffers(module: nn.Module, fn: Callable[[Tensor], Tensor]) -> None:
    for part in module.modules():
        for name, buffer in part._buffers.items():
            if buffer is not None and not buffer.is_meta:
                part._buffers[name] = fn(buffer)
