"""What options take, whatever the command."""

from __future__ import annotations

import click
import pytest

from t2tdeploy.cli.main import commands

OF_PATHS = {
    (name, parameter.opts[0]): parameter
    for name, command in commands.commands.items()
    for parameter in command.params
    if isinstance(parameter.type, click.Path)
}


@pytest.mark.parametrize("parameter", OF_PATHS.values(), ids=map(" ".join, OF_PATHS))
def test_an_empty_path_is_none(parameter: click.Parameter) -> None:
    """To Python it is the folder that the command runs in."""
    with pytest.raises(click.BadParameter, match="the path is empty"):
        parameter.type.convert("", parameter, None)


def test_options_of_paths_are_found() -> None:
    found = {("translate", "--input"), ("load-test", "--input"), ("train", "--warm-start"), ("export", "--output")}
    assert found | {("translate-corpus", "--input"), ("benchmark", "--bundle")} <= OF_PATHS.keys()
