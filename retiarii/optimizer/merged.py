"""The merged model: many models as one module, each with its own weights."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from retiarii.errors import MergeError
from retiarii.optimizer import kernels
from retiarii.optimizer.arguments import common_spec, inputs_of, signature_of
from retiarii.optimizer.beginning import Begun, Laid, begin
from retiarii.optimizer.choose import Choice
from retiarii.optimizer.collecting import without_collection
from retiarii.optimizer.compile import Compiled, Options, compile_plan, compiled
from retiarii.optimizer.compiling import Execution, Runner
from retiarii.optimizer.fixed import fixed_of
from retiarii.optimizer.forest import Item
from retiarii.optimizer.leaving import Moved, leave, present, selected, staying
from retiarii.optimizer.lift import Model
from retiarii.optimizer.member_state import check_frozen, check_state, take_over
from retiarii.optimizer.opaque import apply_to_buffers, buffer_of, load, saved
from retiarii.optimizer.outputs import returned
from retiarii.optimizer.plan import OutputStack, Plan
from retiarii.optimizer.program import Program, program_of
from retiarii.optimizer.stats import Stats


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
        self._runner = Runner()
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
        spec = common_spec([model.graph.context.forward for model in models])
        assert spec is not None, "models that take their inputs alike, see check_mergeable"
        self._spec = spec
        self._signature = signature_of(spec)
        self._mode = begun.mode
        self.training = begun.training
        self._fixed = fixed_of(models)
        if begun.first is not None:
            first = self._fixed.training is not False
            self._options = replace(options, choice=begun.first.choice)
            self._programs[first] = self._program(begun.first)
        self.seed([torch.initial_seed() % 2**63 + i for i in range(len(models))])

    @property
    def models(self) -> int:
        """How many models there are."""
        return len(self._models)

    # --- running ------------------------------------------------------------------------------

    def forward(self, *args: Any, **kwargs: Any) -> list[Any]:
        """What each model returns.

        Raises:
            MergeError: arguments of another structure than those the models were merged with, or
                a frozen layer that several models share was unfrozen.
        """
        stacks = self.stacked(*args, **kwargs)
        return returned(self.program.plan.forest, stacks)

    def stacked(self, *args: Any, **kwargs: Any) -> list[tuple[OutputStack, Tensor]]:
        """The models' outputs as they are computed: equal ones stacked, [G, *S].

        An output that is the same for all models has no dimension for members.
        """
        inputs = inputs_of(self._spec, self._signature, args, kwargs)
        program = self.program
        check_frozen(self.storage, partial(getattr, self))
        self._fixed.check_sizes(inputs)
        if self._fixed.batch is not None:
            self._fixed.check_batch(inputs[program.plan.forest.batch_input].shape[0])
        found = self._runner.run_of(program)(self, inputs)
        return list(zip(program.plan.outputs, found, strict=True))

    def inputs_of(self, *args: Any, **kwargs: Any) -> list[Tensor]:
        """The tensors in the arguments of a call, in the order of the models' inputs."""
        return inputs_of(self._spec, self._signature, args, kwargs)

    @property
    def program(self) -> Program:
        """The program of the present mode."""
        return self._program_of(self._mode)

    def _program_of(self, mode: bool | None) -> Program:
        found = self._programs.get(mode)
        if found is None:
            self._fixed.check_mode(mode)
            held = self.storage, self._sharing
            laid = self._laid.pop(mode, None)
            if laid is not None:
                plan, calls = present(laid)
                made = compiled(plan, *held, calls, self._choice)
            else:
                made = compile_plan(self._models, mode, self._options, held)
            found = self._programs[mode] = self._program(made)
        return found

    def part(self, plan: Plan) -> Program:
        """The code of another plan over our tensors, such as a part of the present program's."""
        held = self.storage, self._sharing, self.program.calls, self._choice
        return self._program(compiled(plan, *held))

    @property
    def _choice(self) -> Choice:
        assert self._options.choice is not None
        return self._options.choice

    @property
    def source(self) -> str:
        """The generated code of the present mode."""
        return self.program.source

    @property
    def stats(self) -> Stats:
        """What merging did, and how the program runs."""
        return replace(self.program.stats, execution=self.execution.reason)

    @property
    def execution(self) -> Execution:
        """How the program of the training mode runs, and why."""
        return self._runner.execution

    def expect(self, steps: int, seconds: float | None = None) -> Execution:
        """Decides whether the training program is compiled: where the steps repay it.

        It is compiled at the next call in training mode, for the sizes of that call.

        Args:
            steps: forward and backward passes that are to come.
            seconds: of one of them, as it is; by default what was measured to choose what is fused.
        """
        device = next((t.device for t in self.parameters()), torch.device("cpu"))
        seconds = self._choice.merged if seconds is None else seconds
        return self._runner.expect(self._program_of(True), steps, seconds, device)

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
        for stream, seed in zip(self._streams or (), seeds, strict=False):
            stream.seed(seed)  # in place: CUDA graphs hold on to its generator

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

    def __deepcopy__(self, memo: dict[int, Any]) -> MergedModel:
        """A merged model that trains on its own; what never changes is shared."""
        made = MergedModel.__new__(MergedModel)
        memo[id(self)] = made
        changing = ("_parameters", "_buffers", "_opaque")
        made.__dict__.update(
            {k: copy.deepcopy(v, memo) if k in changing else v for k, v in vars(self).items()}
        )
        made._programs = {
            mode: replace(p, templates=copy.deepcopy(p.templates, memo))
            for mode, p in self._programs.items()
        }
        made._laid = dict(self._laid)
        made._runner = Runner()
        if self._streams is not None:
            made._streams = tuple(stream.copy() for stream in self._streams)
        return made

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise MergeError(
            "a merged model cannot be pickled: it holds compiled code",
            fix="save merged.state_dict(), the models of merged.unmerge(), or state_dict_of(i)",
        )

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> MergedModel:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        apply_to_buffers(self._opaque, fn)
        return self

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination.update(saved(self._opaque, prefix))

    def _load_from_state_dict(
        self, state_dict: Any, prefix: str, metadata: Any, strict: bool, *lists: list[str]
    ) -> None:
        super()._load_from_state_dict(state_dict, prefix, metadata, strict, *lists)
        missing, unexpected, _ = lists
        ours, lacking = load(self._opaque, prefix, state_dict)
        unexpected[:] = [key for key in unexpected if key not in ours]
        missing += sorted(lacking) if strict else []

    def extra_repr(self) -> str:
        return str(self.stats)

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
        held = buffer_of(self._opaque, model, key)
        return (initial if held is None else held).detach()

    def load_state_dict_of(self, model: int, state: Mapping[str, Tensor]) -> None:
        """Gives one model the values of a ``state_dict``; the others stay as they are.

        Raises:
            MergeError: keys or shapes that are not the model's, or another value for what other
                models share.
        """
        self._check(model)
        own = self._models[model].module.state_dict()
        check_state(self.storage, model, own, state, partial(self.tensor_of, model))
        with torch.no_grad():
            for key, value in state.items():
                if (model, key) in self.storage.places:
                    self.tensor_of(model, key).copy_(value)
                else:
                    self.value_of(model, key, own[key]).copy_(value)

    def without(self, models: Collection[int]) -> MergedModel:
        """The other models, as `remaining` makes them."""
        return self.remaining(models).merged

    @without_collection()
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
        plans = {m: Laid(p.plan, p.calls) for m, p in self._programs.items()} | self._laid
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
            before, after = old[origin.stack], getattr(made, stack.name)
            after.requires_grad_(before.requires_grad)  # it may have been frozen since
            if before.grad is not None:
                after.grad = selected(before.grad, origin)
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
        take_over(made, partial(self.value_of, model), partial(self._learns, model))
        if self._mode is not None:
            made.train(self._mode)
        return made

    def _learns(self, model: int, key: str) -> bool | None:
        """Whether a parameter takes a gradient: it may have been frozen since it was merged."""
        place = self.storage.places.get((model, key))
        if place is None:
            return None
        held: Tensor = getattr(self, self.storage.stacks[place[0]].name)
        return held.requires_grad

    def _check(self, model: int) -> None:
        if not 0 <= model < len(self._models):
            raise MergeError(
                f"there is no model {model}",
                fix=f"models are numbered from 0 to {len(self._models) - 1}",
            )

    # --- making -------------------------------------------------------------------------------

    def _program(self, made: Compiled) -> Program:
        return program_of(made, self, self._submodule)

    def _submodule(self, item: Item) -> nn.Module:
        """The opaque submodule that an item calls, a copy that is ours."""
        assert item.template is not None
        place = item.owner, item.template
        if place not in self._opaque:
            inner = self._models[item.owner].module.get_submodule(item.template)
            self._opaque[place] = copy.deepcopy(inner)
        return self._opaque[place]
