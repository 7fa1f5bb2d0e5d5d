"""Identities of functions: equal for equal code and content, different otherwise, and unknown where they must be."""

from __future__ import annotations

import functools
import math
import threading

import numpy as np
import pytest
import torch

from pyro_pcflow.metrics.identity import code_identity, qualified_name


def make(body, defaults=None):
    namespace = {}
    exec(f"def f(x, y{defaults or ''}):\n    {body}", namespace)
    return namespace["f"]


def holding(value):
    return lambda x, y: (value, x)


def test_code_defaults_and_constants_tell_functions_apart():
    functions = [
        make("return x - y"),
        make("return x + y"),
        make("return x.sum(y)"),
        make("return x.mean(y)"),
        make("return x - 2 * y"),
        make("return x - 3 * y"),
        make("return x - y", ", scale=1"),
        make("return x - y", ", scale=2"),
        make("return x - y", ", *, scale=1"),
        make("return [x - y for _ in range(1)]"),
        make("return [x - y for _ in range(2)]"),
    ]
    assert len({code_identity(function) for function in functions}) == len(functions)
    assert code_identity(make("return x - y")) == code_identity(functions[0])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1.0, 2.0),
        (1, 1.0),
        ("a", "b"),
        (b"a", b"b"),
        ([1, 2], [2, 1]),
        ((1,), [1]),
        ({"a": 1}, {"a": 2}),
        ({1, 2}, {1, 3}),
        (torch.zeros(2), torch.zeros(3)),
        (torch.zeros(2), torch.tensor([0.0, 1e-30])),
        (np.zeros(2), np.zeros(2, dtype=np.float32)),
        (torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)),
        (math, np),
        (int, float),
        (math.sin, math.cos),
        (holding(1), holding(2)),
        (functools.partial(max, 1), functools.partial(max, 2)),
    ],
)
def test_captured_values_tell_functions_apart(one, other):
    identities = code_identity(holding(one)), code_identity(holding(other))
    assert None not in identities
    assert identities[0] != identities[1]
    assert code_identity(holding(one)) == identities[0]
    assert code_identity(functools.partial(make("return x"), one)) != code_identity(
        functools.partial(make("return x"), other)
    )


def test_an_object_of_unknown_content_has_no_identity():
    for unknown in (threading.Lock(), [threading.Lock()], object()):
        assert code_identity(holding(unknown)) is None
    assert code_identity(threading.Lock()) is None


class Scaled(torch.nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.register_buffer("factor", torch.tensor(factor))

    def between(self, x, y):
        return self.factor * (x - y)


def test_a_method_is_its_code_and_its_object():
    identities = [code_identity(Scaled(factor).between) for factor in (1.0, 1.0, 2.0)]
    assert identities[0] == identities[1] != identities[2]
    assert qualified_name(Scaled(1.0).between).endswith("Scaled.between")


def test_a_function_that_holds_itself():
    def recursive(x, y):
        return recursive(y, x)

    assert code_identity(recursive) == code_identity(recursive)


def test_names():
    assert qualified_name(torch.nn.functional.relu) == "torch.nn.functional.relu"
    assert qualified_name(functools.partial(make, "x")).endswith("make, partial")
    assert qualified_name(torch.nn.Linear(2, 2)) == "torch.nn.modules.linear.Linear"
