"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])

directory = click.Path(path_type=Path, file_okay=False)
file = click.Path(path_type=Path, dir_okay=False)


def as_json(command: Command) -> Command:
    """`--json`"""
    return click.option("--json", "as_json", is_flag=True, help="Machine-readable output: one JSON object per line.")(
        command
    )


def usr_dir(command: Command) -> Command:
    """`--usr-dir`, imported before the command runs."""
    return click.option("--usr-dir", type=directory, help="Folder with your own problems and models; imported first.")(
        command
    )


def output_dir(command: Command) -> Command:
    """`--output-dir` of an existing run"""
    return click.option("--output-dir", type=directory, required=True, help="Run directory that train wrote.")(command)


def checkpoint(command: Command) -> Command:
    """`--checkpoint`"""
    return click.option(
        "--checkpoint", default="best", show_default=True, help="best, last, averaged, or a step number."
    )(command)


def search(command: Command) -> Command:
    """`--beam-size` and `--alpha`; default: those of the run or bundle"""
    beam = click.option("--beam-size", type=click.IntRange(1, 16), help="Beams of the search (1: greedy).")
    alpha = click.option("--alpha", type=click.FloatRange(0, 10), help="Length penalty ((5 + n) / 6)^alpha.")
    return beam(alpha(command))


def import_user_code(usr_dir: Path | None) -> None:
    """Imports `--usr-dir`, if given."""
    if usr_dir is not None:
        from t2tdeploy.registry import import_usr_dir

        import_usr_dir(usr_dir)


def use_all_cpus(threads: int | None) -> None:
    """Sets torch's threads to `threads`, or to the CPUs this process may use."""
    import torch

    from t2tdeploy.runtime import available_cpus

    torch.set_num_threads(threads or available_cpus())
