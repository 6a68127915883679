from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

import retiarii as rt
from retiarii.ir.infer import TypeCache
from retiarii.ir.types import FrozenDict, Ref, Result

X = (2, 4, 8, 8)


def conv(out: int = 4, kernel: int = 3, **more: Any) -> nn.Module:
    return nn.Conv2d(4, out, kernel, padding=kernel // 2, **more)


@pytest.fixture
def digest(maker: Any) -> Callable[..., str]:
    """The hash of what a function makes of a maker and its input."""

    def run(fn: Callable[[Any, Ref], Any], **context: Any) -> str:
        m = maker()
        made = fn(m, m.input("x", *X))
        outputs = made if isinstance(made, list) else [made]
        return str(m.graph(*outputs, **context).canonical_hash())

    return run


def path_names() -> Callable[[], str]:
    counter = itertools.count()
    return lambda: f"layer{next(counter)}"


def test_names_and_dead_nodes_do_not_matter(maker: Any) -> None:
    a, b = maker(), maker()
    x = a.input("x", *X)
    first = a.layer(conv(), x, path="one")
    z = b.input("image", *X)
    b.layer(conv(8), z, path="dead")
    second = b.layer(conv(), z, path="other.path")
    assert a.graph(first).canonical_hash() == b.graph(second).canonical_hash()


def test_an_attribute_matters(digest: Any) -> None:
    plain = digest(lambda m, x: m.layer(conv(), x, path="a"))
    seen = {plain}
    for other in (conv(bias=False), conv(8), conv(kernel=5), conv(groups=2)):
        seen.add(digest(lambda m, x, other=other: m.layer(other, x, path="a")))
    assert len(seen) == 5


def test_input_types_matter(maker: Any) -> None:
    hashes = set()
    for shape in ((2, 4), (2, 8), (4, 4)):
        m = maker()
        hashes.add(m.graph(m.add("relu", m.input("x", *shape))).canonical_hash())
    assert len(hashes) == 3


def test_an_unused_input_matters(maker: Any) -> None:
    a, b = maker(), maker()
    one = a.graph(a.add("relu", a.input("x", 2, 4)))
    x = b.input("x", 2, 4)
    b.input("unused", 2, 4)
    assert one.canonical_hash() != b.graph(b.add("relu", x)).canonical_hash()


def test_commutative_inputs_have_no_order(digest: Any) -> None:
    def product(flip: bool) -> Any:
        def make(m: Any, x: Ref) -> Ref:
            pair = [m.add("tanh", x), m.add("sigmoid", x)]
            return m.add("mul", *(reversed(pair) if flip else pair))

        return make

    def difference(flip: bool) -> Any:
        def make(m: Any, x: Ref) -> Ref:
            pair = [m.add("tanh", x), m.add("sigmoid", x)]
            return m.add("sub", *(reversed(pair) if flip else pair))

        return make

    assert digest(product(False)) == digest(product(True))
    assert digest(difference(False)) != digest(difference(True))


def test_concatenation_has_an_order(digest: Any) -> None:
    def make(kinds: Sequence[str]) -> Any:
        return lambda m, x: m.add("cat", *[m.add(k, x) for k in kinds], dim=1)

    assert digest(make(["tanh", "relu"])) != digest(make(["relu", "tanh"]))


def test_sums_have_no_nesting(digest: Any) -> None:
    def terms(m: Any, x: Ref) -> list[Ref]:
        return [x, m.add("tanh", x), m.layer(conv(), x, path="a"), m.layer(conv(), x, path="b")]

    def left(m: Any, x: Ref) -> Ref:
        a, b, c, d = terms(m, x)
        return m.add("add", m.add("add", m.add("add", a, b), c), d)

    def right(m: Any, x: Ref) -> Ref:
        a, b, c, d = terms(m, x)
        return m.add("add", d, m.add("add", b, m.add("add", a, c)))

    def twice(m: Any, x: Ref) -> Ref:
        a, b, c, d = terms(m, x)
        return m.add("add", d, m.add("add", b, m.add("add", m.add("add", a, a), c)))

    assert digest(left) == digest(right)
    assert digest(left) != digest(twice)


def test_a_sum_that_broadcasts_keeps_the_shape_its_zero_gave(maker: Any) -> None:
    def make(wide: bool) -> str:
        m = maker()
        x, y = m.input("x", 1, 4), m.input("y", 3, 4)
        zero = m.add("mul", y if wide else x, other=0)
        return str(m.graph(m.add("add", x, zero)).canonical_hash())

    m = maker()
    x = m.input("x", 1, 4)
    m.input("y", 3, 4)
    bare = m.graph(x).canonical_hash()
    assert make(wide=False) == bare
    assert make(wide=True) != bare


@pytest.mark.parametrize(
    "through",
    [
        lambda m, x: m.layer(nn.Identity(), x, path="skip"),
        lambda m, x: m.layer(nn.Dropout(0.0), x, path="drop"),
        lambda m, x: m.add("add", x, other=0),
        lambda m, x: m.add("mul", x, other=1.0),
        lambda m, x: m.add("add", x, m.add("mul", x, other=0.0)),
        lambda m, x: m.add("add", m.add("zeros_like", x), x),
    ],
)
def test_identities_vanish(digest: Any, through: Any) -> None:
    plain = digest(lambda m, x: m.layer(conv(), x, path="a"))
    assert digest(lambda m, x: m.layer(conv(), through(m, x), path="a")) == plain
    assert digest(lambda m, x: through(m, m.layer(conv(), x, path="a"))) == plain


def test_dropout_is_no_identity(digest: Any) -> None:
    plain = digest(lambda m, x: m.add("relu", x))
    dropped = digest(lambda m, x: m.add("relu", m.layer(nn.Dropout(0.5), x, path="d")))
    assert plain != dropped


@pytest.mark.parametrize(
    "layer",
    [
        conv(bias=False),
        nn.MaxPool2d(3, 1, 1),
        nn.AvgPool2d(3, 1, 1),
        nn.ReLU(),
    ],
)
def test_a_zero_spreads(digest: Any, layer: nn.Module) -> None:
    def make(m: Any, x: Ref) -> Ref:
        return m.add("add", x, m.layer(layer, m.add("mul", x, other=0), path="branch"))

    assert digest(make) == digest(lambda m, x: x)


@pytest.mark.parametrize("layer", [conv(), nn.BatchNorm2d(4), nn.Sigmoid()])
def test_what_a_zero_does_not_pass(digest: Any, layer: nn.Module) -> None:
    def make(m: Any, x: Ref) -> Ref:
        return m.add("add", x, m.layer(layer, m.add("mul", x, other=0), path="branch"))

    assert digest(make) != digest(lambda m, x: x)
    # The zero itself says nothing of where it came from.
    assert digest(make) == digest(
        lambda m, x: m.add(
            "add", x, m.layer(layer, m.add("zeros_like", m.add("tanh", x)), path="branch")
        )
    )


@pytest.mark.parametrize(
    ("layer", "op", "attrs"),
    [
        (nn.ReLU(), "relu", {}),
        (nn.ReLU(inplace=True), "relu", {}),
        (nn.Flatten(), "flatten", {"start_dim": 1}),
        (nn.AdaptiveAvgPool2d(1), "adaptive_avg_pool2d", {"output_size": 1}),
        (nn.AdaptiveAvgPool2d((1, 1)), "adaptive_avg_pool2d", {"output_size": 1}),
        (nn.MaxPool2d(2), "max_pool2d", {"kernel_size": 2}),
        (nn.MaxPool2d((2, 2)), "max_pool2d", {"kernel_size": 2}),
        (nn.Softmax(dim=1), "softmax", {"dim": 1}),
        (nn.GELU(), "gelu", {}),
    ],
)
def test_a_layer_and_its_function_are_one(
    digest: Any, layer: nn.Module, op: str, attrs: dict[str, Any]
) -> None:
    as_layer = digest(lambda m, x: m.layer(layer, x, path="layer"))
    assert as_layer == digest(lambda m, x: m.add(op, x, **attrs))


def test_equal_pure_nodes_are_one(digest: Any) -> None:
    def shared(m: Any, x: Ref) -> Ref:
        y = m.add("tanh", x)
        return m.add("mul", y, y)

    def repeated(m: Any, x: Ref) -> Ref:
        return m.add("mul", m.add("tanh", x), m.add("tanh", x))

    assert digest(shared) == digest(repeated)


def test_equal_layers_are_not_one(digest: Any) -> None:
    def shared(m: Any, x: Ref) -> Ref:
        y = m.layer(conv(), x, path="a")
        return m.add("mul", y, y)

    def twins(m: Any, x: Ref) -> Ref:
        return m.add("mul", m.layer(conv(), x, path="a"), m.layer(conv(), x, path="b"))

    def called_twice(m: Any, x: Ref) -> Ref:
        return m.add("mul", m.layer(conv(), x, path="a"), m.layer(conv(), x, path="a"))

    assert digest(shared) != digest(twins)
    assert digest(called_twice) == digest(shared)


def test_dropouts_draw_their_own_numbers(digest: Any) -> None:
    def shared(m: Any, x: Ref) -> Ref:
        y = m.layer(nn.Dropout(0.5), x, path="a")
        return m.add("mul", y, y)

    def two(m: Any, x: Ref) -> Ref:
        return m.add(
            "mul", m.layer(nn.Dropout(0.5), x, path="a"), m.layer(nn.Dropout(0.5), x, path="b")
        )

    assert digest(shared) != digest(two)


def test_twins_are_told_apart_by_their_uses(digest: Any) -> None:
    def make(pairs: Sequence[tuple[int, int]], last: int) -> Any:
        def build(m: Any, x: Ref) -> Ref:
            twins = [m.layer(conv(), x, path=f"twin{i}") for i in range(2)]
            total = m.add("tanh", twins[last])
            for a, b in pairs:
                total = m.add("add", total, m.add("mul", twins[a], twins[b]))
            return total

        return build

    y_y_z = digest(make([(0, 0)], 1))
    y_z_y = digest(make([(0, 1)], 0))
    y_y_y = digest(make([(0, 0)], 0))
    assert len({y_y_z, y_z_y, y_y_y}) == 3
    assert digest(make([(1, 1)], 0)) == y_y_z
    assert digest(make([(1, 0)], 1)) == y_z_y


def test_regular_patterns_of_twins_are_told_apart(digest: Any) -> None:
    """Six twins in a ring, or in two rings of three: colour refinement alone sees one graph."""

    def make(edges: Sequence[tuple[int, int]]) -> Any:
        def build(m: Any, x: Ref) -> Ref:
            twins = [m.layer(conv(), x, path=f"twin{i}") for i in range(6)]
            terms = [m.add("tanh", m.add("mul", twins[a], twins[b])) for a, b in edges]
            total = terms[0]
            for term in terms[1:]:
                total = m.add("add", total, term)
            return total

        return build

    ring = [(i, (i + 1) % 6) for i in range(6)]
    triangles = [(0, 1), (1, 2), (2, 0), (3, 4), (4, 5), (5, 3)]
    other_ring = [(0, 3), (3, 1), (1, 4), (4, 2), (2, 5), (5, 0)]
    assert digest(make(ring)) == digest(make(other_ring))
    assert digest(make(ring)) != digest(make(triangles))


def test_a_shared_layer_differs_from_two(digest: Any) -> None:
    def make(tied: bool) -> Any:
        def build(m: Any, x: Ref) -> Ref:
            first = m.layer(conv(), x, path="a")
            return m.layer(conv(), first, path="a" if tied else "b")

        return build

    assert digest(make(True)) != digest(make(False))


def test_tied_parameters_differ_from_two(maker: Any) -> None:
    def make(ties: dict[str, str], path: str = "head") -> str:
        m = maker()
        x = m.input("x", 2, 4)
        y = m.layer(nn.Linear(4, 4), x, path="body")
        return str(m.graph(m.layer(nn.Linear(4, 4), y, path=path), ties=ties).canonical_hash())

    tied = make({"head.weight": "body.weight"})
    assert tied != make({})
    assert tied == make({"top.weight": "body.weight"}, path="top")
    assert tied != make({"head.bias": "body.bias"})


def test_a_layers_weight_used_directly_is_that_weight(maker: Any) -> None:
    def make(key: str) -> str:
        m = maker()
        x = m.input("x", 2, 4)
        y = m.layer(nn.Linear(4, 4), x, path="body")
        return str(m.graph(m.add("matmul", y, m.parameter(key, 4, 4))).canonical_hash())

    assert make("body.weight") != make("other")


def test_values_that_are_not_learned_matter(maker: Any) -> None:
    def make(kind: str, value: float) -> str:
        m = maker()
        x = m.input("x", 2, 4)
        held = torch.full((4,), value)
        other = {
            "constant": lambda: m.constant("c", held),
            "buffer": lambda: m.buffer("scale", held),
            "parameter": lambda: m.parameter("scale", 4, value=held),
        }[kind]()
        return str(m.graph(m.add("mul", x, other)).canonical_hash())

    assert make("constant", 1.0) != make("constant", 2.0)
    assert make("buffer", 1.0) != make("buffer", 2.0)
    assert make("parameter", 1.0) == make("parameter", 2.0)


def test_no_grad_matters(digest: Any) -> None:
    plain = digest(lambda m, x: m.layer(conv(), x, path="a"))
    without = digest(lambda m, x: m.layer(conv(), x, path="a", no_grad=True))
    assert plain != without


def test_a_layer_in_another_mode_is_another(digest: Any) -> None:
    def norm(m: Any, x: Ref) -> Ref:
        return m.layer(nn.BatchNorm2d(4), x, path="n")  # type: ignore[no-any-return]

    assert digest(norm) != digest(norm, modes={"n": False})


def test_outputs_have_an_order_and_a_structure(digest: Any) -> None:
    def both(m: Any, x: Ref) -> list[Ref]:
        return [m.add("tanh", x), m.add("relu", x)]

    def swapped(m: Any, x: Ref) -> list[Ref]:
        return list(reversed(both(m, x)))

    pair = (Result(0), Result(1))
    named = FrozenDict((("a", Result(0)), ("b", Result(1))))
    assert digest(both, structure=pair) != digest(swapped, structure=pair)
    assert digest(both, structure=pair) != digest(both, structure=named)


def test_results_of_one_node_are_told_apart(maker: Any) -> None:
    def make(index: int) -> str:
        m = maker()
        node = m.layer(nn.LSTM(4, 4), m.input("x", 5, 2, 4), path="rnn")
        return str(m.graph(Ref(node.node, index)).canonical_hash())

    assert make(1) != make(2)


def test_it_is_the_same_in_every_process(tmp_path: Any) -> None:
    code = (
        "import torch; from torch import nn\n"
        "from retiarii.ir.forms.text import parse_text\n"
        "print(parse_text('''graph (batch=2) {\n"
        "  %x = input() : float32[2, 4]\n"
        "  %a = tanh(%x) : float32[2, 4]\n"
        "  %b = relu(%x) : float32[2, 4]\n"
        "  %c = mul(%a, %b) : float32[2, 4]\n"
        "  return %c\n}''').canonical_hash())\n"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed, "PATH": ""},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(found) == 1
    assert len(found.pop().strip()) == 32


# --- spaces whose number of classes is known --------------------------------------------------

EDGES = [(0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3)]
OPERATIONS = ("none", "skip", "conv1", "conv3", "pool")


def edge(m: Any, kind: str, x: Ref, path: str) -> Ref:
    if kind == "none":
        return m.add("mul", x, other=0.0)  # type: ignore[no-any-return]
    if kind == "skip":
        return x
    if kind == "pool":
        return m.layer(nn.AvgPool2d(3, 1, 1), x, path=path)  # type: ignore[no-any-return]
    kernel = int(kind[-1])
    y = m.layer(nn.ReLU(), x, path=f"{path}.0")
    y = m.layer(conv(kernel=kernel, bias=False), y, path=f"{path}.1")
    return m.layer(nn.BatchNorm2d(4), y, path=f"{path}.2")  # type: ignore[no-any-return]


def cell(m: Any, x: Ref, kinds: Sequence[str], edges: Sequence[tuple[int, int]]) -> Ref:
    nodes: list[Ref] = [x]
    for node in range(1, edges[-1][1] + 1):
        total: Ref | None = None
        for (source, target), kind in zip(edges, kinds, strict=True):
            if target != node:
                continue
            term = edge(m, kind, nodes[source], f"cell.{source}{target}")
            total = term if total is None else m.add("add", total, term)
        assert total is not None
        nodes.append(total)
    return nodes[-1]


# An exact form of a cell, made without any graph: the expression as text, with sums sorted and
# zeros gone, and layers numbered in whichever way gives the smallest text.
Term = tuple[Any, ...]
ZERO: Term = ("0",)


def expression(kinds: Sequence[str], edges: Sequence[tuple[int, int]]) -> Term:
    nodes: list[Term] = [("x",)]
    for node in range(1, edges[-1][1] + 1):
        terms: list[Term] = []
        for number, ((source, target), kind) in enumerate(zip(edges, kinds, strict=True)):
            if target != node or kind == "none":
                continue
            value = nodes[source]
            if value == ZERO and kind in ("skip", "pool"):
                continue
            if kind == "skip":
                terms += value[1:] if value[0] == "sum" else [value]
            elif kind == "pool":
                terms.append(("pool", None, value))
            else:
                terms.append(("norm" if value == ZERO else kind, number, value))
        nodes.append(ZERO if not terms else terms[0] if len(terms) == 1 else ("sum", *terms))
    return nodes[-1]


def layers_in(term: Term) -> set[int]:
    inner = set().union(*(layers_in(t) for t in term[1:] if isinstance(t, tuple)))
    return inner | {t for t in term[1:] if isinstance(t, int)}


def spelled(term: Term, number: Any) -> str:
    parts = [
        spelled(t, number) if isinstance(t, tuple) else str(number.get(t, "")) for t in term[1:]
    ]
    return f"{term[0]}({','.join(sorted(parts) if term[0] == 'sum' else parts)})"


def exact(term: Term) -> str:
    layers = sorted(layers_in(term))
    return min(
        spelled(term, dict(zip(layers, order, strict=True)))
        for order in itertools.permutations(range(len(layers)))
    )


def check_cells(maker: Any, edges: Sequence[tuple[int, int]]) -> int:
    """Hashes and exact forms say the same of every two cells; how many classes there are."""
    types = TypeCache(2)
    classes: set[tuple[str, str]] = set()
    for kinds in itertools.product(OPERATIONS, repeat=len(edges)):
        m = maker(types=types)
        made = cell(m, m.input("x", *X), kinds, edges)
        classes.add((m.graph(made).canonical_hash(), exact(expression(kinds, edges))))
    assert len({digest for digest, _ in classes}) == len({form for _, form in classes})
    assert len({digest for digest, _ in classes}) == len(classes)
    return len(classes)


def test_cells_of_three_nodes_have_their_classes(maker: Any) -> None:
    assert check_cells(maker, EDGES[:3]) == 65


@pytest.mark.slow
def test_nas_bench_201_has_its_classes(maker: Any) -> None:
    assert check_cells(maker, EDGES) == 5485


def test_sums_of_branches_have_their_classes(maker: Any) -> None:
    kinds: dict[str, Callable[[], nn.Module]] = {
        "conv": conv,
        "depthwise": lambda: conv(groups=4),
        "maxpool": lambda: nn.MaxPool2d(3, 1, 1),
    }
    types = TypeCache(2)
    hashes = []
    for count in (2, 3, 4, 5):
        for chosen in itertools.product(kinds, repeat=count):
            m = maker(types=types)
            x = m.input("x", *X)
            total = None
            for i, kind in enumerate(chosen):
                term = m.layer(kinds[kind](), x, path=f"b{i}")
                total = term if total is None else m.add("add", total, term)
            hashes.append(m.graph(total).canonical_hash())
    assert len(hashes) == 360
    assert len(set(hashes)) == 52


# --- properties ------------------------------------------------------------------------------

Step = tuple[str, int, int]
STEP = st.tuples(
    st.sampled_from(
        ["add", "mul", "sub", "tanh", "relu", "linear", "bare", "skip", "zero", "norm"]
    ),
    st.integers(0, 50),
    st.integers(0, 50),
)
STEPS = st.lists(STEP, min_size=1, max_size=9)
SHORT = st.lists(STEP, min_size=1, max_size=5)


def examples(count: int) -> Any:
    return settings(
        deadline=None,
        max_examples=count,
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )


def follow(m: Any, steps: Sequence[Step], prefix: str, flip: bool) -> Any:
    """The graph that a program of steps describes; ``flip`` swaps what may be swapped."""
    values = [m.input("x", 2, 3)]
    for number, (kind, a, b) in enumerate(steps):
        x, y = values[a % len(values)], values[b % len(values)]
        path = f"{prefix}{number}"
        if kind in ("add", "mul", "sub"):
            pair = (y, x) if flip and kind != "sub" else (x, y)
            values.append(m.add(kind, *pair, name=path))
        elif kind in ("tanh", "relu"):
            values.append(m.add(kind, x, name=path))
        elif kind in ("linear", "bare"):
            values.append(m.layer(nn.Linear(3, 3, bias=kind == "linear"), x, path=path))
        elif kind == "skip":
            values.append(m.layer(nn.Identity(), x, path=path) if flip else x)
        elif kind == "norm":
            values.append(m.layer(nn.BatchNorm1d(3), x, path=path))
        else:
            values.append(m.add("mul", x, other=0, name=path))
    return m.graph(values[-1])


@settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(steps=STEPS)
def test_renaming_reordering_and_skips_never_change_it(maker: Any, steps: list[Step]) -> None:
    one = follow(maker(), steps, "a", False)
    other = follow(maker(), steps, "z", True)
    assert one.canonical_hash() == other.canonical_hash()


@settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(order=st.permutations(range(5)), splits=st.lists(st.integers(0, 10), min_size=4, max_size=4))
def test_nesting_sums_anew_never_changes_it(
    maker: Any, order: list[int], splits: list[int]
) -> None:
    def terms(m: Any) -> list[Ref]:
        x = m.input("x", 2, 3)
        twins = [m.layer(nn.Linear(3, 3), x, path=f"p{i}") for i in range(3)]
        return [x, x, *twins]

    a, b = maker(), maker()
    flat = terms(a)
    total = flat[0]
    for term in flat[1:]:
        total = a.add("add", total, term)
    made = terms(b)
    shuffled = [made[i] for i in order]
    for split in splits:
        i = split % (len(shuffled) - 1)
        shuffled[i : i + 2] = [b.add("add", shuffled[i], shuffled[i + 1])]
    (nested,) = shuffled
    assert a.graph(total).canonical_hash() == b.graph(nested).canonical_hash()


@settings(
    deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(first=SHORT, second=SHORT, data=st.data())
def test_equal_hashes_are_equal_functions(
    maker: Any, first: list[Step], second: list[Step], data: Any
) -> None:
    """For some way of giving the one's weights to the other."""
    if data.draw(st.booleans(), label="related"):
        # Unrelated programs seldom meet: change one step and see.
        at = data.draw(st.integers(0, len(first) - 1))
        second = [*first[:at], second[0], *first[at + 1 :]]
    one, other = follow(maker(), first, "a", False), follow(maker(), second, "b", True)
    if one.canonical_hash() != other.canonical_hash():
        return
    assert same_function(one.to_module(seed=1), other.to_module(seed=2))


def same_function(one: nn.Module, other: nn.Module) -> bool:
    one, other = one.double().eval(), other.double().eval()
    x = torch.randn(2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    wanted = one(x)

    def layers(model: nn.Module) -> list[nn.Module]:
        return [m for m in model.modules() if isinstance(m, nn.Linear | nn.BatchNorm1d)]

    given = layers(one)
    for layer in given:
        for parameter in layer.parameters():
            nn.init.normal_(parameter, generator=torch.Generator().manual_seed(id(parameter) % 997))
    wanted = one(x)
    taking = layers(other)
    for chosen in itertools.permutations(given + [None] * len(taking), len(taking)):
        if any(
            c is not None and [p.shape for p in c.parameters()] != [p.shape for p in t.parameters()]
            for c, t in zip(chosen, taking, strict=True)
        ):
            continue
        for source, target in zip(chosen, taking, strict=True):
            if source is not None:
                target.load_state_dict(source.state_dict())
        if torch.allclose(other(x), wanted, rtol=1e-9, atol=1e-12):
            return True
    return False


class Sorted(nn.Module):
    """Opaque: what it does depends on its numbers."""

    def __init__(self, inner: int, act: str = "relu") -> None:
        super().__init__()
        self.one, self.two = nn.Linear(4, inner), nn.Linear(inner, 4)
        self.act = act

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.two(self.one(x)) if x.sum() > 0 else x


def test_opaque_modules_that_differ_inside_do_not_share_a_hash() -> None:
    def hashed(module: nn.Module) -> str:
        graph = rt.parse(nn.Sequential(module), torch.zeros(2, 4))
        assert graph.opaque
        return graph.canonical_hash()

    assert hashed(Sorted(3)) == hashed(Sorted(3))
    assert len({hashed(Sorted(3)), hashed(Sorted(5)), hashed(Sorted(3, "gelu"))}) == 3


def test_frozen_weights_that_a_graph_takes_over_are_read_anew() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("scale", torch.arange(4.0))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * self.scale

    graph = rt.parse(Scaled(), torch.zeros(2, 4))
    before = graph.canonical_hash()
    other = graph.copy()
    other.context = replace(graph.context, weights={"scale": torch.ones(4)})
    assert other.canonical_hash() != before
