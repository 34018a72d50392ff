"""Laws of bundles with a text graph, and of text graphs as one file."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import onnx
import pytest
from onnx import numpy_helper

from t2tdeploy import bundle as bundle_module
from t2tdeploy.bundle import MANIFEST, Bundle, load_bundle, write_bundle
from t2tdeploy.cli.optimize import optimize
from t2tdeploy.errors import CorruptFileError, InputError, OperationalError, ParityError
from t2tdeploy.export import text_bundle
from t2tdeploy.export.text_bundle import PROBES, TextSession, add_text_graph, extensions_library, write_text_graph
from t2tdeploy.tokenizer import Tokenizer
from t2tdeploy.translator import TranslateOptions, Translator
from tests.serving.toy_bundle import write_toy_bundle

SOURCES = [*PROBES, "A girl.", "Zwei Männer"]


@pytest.fixture
def plain(tmp_path: Path, vocabulary: Tokenizer) -> Bundle:
    return write_toy_bundle(tmp_path / "plain", tokenizer=vocabulary, known_ids=vocabulary.vocab_size)


def size_of(bundle: Bundle) -> int:
    return sum((bundle.directory / name).stat().st_size for name in bundle.files())


def size_of_weights(bundle: Bundle) -> int:
    return sum(len(tensor.raw_data) for tensor in onnx.load(bundle.path()).graph.initializer)


def test_ids_and_text_share_their_weights_and_answer_alike(plain: Bundle, tmp_path: Path) -> None:
    before = Translator(plain, threads=1)
    both = add_text_graph(plain, tmp_path / "both")
    assert both.files() == {*plain.files(), "text.onnx", "model.weights"}
    # The tokenizer's and the decoder's operator have a copy of the vocabulary each; all else there is once.
    copies = 2 * len(plain.tokenizer("inputs").to_bytes())
    assert size_of(both) < size_of(plain) + copies + size_of_weights(plain) / 2
    asked = TranslateOptions(num_hypotheses=2, truncate=True)
    expected = before.translate(SOURCES, asked)
    assert Translator(both, threads=1).translate(SOURCES, asked) == expected
    session = TextSession(both.directory / "text.onnx", threads=1)
    assert session.translate(SOURCES, TranslateOptions(num_hypotheses=2)) == expected


def test_the_size_of_a_variant_is_that_of_its_graph_and_its_weights(plain: Bundle, tmp_path: Path) -> None:
    both = add_text_graph(plain, tmp_path / "both")
    assert both.path().stat().st_size < plain.size() / 2
    assert plain.size() < both.size() < 1.5 * plain.size()


def with_another_variant(plain: Bundle, path: Path) -> Bundle:
    other = onnx.load(plain.path())
    largest = max(other.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    largest.CopyFrom(numpy_helper.from_array(0.5 * numpy_helper.to_array(largest), largest.name))
    variants = {**plain.manifest.variants, "other": plain.variant().model_copy(update={"file": "other.onnx"})}
    files: dict[str, bytes | Path] = {name: plain.directory / name for name in plain.files()}
    files["other.onnx"] = other.SerializeToString()
    return write_bundle(path, plain.manifest.model_copy(update={"variants": variants}), files)


def test_a_text_graph_of_the_former_default_is_told(
    plain: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    two = add_text_graph(with_another_variant(plain, tmp_path / "two"), tmp_path / "once")
    optimize.main(
        ["--bundle", str(two.directory), "--output", str(tmp_path / "turned"), "--default", "other"],
        standalone_mode=False,
    )
    said = capsys.readouterr().err
    assert f"text.onnx still has {plain.manifest.default_variant} as it was; to make it of other" in said
    assert f"t2tdeploy export --from-bundle {tmp_path / 'turned'} --text-graph" in said


def test_a_text_graph_of_another_variant_leaves_the_first_as_it_is(plain: Bundle, tmp_path: Path) -> None:
    two = with_another_variant(plain, tmp_path / "two")
    once = add_text_graph(two, tmp_path / "once")
    turned = once.manifest.model_copy(update={"default_variant": "other"})
    turned = write_bundle(tmp_path / "turned", turned, {name: once.directory / name for name in once.files()})
    twice = add_text_graph(turned, tmp_path / "twice")
    for name in two.manifest.variants:
        expected, found = (onnx.load(bundle.path(name)).graph.initializer for bundle in (two, twice))
        assert [numpy_helper.to_array(one).tolist() for one in found] == [
            numpy_helper.to_array(one).tolist() for one in expected
        ]


def test_the_manifest_says_what_the_text_graph_takes_and_gives(plain: Bundle, tmp_path: Path) -> None:
    both = add_text_graph(plain, tmp_path / "both")
    record = load_bundle(both.directory).manifest.text_graph
    assert record is not None
    session = TextSession(both.directory / record.file, threads=1)._session
    inputs = [*session.get_inputs(), *session.get_overridable_initializers()]
    assert [spec.name for spec in record.inputs] == [value.name for value in inputs]
    assert [(spec.name, list(spec.axes)) for spec in record.outputs] == [
        (value.name, value.shape) for value in session.get_outputs()
    ]
    assert {spec.dtype for spec in (record.inputs[0], record.outputs[0])} == {"string"}


def test_a_bundle_takes_a_text_graph_where_it_is_any_number_of_times(plain: Bundle) -> None:
    once = add_text_graph(plain, plain.directory, overwrite=True)
    assert once.version != plain.version
    assert add_text_graph(once, once.directory, overwrite=True).version == once.version
    assert [path.name for path in plain.directory.parent.iterdir()] == [plain.directory.name]


@pytest.mark.parametrize("file", ["text.onnx", "model.weights"])
def test_damage_to_its_files_is_found(plain: Bundle, tmp_path: Path, file: str) -> None:
    path = add_text_graph(plain, tmp_path / "both").directory / file
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(CorruptFileError, match=file):
        load_bundle(path.parent)


def test_a_manifest_from_before_text_graphs_reads(plain: Bundle) -> None:
    path = plain.directory / MANIFEST
    record = json.loads(path.read_text())
    assert record.pop("text_graph") is None
    record["checksums"][MANIFEST] = bundle_module._manifest_digest(record)
    path.write_text(json.dumps(record))
    assert load_bundle(plain.directory).manifest.text_graph is None


def test_one_file_needs_no_other(plain: Bundle, tmp_path: Path) -> None:
    both = add_text_graph(plain, tmp_path / "both")
    for number, bundle in enumerate((plain, both)):
        write_text_graph(bundle, tmp_path / f"{number}.onnx")
        alone = tmp_path / str(number) / "alone.onnx"
        alone.parent.mkdir()
        shutil.move(tmp_path / f"{number}.onnx", alone)
        expected = Translator(plain, threads=1).translate(SOURCES, TranslateOptions(truncate=True))
        assert TextSession(alone, threads=1).translate(SOURCES) == expected
        onnx.checker.check_model(str(alone))


def test_a_taken_place_is_left_alone_unless_told(plain: Bundle, tmp_path: Path) -> None:
    path = tmp_path / "text.onnx"
    path.write_bytes(b"mine")
    with pytest.raises(InputError, match="already exists"):
        write_text_graph(plain, path)
    with pytest.raises(InputError, match="is a folder"):
        write_text_graph(plain, tmp_path, overwrite=True)
    with pytest.raises(InputError, match="already exists"):
        add_text_graph(plain, plain.directory)
    assert path.read_bytes() == b"mine"
    write_text_graph(plain, path, overwrite=True)
    assert TextSession(path, threads=1).translate(["A girl."])


def test_a_link_stays_and_its_target_is_written(plain: Bundle, tmp_path: Path) -> None:
    (tmp_path / "link.onnx").symlink_to("target.onnx")
    write_text_graph(plain, tmp_path / "link.onnx")
    assert (tmp_path / "link.onnx").is_symlink()
    assert (tmp_path / "target.onnx").is_file()


def test_a_graph_that_translates_differently_is_not_written(
    plain: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = text_bundle.text_graph

    def other(*arguments: object, **options: object) -> onnx.ModelProto:
        return build(*arguments, **{**options, "decode": plain.manifest.decode.model_copy(update={"alpha": 0.1})})

    monkeypatch.setattr(text_bundle, "text_graph", other)
    with pytest.raises(ParityError, match="the text graph and Translator differ"):
        write_text_graph(plain, tmp_path / "text.onnx")
    assert not (tmp_path / "text.onnx").exists()


def test_what_is_missing_is_named(plain: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime_extensions", None)
    with pytest.raises(OperationalError, match="onnxruntime_extensions cannot be imported") as caught:
        extensions_library()
    assert "t2tdeploy[text]" in str(caught.value.help)
    with pytest.raises(OperationalError):
        write_text_graph(plain, tmp_path / "text.onnx")


def test_a_file_that_is_no_graph_is_named(tmp_path: Path) -> None:
    path = tmp_path / "text.onnx"
    path.write_bytes(b"x")
    with pytest.raises(CorruptFileError, match=r"text\.onnx is damaged: onnxruntime cannot load it"):
        TextSession(path)
