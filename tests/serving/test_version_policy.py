import pytest

from t2tdeploy.errors import SettingsError
from t2tdeploy.serving.options import ServerOptions
from t2tdeploy.serving.version_policy import VersionPolicy


@pytest.mark.parametrize(
    ("text", "newest", "candidates"),
    [
        ("latest", 1, [4, 3, 1]),
        ("latest:2", 2, [4, 3, 1]),
        ("all", None, [4, 3, 1]),
        ("3", None, [3]),
        ("1+3+7", None, [3, 1]),
    ],
)
def test_a_policy_says_which_versions_may_be_served(text: str, newest: int | None, candidates: list[int]) -> None:
    policy = VersionPolicy.parse(text)
    assert policy.newest == newest
    assert policy.candidates([3, 1, 4]) == candidates


@pytest.mark.parametrize("text", ["", "newest", "latest:0", "latest:x", "1+", "0", "-1", "1,2"])
def test_other_policies_are_faults_of_the_options(text: str) -> None:
    with pytest.raises(SettingsError, match="latest, latest:N, all"):
        ServerOptions.create({"versions": text})
