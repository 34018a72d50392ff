"""Problems by name, their options and features."""

from pathlib import Path

import pytest

from t2tdeploy.errors import SettingsError, UnknownNameError, UserError
from t2tdeploy.problems.problem import ProblemOptions, get_problem
from t2tdeploy.progress import SilentReporter
from t2tdeploy.tokenizer import ByteTokenizer


@pytest.mark.usefixtures("make_problem")
def test_name_is_snake_case_of_the_class():
    assert get_problem("toy_pairs").__name__ == "ToyPairs"
    assert get_problem("toy_pairs").name == "toy_pairs"


def test_rev_swaps_the_sides_and_keeps_everything_else(make_problem):
    forward, backward = make_problem("toy_pairs"), make_problem("toy_pairs_rev")
    pairs = list(forward.generate_samples("dev", Path(), SilentReporter()))
    swapped = list(backward.generate_samples("dev", Path(), SilentReporter()))
    assert backward.name == "toy_pairs_rev"
    assert [(p["inputs"], p["targets"]) for p in pairs] == [(p["targets"], p["inputs"]) for p in swapped]
    assert isinstance(backward, type(forward))
    assert get_problem("toy_pairs_rev") is get_problem("toy_pairs_rev")


def test_the_examples_of_an_estimator_are_in_its_program():
    with pytest.raises(UserError, match="input functions of its program"):
        get_problem("estimator")


@pytest.mark.parametrize(
    ("asked", "nearest"), [("toy_pear", "toy_pairs"), ("toy_pear_rev", "toy_pairs_rev"), ("toy_pairs_rev_rev", None)]
)
@pytest.mark.usefixtures("make_problem")
def test_unknown_name_shows_the_nearest(asked, nearest):
    with pytest.raises(UnknownNameError) as caught:
        get_problem(asked)
    assert nearest is None or caught.value.nearest == nearest


def test_every_option_is_described():
    assert all(field.description for field in ProblemOptions.model_fields.values())


def test_options_report_every_fault():
    with pytest.raises(SettingsError) as caught:
        ProblemOptions().override("vocab_size=0,vocab_kind=words,joint=true")
    assert {fault.field for fault in caught.value.faults} == {"vocab_size", "vocab_kind", "joint"}


@pytest.mark.parametrize(("joint", "names"), [(True, ["shared", "shared"]), (False, ["inputs", "targets"])])
def test_features_share_a_vocabulary_only_when_joint(make_problem, joint, names):
    tokenizer = ByteTokenizer()
    problem = make_problem("toy_pairs", joint_vocabulary=joint)
    features = problem.features({"inputs": tokenizer, "targets": tokenizer})
    assert [features[name].vocabulary for name in ("inputs", "targets")] == names
    assert {feature.vocab_size for feature in features.values()} == {tokenizer.vocab_size}
