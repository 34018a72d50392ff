import pytest

from t2tdeploy.errors import SettingsError
from t2tdeploy.serving.options import ServerOptions
from t2tdeploy.serving.version_policy import Alias, VersionPolicy


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


def test_an_alias_is_a_model_or_a_version_of_it() -> None:
    assert Alias.parse("production=ende") == Alias("production", "ende", None)
    assert Alias.parse("production=ende:12") == Alias("production", "ende", 12)
    options = ServerOptions().override("aliases=[a=ende,b=ende:2]")
    assert options.aliases_by_name()["b"].number == 2


@pytest.mark.parametrize(
    "texts", [["ende"], ["=ende"], ["a="], ["a=ende:"], ["a=ende:x"], ["a=ende:0"], ["a=b", "a=c"]]
)
def test_other_aliases_are_faults_of_the_options(texts: list[str]) -> None:
    with pytest.raises(SettingsError, match=r"name=model|given twice"):
        ServerOptions.create({"aliases": texts})
