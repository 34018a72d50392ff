"""Laws of text graphs: strings in and out as `Translator` has them, whatever the vocabulary and the string."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from t2tdeploy.bundle import Bundle, DecodeDefaults
from t2tdeploy.errors import OperationalError, ParityError
from t2tdeploy.export.nodes import Nodes
from t2tdeploy.export.text_bundle import PROBES, TextSession, verify_text
from t2tdeploy.export.text_graph import EXTENSIONS, decode_texts, text_graph
from t2tdeploy.tokenizer import ByteTokenizer, Tokenizer, VocabularyKind, train_tokenizer
from t2tdeploy.translator import Hypothesis, TranslateOptions, Translator
from tests.export.conftest import SENTENCES
from tests.export.graphs import byte_graph
from tests.serving.toy_bundle import write_toy_bundle

CUT = TranslateOptions(truncate=True)

HOSTILE = [
    *PROBES,
    *SENTENCES,
    "\u3000", "\x1c\x1f", "\x85", "\u2028\u2029", "\r\n", "\u1680", "\xa0x\xa0", "\u200b", "\ufeffA", "\u2060",
    "\x01", "a\x01b", "\x1b[31mred", "\x7f", "\u202eright to left",
    "e\u0301", "\u00e9", "a" + "\u0300" * 60, "\u1100\u1161\u11a8", "\u304b\u3099", "\u0958", "\u212b", "\ufb03",
    "\U0001f3f3\ufe0f\u200d\U0001f308", "\U0001f1e9\U0001f1ea", "\U0001d54f", "\u0378", "\ue000", "\uffff",
    "<pad>", "</s>", "<unk>", "<s>", "<0x41>", "<0x00>", "\u2581", "a\u2581b", " \u2581 ", "\\x00", "$1 \\0 (.*)",
    "\u65e5" * 60, "\U0001f600" * 60, "x" * 5000, " " * 5000, "a b " * 2000,
]  # fmt: skip


def toy(folder: Path, tokenizer: Tokenizer, **changes: int) -> tuple[TextSession, Translator]:
    """A search that returns its source."""
    size = max(259, tokenizer.vocab_size)
    bundle = write_toy_bundle(folder / "toy", tokenizer=tokenizer, known_ids=size, **changes)
    graph = text_graph_of(bundle)
    return TextSession(graph.SerializeToString(), threads=1), Translator(bundle, threads=1)


def text_graph_of(bundle: Bundle, decode: DecodeDefaults | None = None) -> onnx.ModelProto:
    return text_graph(
        onnx.load(bundle.path()),
        source=bundle.tokenizer("inputs"),
        target=bundle.tokenizer("targets"),
        decode=decode or bundle.manifest.decode,
    )


@pytest.fixture(
    scope="module",
    params=["unigram-nmt_nfkc-bytes", "bpe-nfkc-bytes", "unigram-identity-unk", "bpe-nmt_nfkc-unk", "bytes"],
)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[TextSession, Translator]:
    kind: VocabularyKind
    kind, *rest = request.param.split("-")
    tokenizer: Tokenizer = ByteTokenizer()
    if rest:
        normalization, unknown = rest
        tokenizer = train_tokenizer(
            SENTENCES * 20,
            kind=kind,
            vocab_size=360 if unknown == "bytes" else 120,
            sample_size=200,
            normalization=normalization,
            byte_fallback=unknown == "bytes",
        )
    return toy(tmp_path_factory.mktemp("pair"), tokenizer, max_source_length=60)


def test_hostile_strings_are_read_and_written_as_in_python(pair: tuple[TextSession, Translator]) -> None:
    session, translator = pair
    assert session.translate(HOSTILE) == translator.translate(HOSTILE, CUT)


@settings(max_examples=30)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30), max_size=8))
def test_any_strings_are_read_and_written_as_in_python(
    pair: tuple[TextSession, Translator], sources: list[str]
) -> None:
    session, translator = pair
    assert session.translate(sources) == translator.translate(sources, CUT)


@pytest.fixture(scope="module")
def echo(tmp_path_factory: pytest.TempPathFactory, vocabulary: Tokenizer) -> tuple[TextSession, Translator]:
    return toy(tmp_path_factory.mktemp("echo"), vocabulary, max_source_length=40)


@pytest.mark.parametrize(
    "options",
    [
        TranslateOptions(),
        TranslateOptions(alpha=1.5),
        TranslateOptions(num_hypotheses=3),
        TranslateOptions(extra_length=2),
        TranslateOptions(beam_size=7, alpha=0.0, num_hypotheses=5, extra_length=9),
    ],
)
def test_what_is_not_given_is_the_bundles(echo: tuple[TextSession, Translator], options: TranslateOptions) -> None:
    session, translator = echo  # whose scores tell alpha and the length limit
    sources = ["A girl.", "", "Two men in hats near bushes."]
    assert session.translate(sources, options) == translator.translate(sources, options)


def test_blank_sources_have_one_empty_hypothesis_of_no_cost(echo: tuple[TextSession, Translator]) -> None:
    session, _ = echo
    found = session.translate(["", "A girl.", " \u2003\n"], TranslateOptions(num_hypotheses=2))
    assert found[0] == found[2] == [Hypothesis("", 0.0, tokens=1, finished=True)]
    assert len(found[1]) == 2


def test_a_source_that_is_too_long_is_cut_and_marked(echo: tuple[TextSession, Translator]) -> None:
    session, translator = echo
    sources = ["A girl.", "a girl climbing " * 29]
    encoded = translator.encode(sources, truncate=True)
    found = session._session.run(["truncated", "lengths"], {"sources": np.array(sources, object)})
    assert found[0].tolist() == [sentence.truncated for sentence in encoded] == [False, True]
    assert found[1][:, 0].tolist() == [len(sentence.ids) for sentence in encoded]


def test_no_sources_have_no_translations() -> None:
    tokenizer = ByteTokenizer()
    decode = DecodeDefaults(beam_size=4, alpha=0.6, extra_length=8, max_source_length=60)
    graph = text_graph(byte_graph(), source=tokenizer, target=tokenizer, decode=decode)
    session = TextSession(graph.SerializeToString(), threads=1)
    assert len(session.translate(["A girl."])) == 1
    assert session.translate([]) == []


def test_a_string_ends_at_nul(echo: tuple[TextSession, Translator]) -> None:
    """onnxruntime hands strings over as C does."""
    session, _ = echo
    assert session.translate(["A girl.\0 Two men.", "\0"]) == session.translate(["A girl.", ""])


def test_broken_bytes_are_written_as_python_writes_them() -> None:
    """Every sequence of some bytes from each range that UTF-8 tells apart."""
    edges = [0x41, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC1, 0xC2, 0xE0, 0xE2, 0xED, 0xF0, 0xF1, 0xF4, 0xF5]
    rows = np.array(list(itertools.product(edges, repeat=3)))
    rows = np.concatenate(
        [np.concatenate([rows, np.full((len(rows), 1), last)], axis=1) for last in (0x41, 0x80, 0xF1)]
    )
    lengths = np.full((len(rows), 1), rows.shape[1])
    nodes = Nodes("write")
    nodes.op("Identity", decode_texts(nodes, ByteTokenizer(), "lengths"), output="texts")
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes.nodes,
        "decode",
        [info("target_ids", TensorProto.INT64, ["b", "h", "t"]), info("lengths", TensorProto.INT64, ["b", "h"])],
        [info("texts", TensorProto.STRING, None)],
        nodes.constants,
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid(EXTENSIONS, 1)]
    session = TextSession(helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString(), threads=1)
    (texts,) = session._session.run(None, {"target_ids": rows[:, None] + 3, "lengths": lengths})
    assert texts[:, 0].tolist() == [bytes(row).decode("utf-8", errors="replace") for row in rows.tolist()]


def test_a_nul_in_a_translation_is_left_out(tmp_path: Path) -> None:
    session, translator = toy(tmp_path, ByteTokenizer())
    model = onnx.load(translator.bundle.path())
    table = next(tensor for tensor in model.graph.initializer if tensor.name == "embedding")
    ids = numpy_helper.to_array(table).copy()
    ids[ord("b") + 3] = 3  # the byte NUL
    table.CopyFrom(numpy_helper.from_array(ids, "embedding"))
    tokenizer, decode = ByteTokenizer(), translator.defaults
    graph = text_graph(model, source=tokenizer, target=tokenizer, decode=decode)
    assert session.translate(["abc"])[0][0].text == "abc"
    assert TextSession(graph.SerializeToString(), threads=1).translate(["abc"])[0][0].text == "ac"


def test_further_options_with_a_default_stay_options(tmp_path: Path, vocabulary: Tokenizer) -> None:
    bundle = write_toy_bundle(tmp_path / "toy", tokenizer=vocabulary, known_ids=vocabulary.vocab_size)
    search = onnx.load(bundle.path())
    search.graph.input.append(helper.make_tensor_value_info("temperature", TensorProto.FLOAT, []))
    shared = {"source": vocabulary, "target": vocabulary, "decode": bundle.manifest.decode}
    with pytest.raises(OperationalError, match="an input 'temperature' without a default"):
        text_graph(search, **shared)
    search.graph.initializer.append(numpy_helper.from_array(np.array(0.5, np.float32), "temperature"))
    session = TextSession(text_graph(search, **shared).SerializeToString(), threads=1)
    options = [value.name for value in session._session.get_overridable_initializers()]
    assert options == ["beam_size", "alpha", "num_hypotheses", "temperature", "extra_length"]
    assert [value.name for value in session._session.get_inputs()] == ["sources"]


def test_every_line_of_multi30k_is_read_as_in_python(
    echo: tuple[TextSession, Translator], multi30k_test: list[str]
) -> None:
    session, translator = echo
    assert session.translate(multi30k_test) == translator.translate(multi30k_test, CUT)


def test_another_translation_fails_parity(echo: tuple[TextSession, Translator]) -> None:
    session, translator = echo
    with pytest.raises(ParityError, match=r"differ on 1 of 2 sentences\n  'A girl\.'"):
        verify_text(session, translator, ["", "A girl."], TranslateOptions(alpha=0.1))
