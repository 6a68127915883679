from __future__ import annotations

import ast

import pytest

from retiarii.ir.build.wrapping import broken


@pytest.mark.parametrize(
    ("statement", "lines"),
    [
        ("x = f(a, b)", ["x = f(a, b)"]),
        (
            "hidden = layers.first(the_input, dim=1)",
            ["hidden = layers.first(", "    the_input, dim=1", ")"],
        ),
        (
            "x = cat([first_branch, second], f(10))",
            ["x = cat(", "    [first_branch, second],", "    f(10),", ")"],
        ),
        (
            "the_sum_of_all = the_first_one + the_second",
            ["the_sum_of_all = (", "    the_first_one + the_second", ")"],
        ),
        (
            "y = the_very_first_one + the_second_of_them",
            ["y = (", "    the_very_first_one", "    + the_second_of_them", ")"],
        ),
        (
            "return a_long_name if self.training else another",
            ["return (", "    a_long_name", "    if self.training", "    else another", ")"],
        ),
        (
            "    deep = a_function(one_argument)",
            ["    deep = a_function(", "        one_argument", "    )"],
        ),
        (
            "a_first, a_second, a_third, a_fourth = split(x)",
            ["(", "    a_first,", "    a_second,", "    a_third,", "    a_fourth,", ") = split(x)"],
        ),
        (
            "x = table[a_rather_long_index_name]",
            ["x = table[", "    a_rather_long_index_name", "]"],
        ),
        (
            'raise ValueError("a text, (with brackets")',
            ["raise ValueError(", '    "a text, (with brackets"', ")"],
        ),
    ],
)
def test_statements_are_broken_where_a_formatter_would(statement: str, lines: list[str]) -> None:
    assert list(broken(statement, width=32)) == lines


@pytest.mark.parametrize("width", [1, 8, 16, 24, 40, 60])
@pytest.mark.parametrize(
    "statement",
    [
        "x = f(a)(b, c)[d].g(h, [1, 2, 3], {'k, (': (v,)})",
        "x = (a if self.training else b) + g(c)",
        "x = table[(index)]",
        "x = table[index, :, None, ...]",
        "x = table[a:b]",
        "x = ((a),)",
        "x = torch.ones((512, 512), dtype=torch.bool).tril()",
        "x = torch.tensor([1, -2, 3.5, 4, 5], dtype=torch.int64).reshape((5, 1))",
        'x = f(\'it\\\'s\', "a, b", key="(")',
        "(a, b), _ = f(x, y=-1)",
        "self.layers[0].weight = nn.Parameter(torch.zeros((3, 4)), requires_grad=False)",
        "return a, b, [c, d]",
        "return Pair(left=a, right=(b, c))",
        "x = [1e-05, -2.5e-07, 3]",
        "x = a - b",
    ],
)
def test_a_statement_stays_what_it_is(statement: str, width: int) -> None:
    def dump(text: str) -> str:
        return ast.dump(ast.parse(text))

    text = "\n".join(broken(statement, width))
    head = "def f():\n    " if statement.startswith("return") else ""
    assert dump(head + text.replace("\n", "\n    ") if head else text) == dump(head + statement)
