"""What the trace must know of single torch functions, beside the op table: by name."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch.nn import functional

# Read from a tensor object as it stands; nothing is recorded.
METADATA = frozenset(
    {"size", "dim", "ndimension", "numel", "nelement", "stride", "storage_offset", "element_size"}
    | {"is_floating_point", "is_complex", "is_signed", "is_contiguous", "is_same_size", "dim_order"}
    | {"shape.get", "dtype.get", "ndim.get", "layout.get", "requires_grad.get", "is_leaf.get"}
    | {
        "itemsize.get",
        "nbytes.get",
        "names.get",
        "is_nested.get",
        "is_sparse.get",
        "is_quantized.get",
    }
    | {"is_mkldnn.get", "is_sparse_csr.get", "_version.get", "grad.get", "grad_fn.get", "__len__"}
    | {"has_names", "is_inference", "is_conj", "is_neg", "is_nonzero_static", "_backward_hooks.get"}
    | {"is_shared", "type_dtype", "__hash__", "__repr__", "__format__", "__dir__", "get_device"}
)

# Of these, what tells sizes.
SIZES = frozenset({"shape.get", "size", "numel", "nelement", "nbytes.get", "stride", "__len__"})

# Change modes of autograd, not tensors.
PASSED = frozenset({"_set_grad_enabled", "set_grad_enabled", "_saved_tensors_hooks_enable"})

# Need the numbers in a tensor.
READS = frozenset(
    {"item", "tolist", "numpy", "__array__", "__bool__", "__int__", "__float__", "__complex__"}
    | {
        "__index__",
        "equal",
        "allclose",
        "is_nonzero",
        "__contains__",
        "__reduce_ex__",
        "__deepcopy__",
    }
    | {"nonzero", "argwhere", "unique", "unique_consecutive", "masked_select", "bincount", "histc"}
)

# No node stands for them: name -> what they do.
FORBIDDEN: Mapping[str, str] = MappingProxyType(
    {
        **dict.fromkeys(
            ("data_ptr", "untyped_storage", "storage", "_typed_storage", "__dlpack__", "is_set_to"),
            "reaches for a tensor's memory",
        ),
        **dict.fromkeys(
            ("set_", "resize_", "resize_as_", "swap_tensors", "data.set", "share_memory_"),
            "exchanges a tensor's memory",
        ),
        **dict.fromkeys(
            ("register_hook", "register_post_accumulate_grad_hook", "retain_grad"),
            "puts a hook on a tensor",
        ),
        **dict.fromkeys(
            ("backward", "requires_grad_", "requires_grad.set", "grad.set", "_backward"),
            "runs autograd by hand",
        ),
        **dict.fromkeys(("apply_", "map_", "map2_"), "runs Python for each element"),
    }
)

# Draw random numbers: never run for real, so that the global generator stays as it is.
_RANDOM = re.compile(
    r"(rand|randn|randint|randperm|rand_like|randn_like|randint_like|normal|bernoulli|multinomial"
    r"|poisson|binomial|uniform|exponential|geometric|cauchy|log_normal|random|rrelu|gumbel_softmax"
    r"|\w*dropout\w*|fractional_max_pool\w*|normal_functional|scaled_dot_product_attention"
    r"|trunc_normal|xavier_\w+|kaiming_\w+|orthogonal|sparse)_?\Z"
)

# In-place functions that fill a tensor with random numbers, and what does it functionally.
_RANDOM_FILLS: Mapping[str, Any] = MappingProxyType(
    {
        "bernoulli_": torch.Tensor.bernoulli,
        "uniform_": torch.ops.aten.uniform,
        "normal_": torch.ops.aten.normal_functional,
        "exponential_": torch.ops.aten.exponential,
        "geometric_": torch.ops.aten.geometric,
        "cauchy_": torch.ops.aten.cauchy,
        "log_normal_": torch.ops.aten.log_normal,
        "random_": torch.ops.aten.random,
    }
)
_IN_PLACE_OPERATOR = re.compile(r"__i(\w+)__\Z")
_NOT_IN_PLACE_OPERATORS = frozenset({"__init__", "__index__", "__invert__", "__int__", "__iter__"})


def _reversed_dims(x: torch.Tensor) -> tuple[Any, ...]:
    return torch.Tensor.permute, (x, tuple(reversed(range(x.dim())))), {}


# Properties that make tensors: name -> the call that they stand for.
PROPERTIES: Mapping[str, Callable[[torch.Tensor], tuple[Any, ...]]] = MappingProxyType(
    {
        "T.get": _reversed_dims,
        "mT.get": lambda x: (torch.Tensor.transpose, (x, -2, -1), {}),
        "H.get": lambda x: (torch.adjoint, (x,), {}),
        "mH.get": lambda x: (torch.adjoint, (x,), {}),
        "real.get": lambda x: (torch.real, (x,), {}),
        "imag.get": lambda x: (torch.imag, (x,), {}),
        "data.get": lambda x: (torch.Tensor.detach, (x,), {}),
    }
)


def _weight_norm(run: Callable[..., Any], v: torch.Tensor, g: torch.Tensor, dim: int = 0) -> Any:
    others = [d for d in range(v.dim()) if d != dim]
    length = run(torch.linalg.vector_norm, v, dim=others or None, keepdim=True)
    return run(torch.mul, v, run(torch.div, g, length))


# Private functions of torch, in terms of public ones: (run, arguments) -> result.
REWRITES: Mapping[str, Callable[..., Any]] = MappingProxyType({"_weight_norm": _weight_norm})

# Make tensors from numbers given in Python: constants of the code.
LITERALS = frozenset(
    {"tensor", "as_tensor", "asarray", "from_numpy", "scalar_tensor", "frombuffer"}
)


def name_of(func: Any) -> str:
    """A function's own name; a property's getter is ``NAME.get``, its setter ``NAME.set``."""
    name = getattr(func, "__name__", "")
    if name in ("__get__", "__set__", "__delete__"):
        return f"{func.__self__.__name__}.{name.strip('_')}"
    if "." in name:  # an overload of torch.ops
        return str(name.partition(".")[0])
    return str(name)


def qualified_name(func: Any) -> str | None:
    """The op of a torch function that has no row ("torch.fft.fft2", "method.NAME")."""
    name = torch.overrides.resolve_name(func)
    if name is None:
        return None
    if name.startswith("torch.Tensor."):
        return f"method.{name.removeprefix('torch.Tensor.')}"
    if isinstance(func, torch._ops.OpOverloadPacket | torch._ops.OpOverload):
        return f"torch.ops.{name}"
    return str(name)


def is_random(name: str) -> bool:
    return _RANDOM.match(name) is not None


def is_in_place(name: str) -> bool:
    """Whether the name says that the first argument is written."""
    if name.startswith("__"):
        if name == "__setitem__":
            return True
        return _IN_PLACE_OPERATOR.match(name) is not None and name not in _NOT_IN_PLACE_OPERATORS
    return name.endswith("_") and not name.endswith("__")


def out_of_place(func: Any, name: str) -> Any:
    """The function that computes what the in-place ``func`` writes; ``None`` if there is none."""
    fill = _RANDOM_FILLS.get(name)
    if fill is not None:
        return fill
    operator = _IN_PLACE_OPERATOR.match(name)
    short = f"__{operator[1]}__" if operator else name[:-1]
    if getattr(torch.Tensor, name, None) is func or operator:
        return getattr(torch.Tensor, short, None)
    for library in (functional, torch):
        if getattr(library, name, None) is func:
            return getattr(library, short, None)
    return getattr(torch, short, None) or getattr(functional, short, None)
