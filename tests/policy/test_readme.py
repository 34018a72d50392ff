"""What the pages name exists: commands, options, make targets, links, files, entry points."""

from __future__ import annotations

import importlib
import re
import shlex
import tomllib
from pathlib import Path

import click
import pytest

from t2tdeploy.cli.main import commands
from tests.policy.pages import PAGES, anchors, block_commands, inline_code, prose
from tests.policy.source import ROOT, modules

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
MAKE_TARGETS = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
OF_THE_GROUP = {"--help", "-h", "--version"}
PLACES = r"(?:t2tdeploy|tests|docs|scripts|benchmarks|protos)/[\w./-]*|[\w-]+\.(?:md|toml|txt)"


def options_of(command: click.Command) -> set[str]:
    names = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    return names | {"--help", "-h"}


def check_names(line: str) -> None:
    """The command and the options of `t2tdeploy COMMAND --option …` exist."""
    words = line.split()[1:]
    if not words or words[0] in OF_THE_GROUP:
        return
    assert words[0] in commands.commands, f"no such command: {line}"
    given = {word.partition("=")[0] for word in words if word.startswith("--")}
    assert given <= options_of(commands.commands[words[0]]), line


@each_page
def test_commands_of_code_blocks_would_run(page: Path) -> None:
    for line in block_commands(page):
        words = shlex.split(line)
        if words[0] == "make":
            assert set(words[1:]) <= MAKE_TARGETS, line
            continue
        check_names(line)
        if words[1] not in OF_THE_GROUP and "--help" not in words:
            commands.commands[words[1]].make_context(words[1], words[2:])


@each_page
def test_documented_bundles_are_called_as_their_folder(page: Path) -> None:
    """The clients of the pages ask for a model by that name."""
    for line in block_commands(page):
        options = dict(re.findall(r"--(output-dir|bundle|name) +(\S+)", line))
        if line.startswith("t2tdeploy export ") and {"output-dir", "bundle"} <= options.keys():
            assert options.get("name") == Path(options["bundle"]).name, line


@each_page
def test_no_page_installs_from_an_index(page: Path) -> None:
    """There is no t2tdeploy there; the name alone is enough only where it is installed already."""
    named = re.findall(r"pip install[^\n`]* '?t2tdeploy(?:\[[\w,-]+\])?(?=['\s`])", page.read_text(encoding="utf-8"))
    assert named == (["pip install 't2tdeploy[otel]"] if page.name == "serve.md" else [])


@each_page
def test_commands_in_the_text_exist(page: Path) -> None:
    for span in inline_code(page):
        if span.startswith("t2tdeploy "):
            check_names(span)
        if re.fullmatch(r"make [a-z0-9-]+", span):
            assert span.split()[1] in MAKE_TARGETS, span


@each_page
def test_options_in_the_text_exist(page: Path) -> None:
    known = OF_THE_GROUP.union(*(options_of(command) for command in commands.commands.values()))
    named = {span.split()[0] for span in inline_code(page) if re.match(r"--[a-z]", span)}
    assert named <= known


@each_page
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        path, _, anchor = target.partition("#")
        if re.match(r"[a-z]+:", target):
            continue
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), target
        if anchor:
            assert anchor in anchors(linked), target


@each_page
def test_files_in_the_text_exist(page: Path) -> None:
    for span in inline_code(page):
        if re.fullmatch(PLACES, span):
            assert (ROOT / span).exists() or (page.parent / span).exists(), span


def test_commands_are_found() -> None:
    road = block_commands(ROOT / "README.md")
    assert {"make demo", "make test"} <= {line.strip() for line in road}
    assert {"datagen", "train", "evaluate", "export", "serve", "translate"} <= {line.split()[1] for line in road}


def test_every_page_is_in_the_index() -> None:
    index = ROOT / "docs" / "README.md"
    linked = set(re.findall(r"\]\(([\w-]+\.md)\)", prose(index)))
    assert linked == {page.name for page in (ROOT / "docs").glob("*.md")} - {"README.md"}


def test_every_module_is_on_the_map() -> None:
    named = [span for span in inline_code(ROOT / "ARCHITECTURE.md") if span.startswith("t2tdeploy/")]
    folders = {span for span in named if span.endswith("/")}
    files = {name.replace(".", "/") + ".py" for name in modules()} & {
        str(path.relative_to(ROOT)) for path in (ROOT / "t2tdeploy").rglob("*.py")
    }
    missing = {file for file in files - set(named) if not any(file.startswith(folder) for folder in folders)}
    assert not missing


def test_entry_points_resolve() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    targets = [
        *project["scripts"].values(),
        *(name for group in project["entry-points"].values() for name in group.values()),
    ]
    assert len(targets) >= 3
    for target in targets:
        module, _, attribute = target.partition(":")
        found = importlib.import_module(module)
        assert not attribute or callable(getattr(found, attribute))
