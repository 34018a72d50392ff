"""`t2tdeploy classify`, as it is typed: every kind of example, from a server and from a bundle; mistakes in words."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import click.testing
import numpy as np
import PIL.Image
import pyarrow
import pyarrow.parquet
import pytest

from t2tdeploy.classifier import Classification, Label
from t2tdeploy.cli import main
from t2tdeploy.cli.classify import _as_text
from t2tdeploy.errors import InputError, RequestError, T2TDeployError
from t2tdeploy.serving.bundle_source import BundleFolders
from tests.serving.running import running
from tests.serving.toy_classifier import (
    write_image_classifier,
    write_table_classifier,
    write_tensor_regressor,
    write_text_classifier,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundles")
    write_text_classifier(folder / "texts")
    write_text_classifier(folder / "pairs", parts=2)
    write_table_classifier(folder / "table")
    write_image_classifier(folder / "image")
    write_tensor_regressor(folder / "regressor")
    (folder / "texts.txt").write_text("ab\ncc\nddd\n")
    (folder / "long.txt").write_text("ab\n" + "c" * 60 + "\n")
    (folder / "pairs.txt").write_text("ab\tb\nc\tc\n")
    (folder / "rows.jsonl").write_text('{"width": 5, "colour": "red"}\n\n{"colour": "blue"}\n')
    (folder / "rows.json").write_text('[{"width": 5, "colour": "red"}, {"colour": "blue"}]')
    (folder / "row.json").write_text('{"width": 5,\n "colour": "red"}')
    (folder / "ends.jsonl").write_text('{"width": 5, "colour": "red"}\n{"colour": "a\u2028b\x85c"}\n')
    (folder / "rows.csv").write_text('\ufeffwidth,colour\r\n5,red\r\n\r\n,"blue"\r\n')
    (folder / "rows.tsv").write_text('id\twidth\tcolour\tprice\n1\t5\tred\t"1\t2"\n2\tNA\tblue\t3\n')
    (folder / "bad.csv").write_text('colour;width\n"a\nb";5\nred;wide\n')
    (folder / "short.csv").write_text("width,colour\n5,red\n5\n")
    (folder / "twice.csv").write_text("width,width\n5,5\n")
    (folder / "quote.csv").write_text('width,colour\n5,"red" or so\n')
    (folder / "header.csv").write_text("width,colour\n")
    (folder / "array.json").write_text('{"x": [[1, 2, 3], [4, 5, 6]]}')
    (folder / "bad.jsonl").write_text('{"width": 5, "colour": "red"}\n{"width": "x", "colour": "red"}\n')
    (folder / "no.jsonl").write_text('{"width": 5}\n{"width"\n')
    (folder / "list.json").write_text("[[1, 2]]")
    (folder / "deep.jsonl").write_text('{"width": 5}\n{"width": ' + "[" * 100_000 + "\n")
    (folder / "empty.json").write_text("[]")
    pixels = np.zeros((9, 9, 3), np.uint8)
    pixels[:, :, 1] = 255
    PIL.Image.fromarray(pixels).save(folder / "green.png")
    pyarrow.parquet.write_table(pyarrow.table({"text": ["ab"]}), folder / "texts.parquet")
    (folder / "broken.png").write_bytes(b"\x89PNG")
    return folder


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[str]:
    names = ("texts", "pairs", "table", "image", "regressor")
    with running(BundleFolders([folder / name for name in names])) as server:
        yield f"127.0.0.1:{server.port}"


def classify(*arguments: str, stdin: str = "") -> str:
    """What it prints; what it raises is raised."""
    runner = click.testing.CliRunner()
    result = runner.invoke(main.commands, ["classify", *arguments], input=stdin, standalone_mode=False)
    if result.exception:
        raise result.exception
    return result.stdout


CASES = [
    ("texts", ["aab", "c"], "a"),
    ("texts", ["--top-k", "2", "aab", "c"], "a"),
    ("texts", ["--input", "{}/texts.txt"], "a"),
    ("pairs", ["--pairs", "--input", "{}/pairs.txt"], "b"),
    ("table", ["--json", "{}/rows.jsonl"], "wide"),
    ("table", ["--json", "{}/ends.jsonl"], "wide"),
    ("table", ["--json", "{}/rows.json"], "wide"),
    ("table", ["--json", "{}/row.json"], "wide"),
    ("table", ["--csv", "{}/rows.csv"], "wide"),
    ("table", ["--csv", "{}/rows.tsv", "--without", "price", "--without", "id"], "wide"),
    ("image", ["--image", "{}/green.png", "--image", "{}/green.png"], "green"),
    ("image", ["--image", "{}/green.png", "{}/green.png"], "green"),
    ("regressor", ["--json", "{}/array.json"], "6"),
]


@pytest.mark.parametrize(("model", "arguments", "first"), CASES)
def test_a_server_and_a_bundle_print_the_same(
    folder: Path, server: str, model: str, arguments: list[str], first: str
) -> None:
    filled = [argument.format(folder) for argument in arguments]
    local = classify("--bundle", str(folder / model), *filled)
    assert local.split("\t")[0] == first
    assert classify("--server", server, "--model", model, *filled) == local


def test_lines_and_blocks(folder: Path) -> None:
    bundle = ["--bundle", str(folder / "texts")]
    lines = classify(*bundle, stdin="ab\ncc\n").splitlines()
    assert [line.split("\t")[0] for line in lines] == ["a", "c"]
    blocks = classify(*bundle, "--top-k", "2", stdin="bba\ncca\n").split("\n\n")
    assert [[line.split("\t")[0] for line in block.splitlines()] for block in blocks] == [["b", "a"], ["c", "a"]]
    assert all(0 < float(line.split("\t")[1]) < 1 for line in lines)


def test_a_dash_is_standard_input(folder: Path) -> None:
    assert classify("--bundle", str(folder / "texts"), "--input", "-", stdin="aab\n").startswith("a\t")
    row = (folder / "row.json").read_text()
    assert classify("--bundle", str(folder / "table"), "--json", "-", stdin=row).startswith("wide\t")
    with pytest.raises(InputError, match=r"^standard input, row 2: width: 'x' is not a number"):
        classify("--bundle", str(folder / "table"), "--json", "-", stdin=(folder / "bad.jsonl").read_text())
    with pytest.raises(InputError, match=r"^standard input, row 1: a list"):
        classify("--bundle", str(folder / "table"), "--json", "-", stdin="[[1]]")


@pytest.mark.parametrize(
    ("model", "arguments", "stdin", "words", "help"),
    [
        ("image", ["{}/green.png"], "", "text 1: .*where an image is expected", "--image cat.png dog.jpg"),
        (
            "table",
            ["--json", "-"],
            '{"width": 5, "colour": "red", "price": 3}',
            "price: no such feature",
            "leave it out",
        ),
    ],
)
def test_what_to_type_instead_is_said(
    folder: Path, server: str, model: str, arguments: list[str], stdin: str, words: str, help: str
) -> None:
    filled = [argument.format(folder) for argument in arguments]
    for where in (["--bundle", str(folder / model)], ["--server", server, "--model", model]):
        with pytest.raises(InputError, match=words) as caught:
            classify(*where, *filled, stdin=stdin)
        assert help in str(caught.value.help)


def test_rows_of_csv_are_those_of_json(folder: Path) -> None:
    """Also where a value is missing: an empty one, NA, or none."""
    bundle = ["--bundle", str(folder / "table"), "--format", "json"]
    expected = classify(*bundle, "--json", str(folder / "rows.jsonl"))
    assert classify(*bundle, "--csv", str(folder / "rows.csv")) == expected
    assert classify(*bundle, "--csv", "-", "--without", "id", "--without", "price",
                    stdin=(folder / "rows.tsv").read_text()) == expected  # fmt: skip


def test_a_class_is_one_line_whatever_its_name() -> None:
    found = Classification(labels=(Label("one\ntwo", class_id=0, probability=0.5, logit=0.0),))
    assert _as_text([found], top_k=1) == "one two\t0.5000\n"


def test_json_for_programs(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "answers.jsonl"
    printed = classify(
        "--bundle", str(folder / "texts"), "--format", "json", "--top-k", "2", "--output", str(output), "--truncate",
        "bba", "c" * 60,
    )  # fmt: skip
    assert printed == ""
    first, second = map(json.loads, output.read_text().splitlines())
    assert [one["label"] for one in first["labels"]] == ["b", "a"]
    assert first["labels"][0].keys() == {"label", "class_id", "probability", "logit"}
    assert "truncated" not in first
    assert second["truncated"]
    row = classify("--bundle", str(folder / "regressor"), "--format", "json", "--json", str(folder / "array.json"))
    assert json.loads(row) == {"values": [6.0, 15.0]}


@pytest.mark.parametrize(
    ("model", "arguments", "words"),
    [
        ("texts", ["--input", "{}/long.txt"], "long.txt, line 2: 61 tokens, the model takes 20"),
        ("texts", ["b" * 60], "text 1: 61 tokens"),
        ("texts", ["--input", "{}/text.txt"], "no file .*text.txt"),
        ("table", ["--json", "{}/bad.jsonl"], "bad.jsonl, row 2: width: 'x' is not a number"),
        ("table", ["--json", "{}/no.jsonl"], "no.jsonl, line 2: not JSON"),
        ("table", ["--json", "{}/deep.jsonl"], "deep.jsonl, line 2: not JSON"),
        ("table", ["--json", "{}/list.json"], "list.json, row 1: a list, where an object"),
        ("table", ["--json", "{}/empty.json"], "empty.json holds no example"),
        ("table", ["--csv", "{}/bad.csv"], "bad.csv, row 2: width: 'wide' is not a number"),
        ("table", ["--csv", "{}/short.csv"], "short.csv, line 3: 1 values, but 2 columns"),
        ("table", ["--csv", "{}/twice.csv"], "twice.csv has the column 'width' twice"),
        ("table", ["--csv", "{}/quote.csv"], "quote.csv, line 2: not CSV"),
        ("table", ["--csv", "{}/header.csv"], "header.csv holds no row"),
        ("table", ["--csv", "{}/rows.csv", "--without", "colou"], "--without colou: .*rows.csv has the columns width"),
        ("image", ["--image", "{}/green.png", "--image", "{}/broken.png"], "broken.png: not an image"),
        ("image", ["--image", "{}/no.png"], "no file .*no.png"),
    ],
)
def test_mistakes_in_files_are_named_by_place(
    folder: Path, server: str, model: str, arguments: list[str], words: str
) -> None:
    filled = [argument.format(folder) for argument in arguments]
    for where in (["--bundle", str(folder / model)], ["--server", server, "--model", model]):
        with pytest.raises(InputError, match=words):
            classify(*where, *filled)


@pytest.mark.parametrize(
    "arguments",
    [
        ["translate", "--bundle", "{}/image", "ab"],
        ["translate", "--bundle", "{}/image", "--document", "{}/texts.txt"],
        ["score", "--bundle", "{}/texts", "--source", "{}/texts.txt", "--target", "{}/texts.txt"],
        ["benchmark", "--bundle", "{}/image", "--input", "{}/texts.txt"],
        [
            "translate-corpus",
            "--bundle",
            "{}/image",
            "--input",
            "{}/texts.parquet",
            "--column",
            "text",
            "--output",
            "{}/corpus",
        ],
    ],
)
def test_commands_of_translation_refuse_a_classifier(folder: Path, arguments: list[str]) -> None:
    filled = [argument.format(folder) for argument in arguments]
    result = click.testing.CliRunner().invoke(main.commands, filled, standalone_mode=False)
    assert isinstance(result.exception, InputError)
    assert "only a bundle that translates can do this; the task of" in str(result.exception)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (["ab"], click.UsageError, "--server or --bundle: give one of them"),
        (["--server", "s", "--bundle", "{}/texts", "ab"], click.UsageError, "both given"),
        (["--bundle", "{}/texts", "--model", "m", "ab"], click.UsageError, "--model is for a server"),
        (["--bundle", "{}/texts", "--input", "x", "ab"], click.UsageError, "texts and --input are given: choose one"),
        (["--bundle", "{}/texts", "--image", "x", "--input", "x"], click.UsageError, "--input and --image are given"),
        (["--bundle", "{}/image", "--image", "{}/green.png", "ab"], InputError, "there is no file ab"),
        (["--bundle", "{}/table", "--pairs", "--json", "x"], click.UsageError, "--pairs is for texts, not --json"),
        (["--bundle", "{}/texts", "--top-k", "9", "ab"], RequestError, "top_k: 9 is not between 1 and 4"),
        (["--bundle", "{}/texts"], T2TDeployError, "standard input holds no text"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    folder: Path, arguments: list[str], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        classify(*(argument.format(folder) for argument in arguments))
