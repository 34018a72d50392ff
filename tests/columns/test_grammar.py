"""Columns as options declare them."""

from __future__ import annotations

import pytest

from t2tdeploy.columns.declare import Declaration, bucketized, crossed, hashed, numeric, vocabulary
from t2tdeploy.columns.grammar import parse_columns
from t2tdeploy.errors import InputError


@pytest.mark.parametrize(
    ("text", "declaration"),
    [
        ("age:numeric", numeric("age")),
        ("income : log", numeric("income", scale="log")),
        ("age:bucketized", bucketized("age")),
        ("age:bucketized:5", bucketized("age", buckets=5)),
        ("age:bucketized:18|65.5", bucketized("age", boundaries=(18, 65.5))),
        ("city:vocabulary", vocabulary("city")),
        ("city:vocabulary:min_count=5:embedding=8", vocabulary("city", min_count=5, embedding=8)),
        ("zip:hashed:100:indicator", hashed("zip", buckets=100, embedding=0)),
        ("sex*city:crossed:500", crossed("sex", "city", buckets=500)),
        ("a:b:hashed", hashed("a:b")),
    ],
)
def test_declarations(text: str, declaration: Declaration) -> None:
    assert parse_columns((text,)) == ([declaration], set())


def test_columns_can_be_ignored() -> None:
    assert parse_columns(("id:ignored", "age:numeric")) == ([numeric("age")], {"id"})


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("age", "kinds are numeric, log, bucketized, vocabulary, hashed, crossed, ignored"),
        ("age:numerical", "did you mean 'numeric'?"),
        ("age:numeric:3", "numeric takes no value"),
        ("age:bucketized:a|b", "'a|b' is neither a number of buckets nor boundaries"),
        ("age:bucketized:3|1", "do not ascend"),
        ("zip:hashed:many", "'many' is not a whole number"),
        ("sex:crossed", "a cross names its columns with * between them"),
        (
            "city:vocabulary:mincount=2",
            "'mincount=2' is no option of vocabulary; valid ones: indicator, embedding, min",
        ),
        ("age:numeric:embedding=2", "'embedding=2' is no option of numeric; valid ones: none"),
        ("id:ignored:1", "ignored takes no value"),
    ],
)
def test_what_is_not_of_the_grammar(text: str, problem: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_columns((text,))
    assert f"column '{text}'" in str(caught.value) or "do not ascend" in str(caught.value)
    assert problem in str(caught.value)
