"""Laws of model repositories: Triton takes them, and whatever it batches, each request has Translator's answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf import text_format as protobuf_text
from tritonclient.grpc import model_config_pb2

from t2tdeploy.bundle import Bundle
from t2tdeploy.errors import InputError, SettingsError
from t2tdeploy.export.triton import CONFIG, TritonOptions, text_format, write_triton
from t2tdeploy.sentences import pad_rows
from t2tdeploy.tokenizer import Tokenizer
from t2tdeploy.translator import Hypothesis, TranslateOptions, Translator
from tests.export.conftest import SENTENCES
from tests.export.triton_backend import Refused, Response, TritonModel
from tests.serving.toy_bundle import small_tokenizer, write_toy_bundle

SOURCES = ["A girl.", *SENTENCES, "Two men."]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, vocabulary: Tokenizer) -> Bundle:
    folder = tmp_path_factory.mktemp("bundle") / "toy"
    return write_toy_bundle(folder, tokenizer=vocabulary, known_ids=vocabulary.vocab_size, max_source_length=60)


@pytest.fixture(scope="module")
def translator(bundle: Bundle) -> Translator:
    return Translator(bundle, threads=1)


def models(bundle: Bundle, folder: Path, overrides: str = "", **more: Any) -> list[TritonModel]:
    written = write_triton(bundle, folder / "models", options=TritonOptions().override(overrides), **more)
    return [TritonModel(model) for model in written]


def ids_request(translator: Translator, *sources: str) -> dict[str, np.ndarray]:
    return {"source_ids": pad_rows([sentence.ids for sentence in translator.encode(sources)])}


def text_request(*sources: str) -> dict[str, np.ndarray]:
    return {"sources": np.array(sources, object).reshape(-1, 1)}


def hypotheses(translator: Translator, response: Response) -> list[list[Hypothesis]]:
    """A response as Translator answers."""
    found = []
    for row, lengths in enumerate(response["lengths"].tolist()):
        found.append([])
        for rank, length in enumerate(lengths):
            if "texts" in response:
                text = response["texts"][row, rank]
            else:
                text = translator.bundle.tokenizer("targets").decode(
                    response["target_ids"][row, rank, :length].tolist()
                )
            if length:
                finished = bool(np.ravel(response["finished"])[row])
                found[-1].append(Hypothesis(text, float(response["scores"][row, rank]), length, finished))
    return found


def test_requests_of_all_lengths_share_a_batch(bundle: Bundle, translator: Translator, tmp_path: Path) -> None:
    (model,) = models(bundle, tmp_path)
    requests = [SOURCES[:1], SOURCES[1:4], SOURCES[4:]]
    responses = model.run([ids_request(translator, *sources) for sources in requests])
    for sources, response in zip(requests, responses, strict=True):
        assert hypotheses(translator, response) == translator.translate(sources)
        assert hypotheses(translator, model.run([ids_request(translator, *sources)])[0]) == translator.translate(
            sources
        )


def test_texts_share_a_batch(bundle: Bundle, translator: Translator, tmp_path: Path) -> None:
    _, model = models(bundle, tmp_path, text=True)
    requests = [["", SOURCES[1]], [SOURCES[0]], ["many words " * 90, *SOURCES[2:]]]
    for sources, response in zip(requests, model.run([text_request(*one) for one in requests]), strict=True):
        assert hypotheses(translator, response) == translator.translate(sources, TranslateOptions(truncate=True))
        assert response["truncated"].tolist() == [[len(source) > 500] for source in sources]


def test_options_are_the_models_where_requests_are_batched(
    bundle: Bundle, translator: Translator, tmp_path: Path
) -> None:
    asked = TranslateOptions(beam_size=5, alpha=1.25, extra_length=7, num_hypotheses=3)
    overrides = "beam_size=5,alpha=1.25,extra_length=7,num_hypotheses=3"
    for model in models(bundle, tmp_path, overrides, text=True):
        request = text_request(*SOURCES) if model.config.name.endswith("text") else ids_request(translator, *SOURCES)
        assert hypotheses(translator, model.run([request])[0]) == translator.translate(SOURCES, asked)
        with pytest.raises(Refused, match="unexpected inference input"):
            model.run([{**request, "alpha": np.array([[1.0]], np.float32)}])


def test_options_are_the_requests_where_they_are_not_batched(
    bundle: Bundle, translator: Translator, tmp_path: Path
) -> None:
    given = {
        "alpha": np.array([1.5], np.float32),
        "num_hypotheses": np.array([2]),
        "beam_size": np.array([6]),
        "extra_length": np.array([3]),
    }
    asked = TranslateOptions(alpha=1.5, num_hypotheses=2, beam_size=6, extra_length=3)
    for model in models(bundle, tmp_path, "max_batch_size=0", text=True):
        text = model.config.name.endswith("text")
        request = {"sources": np.array(SOURCES, object)} if text else ids_request(translator, *SOURCES)
        assert hypotheses(translator, model.run([request])[0]) == translator.translate(SOURCES)
        assert hypotheses(translator, model.run([{**request, **given}])[0]) == translator.translate(SOURCES, asked)
        with pytest.raises(Refused, match="not batched"):
            model.run([request, request])


@pytest.mark.parametrize("overrides", ["", "max_batch_size=0", "max_batch_size=3,num_hypotheses=2"])
def test_warm_up_requests_are_requests(bundle: Bundle, tmp_path: Path, overrides: str) -> None:
    for model in models(bundle, tmp_path, overrides, text=True):
        assert model.config.model_warmup
        model.warm_up()


def test_the_configuration_says_what_was_asked_for(bundle: Bundle, tmp_path: Path) -> None:
    overrides = (
        "max_batch_size=32,preferred_batch_sizes=[16,8],max_queue_delay_ms=1.5,max_queue_size=99,device=gpu,instances=2,"
        "threads=3,tensorrt=fp16,tensorrt_cache=/engines,versions=2,op_library=/lib/ops.so"
    )
    for model in models(bundle, tmp_path, overrides, text=True, name="m"):
        config = model.config
        assert (config.backend, config.max_batch_size) == ("onnxruntime", 32)
        assert list(config.dynamic_batching.preferred_batch_size) == [8, 16]
        assert config.dynamic_batching.max_queue_delay_microseconds == 1500
        assert config.dynamic_batching.default_queue_policy.max_queue_size == 99
        (group,) = config.instance_group
        assert (group.kind, group.count) == (group.KIND_GPU, 2)
        assert config.parameters["intra_op_thread_count"].string_value == "3"
        (accelerator,) = config.optimization.execution_accelerators.gpu_execution_accelerator
        assert accelerator.name == "tensorrt"
        assert accelerator.parameters["precision_mode"] == "FP16"
        assert accelerator.parameters["trt_engine_cache_path"] == "/engines"
        assert config.version_policy.latest.num_versions == 2
        libraries = list(config.model_operations.op_library_filename)
        assert libraries == (["/lib/ops.so"] if config.name == "m_text" else [])
        assert [sample.batch_size for sample in config.model_warmup] == [1, 32]


@pytest.mark.parametrize(
    ("words", "change"),
    [
        ("data type", lambda config: setattr(config.input[0], "data_type", model_config_pb2.TYPE_INT32)),
        (r"scores|target_ids", lambda config: config.output[0].dims.append(1)),
        ("configuration expects 1 inputs", lambda config: config.ClearField("batch_input")),
        (r"\[-1, -1\] for \[-1\]", lambda config: setattr(config.input[0], "allow_ragged_batch", False)),
        ("unexpected output", lambda config: setattr(config.output[0], "name", "ids")),
        ("name", lambda config: setattr(config, "name", "other")),
    ],
)  # fmt: skip
def test_a_configuration_that_does_not_suit_the_graph_is_refused(
    bundle: Bundle, tmp_path: Path, words: str, change: Any
) -> None:
    (model,) = models(bundle, tmp_path)
    change(model.config)
    (model.folder / CONFIG).write_text(protobuf_text.MessageToString(model.config))
    with pytest.raises(Refused, match=words):
        TritonModel(model.folder)


@pytest.mark.parametrize("text", ['a "b" \\ c', "", "Ünïcode", "two\nlines"])
def test_strings_survive_the_text_format(text: str) -> None:
    message = {"name": text, "cc_model_filenames": [], "default_model_filename": "x"}
    parsed = protobuf_text.Parse(
        text_format({"name": text, "metric_tags": [{"key": text, "value": text}]}), model_config_pb2.ModelConfig()
    )
    assert parsed.name == parsed.metric_tags[text] == message["name"]


def test_options_that_do_not_suit_each_other_or_the_bundle_are_named(bundle: Bundle, tmp_path: Path) -> None:
    for overrides, words in (
        ("preferred_batch_sizes=[99]", "preferred_batch_sizes are not all between 1 and max_batch_size = 64"),
        ("tensorrt=fp16", "tensorrt needs device=gpu"),
        ("device=gpu,tensorrt_cache=/engines", "tensorrt_cache needs tensorrt=fp32 or fp16"),
        (
            "max_batch_size=0,max_queue_delay_ms=5",
            "max_queue_delay_ms is of batches, which max_batch_size = 0 turns off",
        ),
        ("max_batch_size=0,max_queue_size=7", "max_queue_size is of batches"),
        ("beam_size=2,num_hypotheses=3", "num_hypotheses = 3: more than beam_size = 2"),
        ("max_batch=2", r"no such field \(did you mean 'max_batch_size'\?\)"),
    ):
        with pytest.raises(SettingsError, match=words):
            models(bundle, tmp_path, overrides)
    small = write_toy_bundle(tmp_path / "small", tokenizer=small_tokenizer())
    with pytest.raises(SettingsError, match="beam_size = 16: more than half of the target vocabulary"):
        models(small, tmp_path, "beam_size=16")
    assert not (tmp_path / "models").exists()


def test_a_taken_name_is_left_alone_unless_told(bundle: Bundle, tmp_path: Path) -> None:
    models(bundle, tmp_path, name="m")
    with pytest.raises(InputError, match=r"models/m already exists"):
        models(bundle, tmp_path, name="m")
    models(bundle, tmp_path, "max_batch_size=8", name="m", overwrite=True)
    assert TritonModel(tmp_path / "models" / "m").config.max_batch_size == 8
    photos = tmp_path / "models" / "photos"
    photos.mkdir()
    with pytest.raises(InputError, match=r"photos is not a model of Triton"):
        models(bundle, tmp_path, name="photos", overwrite=True)
    with pytest.raises(InputError, match="cannot be the name of a model"):
        models(bundle, tmp_path, name="../m")
    assert photos.exists()
