from __future__ import annotations

import pytest

from pyro_pcflow.ops.options import check_options, option_names


def one(first, /, shape, *rest, key=None, **others): ...


def other(key, *, value=1): ...


def test_keywords_in_their_order_each_once():
    assert option_names(one, other) == ("shape", "key", "value")
    assert option_names(one, other, without=("key",)) == ("shape", "value")


def test_known_words_pass():
    check_options(["a", "b"], ["b", "a"], "it")
    check_options([], [], "it")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["lables"], "fit: unknown option 'lables' (did you mean 'labels'?); it takes labels, mask"),
        (["mask", "q", 7], "fit: unknown options 'q', 7; it takes labels, mask"),
    ],
)
def test_unknown_words_are_named_with_those_that_come_near(given, expected):
    with pytest.raises(TypeError) as error:
        check_options(given, ["labels", "mask"], "fit")
    assert str(error.value) == expected
