"""From a graph to an ``nn.Module``: the tree of modules, their weights, and a generated forward."""

from __future__ import annotations

import copy
import hashlib
import io
import linecache
import warnings
import weakref
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from retiarii.ir.build.codegen import WHOLE, ForwardCode, check_buildable, generate
from retiarii.ir.build.tree import ModuleTree, Place, Style
from retiarii.ir.infer import module_state
from retiarii.ir.ops import OPS, constructor_attrs
from retiarii.seeding import derive

if TYPE_CHECKING:
    from retiarii.ir.graph import Graph
    from retiarii.ir.node import NodeRecord

# A raw parameter has no constructor that would say how it starts.
_RAW_STD = 0.02


def to_module(
    graph: Graph, *, seed: int | None = None, weights: Mapping[str, torch.Tensor] | None = None
) -> nn.Module:
    """A module that computes the graph.

    Its ``state_dict`` has the keys of what was parsed, as far as the graph still has them; no
    tensor is shared with the parsed model. Its class has no importable name, so save its
    ``state_dict`` and not the module.

    Args:
        graph: a graph that verifies.
        seed: every layer is initialised as its constructor does, under a seed derived from this
            one and the layer's path, so that no layer's weights depend on the others. The global
            random state is left alone. ``None`` keeps the parsed weights, and initialises what is
            fresh (or changed its shape) under the global random state.
        weights: state_dict key -> tensor: used instead where key and shape fit, but for fresh
            nodes.

    Raises:
        GraphError: the graph has an opaque module or a constant whose value is not at hand.
    """
    check_buildable(graph)
    tree = ModuleTree(graph)
    builder = _Builder(graph, tree, seed, weights or {})
    with _private_random_state(seed):
        kind = _module_class(generate(graph, tree), tree.root.style)
        record = tree.root.record
        root = builder.make(tree.root, kind) if record is None else builder.whole(kind, record)
    builder.finish(root)
    return root


@contextmanager
def _private_random_state(seed: int | None) -> Iterator[None]:
    """Keeps the CPU's random state where it is, if layers are seeded one by one."""
    if seed is None:
        yield
        return
    with torch.random.fork_rng(devices=[]):
        yield


def _on_cpu() -> AbstractContextManager[object]:
    """Layers are made on the CPU; where that is so anyway, no time is spent on saying it."""
    plain = torch.get_default_device().type == "cpu"
    return nullcontext() if plain else torch.device("cpu")


# --- the class -------------------------------------------------------------------------------


def _module_class(code: ForwardCode, style: Style) -> type[nn.Module]:
    """A class whose forward is the generated code; tracebacks and debuggers show its lines."""
    lines = [*code.imports, "", *code.helpers, code.signature]
    lines += [f"    {line}" for line in code.body]
    text = "\n".join(lines) + "\n"
    namespace: dict[str, Any] = {"__name__": "retiarii_model", **code.classes}
    digest = hashlib.blake2b(text.encode(), digest_size=6).hexdigest()
    filename = f"<retiarii forward {digest}.{id(namespace):x}>"
    exec(compile(text, filename, "exec", dont_inherit=True), namespace)
    linecache.cache[filename] = (len(text), None, text.splitlines(keepends=True), filename)
    members = {"forward": namespace["forward"], WHOLE: _call_whole, "__doc__": text}
    made = type("Model", (style.value,), members)
    weakref.finalize(made, linecache.cache.pop, filename, None)
    return made


def _call_whole(self: Any, /, *args: Any, **kwargs: Any) -> Any:
    """Calls the module that a root stands for (see `_Builder.whole`)."""
    (inner,) = self._whole
    inner.training = self.training
    return inner(*args, **kwargs)


# --- the tree --------------------------------------------------------------------------------


class _Builder:
    """Makes modules and their tensors, parents first."""

    def __init__(
        self,
        graph: Graph,
        tree: ModuleTree,
        seed: int | None,
        weights: Mapping[str, torch.Tensor],
    ) -> None:
        self._context = graph.context
        self._tree = tree
        self._seed = seed
        self._weights = weights
        self._made: dict[str, nn.Module] = {}
        self._aliases: list[Place] = []

    def make(self, place: Place, kind: type[nn.Module] | None = None) -> nn.Module:
        """The module at a place, with all below it.

        Args:
            kind: the class, for the root.
        """
        if kind is not None:
            module = kind()
        elif place.record is None:
            module = place.style.value()
        elif place.record.op == "opaque":
            module = self._opaque(place.record)
        else:
            module = self._leaf(place.record)
        self._made[place.path] = module
        for name, record in place.tensors.items():
            self._raw(module, name, record)
        for name, child in place.children.items():
            if child.alias is not None:
                self._aliases.append(child)
                module.add_module(name, nn.Module())  # keeps its turn in the order
            else:
                module.add_module(name, self.make(child))
        return module

    def whole(self, kind: type[nn.Module], record: NodeRecord) -> nn.Module:
        """A root around a module that is opaque as a whole, under the same state_dict keys."""
        inner = self._opaque(record)
        root = kind()
        # One set of tensors and children, held twice: what moves or loads one does the other.
        for held in ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set"):
            root.__dict__[held] = inner.__dict__[held]
        root.__dict__["_whole"] = (inner,)
        self._made[""] = root
        return root

    def finish(self, root: nn.Module) -> None:
        """What needs all modules: aliases, ties, constants, flags, the device."""
        for place in self._aliases:
            path, _, name = place.path.rpartition(".")
            assert place.alias is not None
            self._made[path].add_module(name, self._made[place.alias])
        for alias, first in self._tree.ties:
            self._tie(root, alias, first)
        for key, name in self._tree.constants.items():
            value = self._context.constants[key].detach().clone()
            root.register_buffer(name, value, persistent=False)
        root.train(self._context.training)
        if self._context.modes:
            modules = dict(root.named_modules(remove_duplicate=False))
            for path, flag in self._context.modes.items():
                if path in modules:
                    modules[path].training = flag
        device = next((t.device for t in self._context.weights.values()), torch.device("cpu"))
        if device.type not in ("cpu", "meta"):  # meta: a space's model, made without weights
            root.to(device)

    def _tie(self, root: nn.Module, alias: str, first: str) -> None:
        module, name = _owner(root, alias)
        other, other_name = _owner(root, first)
        old, new = getattr(module, name, None), getattr(other, other_name, None)
        # An edit may have given one of the two another shape: then they are two.
        if old is not None and new is not None and old is not new and old.shape == new.shape:
            setattr(module, name, new)

    def _opaque(self, record: NodeRecord) -> nn.Module:
        assert record.path is not None
        module = _copy_of(self._context.opaque[record.path])
        if self._seed is not None:
            for path, part in module.named_modules():
                reset = getattr(part, "reset_parameters", None)
                if callable(reset):
                    self._seed_for(record.path, path)
                    reset()
        with torch.no_grad():
            for name, tensor in module.state_dict(keep_vars=True).items():
                given = self._weights.get(f"{record.path}.{name}")
                if given is not None and given.shape == tensor.shape:
                    tensor.copy_(given)
        return module

    def _leaf(self, record: NodeRecord) -> nn.Module:
        path = record.path
        assert path is not None
        spec = OPS[record.op]
        arguments = constructor_attrs(spec, record.attrs)
        state = module_state(record.op, record.attrs, self._context.types)
        known: dict[str, torch.Tensor] = {}
        for name, of in state.items():
            tensor = self._known(record, f"{path}.{name}", of.type.shape, self._seed is None)
            if tensor is not None:
                known[name] = tensor
        if state and len(known) == len(state):
            # Nothing is left to initialise: no time is spent on it.
            with torch.device("meta"):
                module: nn.Module = spec.target(**arguments)
            for name, tensor in known.items():
                _put(module, name, tensor)
        else:
            if self._seed is not None:
                self._seed_for(path)
            with _on_cpu():
                module = spec.target(**arguments)
            with torch.no_grad():
                for name, tensor in known.items():
                    owner, local = _owner(module, name)
                    getattr(owner, local).copy_(tensor)
        if not record.fresh:
            for name, parameter in module.named_parameters():
                if f"{path}.{name}" in self._context.frozen:
                    parameter.requires_grad_(False)
        return module

    def _raw(self, module: nn.Module, name: str, record: NodeRecord) -> None:
        path = record.path
        assert path is not None
        if name in module._parameters or name in module._buffers:
            return  # a layer's own parameter, used directly as well
        attrs = record.attrs
        shape, dtype = tuple(attrs["shape"]), attrs["dtype"]
        found = self._known(record, path, shape, True)
        value = self._fresh(record, shape, dtype) if found is None else found.detach().clone()
        if record.op == "buffer":
            module.register_buffer(name, value, persistent=attrs["persistent"])
            return
        learned = attrs["requires_grad"] and (record.fresh or path not in self._context.frozen)
        module.register_parameter(name, nn.Parameter(value, requires_grad=learned))

    def _fresh(
        self, record: NodeRecord, shape: tuple[int, ...], dtype: torch.dtype
    ) -> torch.Tensor:
        value = torch.zeros(shape, dtype=dtype, device="cpu")
        if record.op == "parameter" and (dtype.is_floating_point or dtype.is_complex):
            if self._seed is not None:
                self._seed_for(str(record.path))
            value.normal_(0.0, _RAW_STD)
        return value

    def _known(
        self, record: NodeRecord, key: str, shape: tuple[int, ...], inherit: bool
    ) -> torch.Tensor | None:
        """The tensor that a key starts with, where that is not left to initialisation."""
        if record.fresh:
            return None
        base = self._context.weights.get(key)
        if base is not None and base.is_meta:
            base = None  # made without values: there is nothing to keep
        given = self._weights.get(key)
        if given is not None and given.shape == shape:
            return given if base is None else given.to(base.dtype)
        if inherit and base is not None and base.shape == shape:
            return base
        return None

    def _seed_for(self, *parts: str) -> None:
        # Not torch.manual_seed: that would seed the GPUs too, and they are not restored.
        assert self._seed is not None
        torch.default_generator.manual_seed(derive(self._seed, *parts))


def _copy_of(module: nn.Module) -> nn.Module:
    if not isinstance(module, torch.jit.ScriptModule):
        return copy.deepcopy(module)
    # Its deep copy has parameters that are no leaves: they would never get gradients.
    held = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(module, held)
        held.seek(0)
        made: nn.Module = torch.jit.load(held)  # type: ignore[no-untyped-call]
    return made


def _owner(module: nn.Module, key: str) -> tuple[nn.Module, str]:
    path, _, name = key.rpartition(".")
    return module.get_submodule(path), name


def _put(module: nn.Module, key: str, tensor: torch.Tensor) -> None:
    """Gives a module on the meta device a copy of ``tensor``."""
    owner, name = _owner(module, key)
    old = getattr(owner, name)
    value = tensor.detach().clone()
    if isinstance(old, nn.Parameter):
        setattr(owner, name, nn.Parameter(value, requires_grad=old.requires_grad))
    else:
        setattr(owner, name, value)
