"""Merged training equals training each model alone: random graphs, batch sizes, both modes."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from retiarii.testing.merging import adam, check_merged, sgd
from retiarii.testing.random_nets import OPS, RandomNet, Recipe, Step, batches

STEPS = st.builds(
    Step,
    op=st.sampled_from(sorted(OPS)),
    first=st.integers(0, 5),
    second=st.integers(0, 5),
    option=st.integers(0, 3),
    tie=st.booleans(),
)
RECIPES = st.builds(
    Recipe,
    steps=st.lists(STEPS, min_size=1, max_size=8).map(tuple),
    frozen=st.sampled_from([0, 0, 1, 2]),
    output=st.sampled_from(["tensor", "dict", "tuple"]),
)


@settings(max_examples=40, derandomize=True)
@given(recipes=st.lists(RECIPES, min_size=1, max_size=4), use_adam=st.booleans())
def test_random_models(recipes: list[Recipe], use_adam: bool) -> None:
    models = [RandomNet(recipe, seed) for seed, recipe in enumerate(recipes)]
    check_merged(models, batches([3, 3, 5]), optimizer=adam if use_adam else sgd)
