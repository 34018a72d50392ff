"""Names, their registration, and the user's folder."""

from __future__ import annotations

import importlib
import importlib.metadata
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from t2tdeploy import registry
from t2tdeploy.errors import InputError, UnknownNameError, UserError
from t2tdeploy.registry import Registry, import_usr_dir, snake_case

REGISTRIES = {"problem": registry.problems, "model": registry.models, "hparams set": registry.hparams_sets}


@pytest.fixture(autouse=True)
def forget_what_was_registered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for known in REGISTRIES.values():
        known.names()
        monkeypatch.setattr(known, "_objects", dict(known._objects))
    modules = set(sys.modules)
    yield
    for name in set(sys.modules) - modules:
        if name.startswith("t2tdeploy_usr_"):
            del sys.modules[name]


def write(folder: Path, **files: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / f"{name}.py").write_text(textwrap.dedent(content))
    return folder


SET = """
    from t2tdeploy.registry import register_hparams

    @register_hparams
    def {name}():
        return {value}
"""


@pytest.mark.parametrize(
    ("camel", "snake"),
    [
        ("Transformer", "transformer"),
        ("TranslateEndeWmt32k", "translate_ende_wmt32k"),
        ("TranslateEndeMulti30k", "translate_ende_multi30k"),
        ("LanguagemodelPtb10k", "languagemodel_ptb10k"),
        ("SummarizeCnnDailymail32k", "summarize_cnn_dailymail32k"),
        ("TranslateEnfrWmt8kPacked", "translate_enfr_wmt8k_packed"),
        ("LSTMSeq2seqAttention", "lstm_seq2seq_attention"),
        ("AlgorithmicReverseBinary40", "algorithmic_reverse_binary40"),
        ("transformer_base", "transformer_base"),
    ],
)
def test_names_follow_tensor2tensor(camel: str, snake: str) -> None:
    assert snake_case(camel) == snake
    assert snake_case(snake) == snake


def test_a_registered_object_is_found_by_its_name() -> None:
    things: Registry[Any] = Registry("thing", "no.such.group")

    @things.register()
    class BigThing: ...

    things.register("other")(BigThing)
    assert things.get("big_thing") is things.get("other") is BigThing
    assert things.names() == ["big_thing", "other"]
    assert "big_thing" in things
    assert "BigThing" not in things


def test_a_taken_name_is_refused_with_both_places() -> None:
    things: Registry[Any] = Registry("thing", "no.such.group")
    things.register("one")(test_names_follow_tensor2tensor)
    things.register("one")(test_names_follow_tensor2tensor)  # the same definition may come again
    with pytest.raises(UserError, match=r"thing 'one' is already registered by .*test_names_follow") as caught:
        things.register("one")(forget_what_was_registered)
    assert "forget_what_was_registered" in (caught.value.help or "")
    assert things.get("one") is test_names_follow_tensor2tensor


@pytest.mark.parametrize("kind", REGISTRIES)
def test_every_kind_is_known_and_a_typo_meets_the_nearest_name(kind: str) -> None:
    known = REGISTRIES[kind]
    name = known.names()[0]
    with pytest.raises(UnknownNameError, match=f"unknown {kind} '{name}x'; valid choices: .*{name}") as caught:
        known.get(f"{name}x")
    assert caught.value.nearest == name


@pytest.mark.parametrize("known", REGISTRIES.values(), ids=REGISTRIES)
def test_every_entry_point_loads_and_registers_something(known: Registry[Any]) -> None:
    entries = [entry for entry in importlib.metadata.entry_points(group=known.group) if entry.dist]
    homes = {known.get(name).__module__ for name in known.names()}
    assert entries
    assert {entry.value for entry in entries} <= homes


def test_a_package_that_is_not_installed_is_said_with_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = importlib.metadata.EntryPoint("far", "no_such_package.at_all", "things")
    monkeypatch.setattr(registry, "_entry_points", lambda group: iter([entry]))
    with pytest.raises(UserError, match=r"cannot load things from 'no_such_package.at_all'") as caught:
        Registry("thing", "things").names()
    assert "pip install" in (caught.value.help or "")


def test_a_package_is_imported_through_its_init(tmp_path: Path) -> None:
    folder = write(
        tmp_path / "mine",
        __init__="from .sets import mine_set",
        sets=SET.format(name="mine_set", value=7),
        unused="raise RuntimeError('the package does not import this')",
    )
    import_usr_dir(folder)
    assert registry.hparams_sets.get("mine_set")() == 7


def test_a_folder_of_plain_modules_is_imported_whole_with_relative_imports(tmp_path: Path) -> None:
    folder = write(
        tmp_path / "plain-modules",
        a="from . import b",
        b="from .c import VALUE\n" + textwrap.dedent(SET.format(name="plain_set", value="VALUE")),
        c="VALUE = 8",
        d=SET.format(name="another_plain_set", value=9),
    )
    import_usr_dir(folder)
    assert registry.hparams_sets.get("plain_set")() == 8
    assert registry.hparams_sets.get("another_plain_set")() == 9


def test_importing_again_changes_nothing_but_takes_in_edits(tmp_path: Path) -> None:
    folder = write(tmp_path / "again", sets=SET.format(name="again_set", value=1))
    import_usr_dir(folder)
    names = registry.hparams_sets.names()
    import_usr_dir(folder)
    assert registry.hparams_sets.names() == names
    write(folder, sets=SET.format(name="again_set", value="100 + 1"))
    import_usr_dir(folder)
    assert registry.hparams_sets.get("again_set")() == 101


def test_folders_of_one_name_do_not_hide_each_other(tmp_path: Path) -> None:
    for number in (1, 2):
        (tmp_path / str(number)).mkdir()
        import_usr_dir(write(tmp_path / str(number) / "usr", sets=SET.format(name=f"usr_set_{number}", value=number)))
    assert registry.hparams_sets.get("usr_set_1")() == 1
    assert registry.hparams_sets.get("usr_set_2")() == 2


def test_a_name_that_is_taken_is_not_taken_over(tmp_path: Path) -> None:
    folder = write(tmp_path / "thief", sets=SET.format(name="transformer_base", value=0))
    with pytest.raises(UserError, match=r"'transformer_base' is already registered by t2tdeploy\.models"):
        import_usr_dir(folder)


def test_a_missing_folder_a_file_and_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    for name, message in (("nothing", "is not a folder"), ("file", "is not a folder"), ("empty", "no Python file")):
        with pytest.raises(InputError, match=f"{name} .*{message}"):
            import_usr_dir(tmp_path / name)
    with pytest.raises(InputError) as caught:
        import_usr_dir(tmp_path / "emty")
    assert caught.value.help == "did you mean 'empty'?"


@pytest.mark.parametrize(
    ("files", "file", "line", "words"),
    [
        ({"a": "x = 1\n\ny = 1 / 0\n"}, "a.py", 3, "ZeroDivisionError"),
        ({"a": "x = 1\ndef f(:\n"}, "a.py", 2, "SyntaxError"),
        ({"a": "import no_such_package\n"}, "a.py", 1, "no_such_package"),
        ({"__init__": "from .b import x\n", "b": "\n\nfrom . import missing\n"}, "b.py", 3, "missing"),
        ({"a": "import json\n\njson.loads('{')\n"}, "a.py", 3, "JSONDecodeError"),  # raised in a library
    ],
    ids=["exception", "syntax", "package", "relative", "library"],
)
def test_a_failing_import_names_the_users_line(
    tmp_path: Path, files: dict[str, str], file: str, line: int, words: str
) -> None:
    folder = write(tmp_path / "broken", **files)
    with pytest.raises(InputError, match=words) as caught:
        import_usr_dir(folder)
    assert (caught.value.path, caught.value.line) == (str(folder / file), line)
    assert caught.value.help == f"see {folder / file}, line {line}"
    write(folder, **{name: SET.format(name="mended_set", value=1) for name in files})
    import_usr_dir(folder)
    assert "mended_set" in registry.hparams_sets
