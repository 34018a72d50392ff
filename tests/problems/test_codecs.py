"""What a sample may hold of each modality, and what is said of anything else."""

import numpy as np
import pyarrow
import pytest

from t2tdeploy.features import FeatureSpec, Modality
from t2tdeploy.problems.codecs import codecs_of
from t2tdeploy.problems.records import schema_of

TEXT = FeatureSpec("inputs", Modality.SYMBOL, vocabulary="inputs")
PAIR = FeatureSpec("inputs", Modality.SYMBOL, vocabulary="inputs", parts=2)
LABEL = FeatureSpec("targets", Modality.CLASS_LABEL, classes=("negative", "positive"))
FOUND = FeatureSpec("targets", Modality.CLASS_LABEL)
TAGS = FeatureSpec("targets", Modality.MULTI_LABEL, classes=("a", "b", "c"))
NUMBER = FeatureSpec("size", Modality.REAL)
VECTOR = FeatureSpec("size", Modality.REAL, shape=(2, 2))
PICTURE = FeatureSpec("picture", Modality.IMAGE, shape=(2, 3, 1))
KIND = FeatureSpec("kind", Modality.CATEGORY, vocab_size=4)

GRAY = np.arange(6, dtype=np.uint8).reshape(2, 3, 1)


def codec(spec):
    return codecs_of({spec.name: spec})[0]


@pytest.mark.parametrize(
    ("spec", "value"),
    [
        (TEXT, "a"),
        (TEXT, ""),
        (PAIR, ("a", "b")),
        (PAIR, ["a", "b"]),
        (LABEL, "positive"),
        (LABEL, 0),
        (LABEL, np.int64(1)),
        (FOUND, "anything"),
        (TAGS, []),
        (TAGS, ("a", 2)),
        (NUMBER, 3),
        (NUMBER, np.float64(-2.5)),
        (NUMBER, True),
        (VECTOR, [[1, 2], [3, 4.5]]),
        (VECTOR, np.eye(2)),
        (PICTURE, GRAY),
        (KIND, 3),
    ],
)
def test_what_is_valid_has_no_fault(spec, value):
    assert codec(spec).fault(value) is None


@pytest.mark.parametrize(
    ("spec", "value", "said"),
    [
        (TEXT, None, "is None"),
        (TEXT, ("a",), "is ('a',)"),
        (TEXT, "\ud800", "UTF-8"),
        (PAIR, "a", "is 'a'"),
        (PAIR, ("a", "b", "c"), "has 3 texts instead of 2"),
        (LABEL, "postive", "did you mean 'positive'?"),
        (LABEL, "xyz", "classes: negative, positive"),
        (LABEL, " ", "is empty"),
        (LABEL, 2, "is 2, out of the range of its 2 classes, 0 to 1"),
        (LABEL, -1, "out of the range"),
        (LABEL, True, "is True"),
        (LABEL, 1.0, "is 1.0"),
        (FOUND, 1, "give their names"),
        (TAGS, "a", "is 'a'"),
        (TAGS, ["a", "d"], "is 'd', which is no class"),
        (NUMBER, "3", "is '3'"),
        (NUMBER, None, "is None"),
        (NUMBER, float("nan"), "not finite"),
        (NUMBER, 1e39, "not finite in float32"),
        (NUMBER, [1.0], "has the shape [1] instead of []"),
        (VECTOR, [[1], [2, 3]], "is [[1], [2, 3]]"),
        (VECTOR, [1, 2], "has the shape [2] instead of [2, 2]"),
        (PICTURE, GRAY.tolist(), "is [[[0]"),
        (PICTURE, GRAY / 255, "is an array of float64"),
        (PICTURE, GRAY[:, :, 0], "has the shape [2, 3] instead of [2, 3, 1]"),
        (KIND, 4, "out of the range of its 4 ids"),
        (KIND, "a", "is 'a'"),
    ],
)
def test_a_fault_names_the_value_and_what_would_do(spec, value, said):
    assert said in codec(spec).fault(value)


def test_many_classes_are_not_all_shown():
    spec = FeatureSpec("targets", Modality.CLASS_LABEL, classes=tuple(f"class {i}" for i in range(1000)))
    fault = codec(spec).fault("zzz")
    assert "(1000 in all)" in fault
    assert len(fault) < 400


@pytest.mark.parametrize(
    ("spec", "same", "other"),
    [
        (PAIR, (("a", "b"), ["a", "b"]), ("ab", "")),
        (LABEL, (1, "positive"), 0),
        (TAGS, (["b", "a"], (0, 1)), ["a"]),
        (NUMBER, (1, 1.0), 1.5),
        (VECTOR, ([[1, 0], [0, 1]], np.eye(2)), np.ones((2, 2))),
        (PICTURE, (GRAY, GRAY.copy()), GRAY[::-1]),
        (KIND, (1, np.int32(1)), 2),
    ],
)
def test_digests_tell_values_apart_and_not_their_forms(spec, same, other):
    assert codec(spec).digest(same[0]) == codec(spec).digest(same[1]) != codec(spec).digest(other)


def test_the_columns_of_text_are_those_of_every_version():
    features = {name: FeatureSpec(name, Modality.SYMBOL, vocabulary=name) for name in ("inputs", "targets")}
    ids, text = pyarrow.list_(pyarrow.int32()), pyarrow.string()
    columns = [("index", pyarrow.int64()), ("inputs", ids), ("targets", ids)]
    assert schema_of(features).equals(pyarrow.schema([*columns, ("inputs_text", text), ("targets_text", text)]))
