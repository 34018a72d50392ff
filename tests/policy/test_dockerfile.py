"""The Dockerfile copies and installs what exists. Building the images needs Docker; this needs only the file."""

from __future__ import annotations

import json
import re
import shlex
import tomllib

from t2tdeploy.cli.main import commands
from tests.policy.source import ROOT

TEXT = re.sub(r"\\\n\s*", "", (ROOT / "Dockerfile").read_text(encoding="utf-8"))
LINES = [line.split(maxsplit=1) for line in TEXT.splitlines() if line.strip() and not line.startswith("#")]
IGNORED = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()


def stages() -> list[str]:
    return re.findall(r"^FROM \S+ AS (\S+)", TEXT, flags=re.MULTILINE)


def copied() -> list[str]:
    """What COPY takes from the checkout."""
    found = [shlex.split(rest) for word, rest in LINES if word == "COPY" and "--from=" not in rest]
    return [path for paths in found for path in paths[:-1]]


def body_of(stage: str) -> str:
    found = TEXT.partition(f" AS {stage}\n")[2].partition("\nFROM ")[0]
    assert found, stage
    return "\n".join(line for line in found.splitlines() if not line.startswith("#"))


def test_every_copied_path_exists_and_is_sent_to_the_builder() -> None:
    assert copied()
    for path in copied():
        assert (ROOT / path).exists(), path
        assert f"!{path}" in IGNORED, path


def test_everything_the_build_reads_is_copied() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = {"pyproject.toml", "constraints.txt", "t2tdeploy", project["readme"], *project["license-files"]}
    assert needed <= set(copied())


def test_every_installed_extra_exists() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    installed = {name for found in re.findall(r"pip install [^&\n]*\[([\w,-]+)\]", TEXT) for name in found.split(",")}
    assert installed == {"train", "serve", "serve-gpu"}
    assert installed <= set(extras)


def test_every_stage_that_is_referred_to_exists() -> None:
    assert {"train", "serve", "serve-gpu"} <= set(stages())
    assert set(re.findall(r"--from=(\S+)", TEXT)) <= set(stages())


def test_serving_images_do_not_install_torch_and_do_not_run_as_root() -> None:
    for stage in ("serve-environment", "serve", "serve-gpu"):
        body = body_of(stage)
        assert not re.search(r"\[.*train.*\]|train-environment", body)
        if stage != "serve-environment":
            assert re.search(r"^USER \d+$", body, flags=re.MULTILINE)
            assert "HEALTHCHECK" in body


def test_the_default_commands_are_commands() -> None:
    defaults = [json.loads(rest) for word, rest in LINES if word == "CMD"]
    assert ["--help"] in defaults
    for arguments in defaults:
        if arguments[0] in commands.commands:
            commands.commands[arguments[0]].make_context(arguments[0], arguments[1:])
        else:
            assert arguments == ["--help"]
