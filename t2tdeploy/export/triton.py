"""A model repository for NVIDIA Triton Inference Server, out of a bundle.

    REPOSITORY/NAME/config.pbtxt      what the model takes and gives, how Triton batches and places it
               NAME/1/model.onnx      the graph
               NAME/warmup/…          what Triton asks it before it is ready

docs/triton.md says how to run it, and what Triton's rules make of a search.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from onnx import ModelProto, TensorProto, ValueInfoProto
from pydantic import Field, model_validator

from t2tdeploy.bundle import Bundle, DecodeDefaults
from t2tdeploy.decoding import MAX_BEAM_SIZE, Alpha, BeamSize, ExtraLength
from t2tdeploy.errors import Fault, InputError, OperationalError, SettingsError
from t2tdeploy.export.nodes import axes
from t2tdeploy.export.placement import default_search, serialized
from t2tdeploy.export.text_bundle import PROBES, TextSession, verify_text
from t2tdeploy.export.text_graph import text_graph
from t2tdeploy.export.triton_graphs import batched_search, single_search
from t2tdeploy.files import atomic_directory, require_place
from t2tdeploy.settings import Settings
from t2tdeploy.tokenizer import encode_with_eos
from t2tdeploy.translator import TranslateOptions, Translator

CONFIG = "config.pbtxt"
WARMUP_SENTENCE = "This is the first sentence that a server translates, to be ready for yours."

_TYPES: dict[int, str] = {
    TensorProto.INT64: "TYPE_INT64",
    TensorProto.INT32: "TYPE_INT32",
    TensorProto.FLOAT: "TYPE_FP32",
    TensorProto.BOOL: "TYPE_BOOL",
    TensorProto.STRING: "TYPE_STRING",
}


class TritonOptions(Settings):
    """Options of `t2tdeploy export --format triton`."""

    max_batch_size: int = Field(
        64, ge=0, description="sentences of a batch; 0: Triton does not batch, and requests may carry decoding options"
    )
    preferred_batch_sizes: tuple[int, ...] = Field(
        (), description="sizes at which a batch need not wait for more; none: any size, as Triton recommends"
    )
    max_queue_delay_ms: float = Field(0.0, ge=0, description="how long a request may wait for a fuller batch")
    max_queue_size: int = Field(2048, ge=0, description="requests that may wait; 0: any number")
    device: Literal["cpu", "gpu"] = Field("cpu", description="where instances of the model run")
    instances: int = Field(1, ge=1, description="batches that run at once; on GPUs, on each of them")
    threads: int | None = Field(
        None, ge=1, description="threads of an instance on the CPU; none: as many as the host has cores"
    )
    tensorrt: Literal["off", "fp32", "fp16"] = Field(
        "off", description="have TensorRT run what it can of the graph, in this precision"
    )
    tensorrt_cache: str | None = Field(
        None, min_length=1, description="folder of Triton's machine for the engines TensorRT builds; none: not kept"
    )
    versions: int = Field(1, ge=1, description="newest versions of the model that Triton serves")
    beam_size: BeamSize | None = Field(None, description="hypotheses kept during the search; none: the bundle's")
    alpha: Alpha | None = Field(None, description="length penalty; none: the bundle's")
    extra_length: ExtraLength | None = Field(
        None, description="tokens that a translation may have more than its source; none: the bundle's"
    )
    num_hypotheses: int = Field(1, ge=1, le=MAX_BEAM_SIZE, description="translations per sentence")
    op_library: str = Field(
        "/opt/tritonserver/lib/libortextensions.so",
        min_length=1,
        description="where Triton finds the library of onnxruntime-extensions; for the text graph only",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if any(not 1 <= size <= self.max_batch_size for size in self.preferred_batch_sizes):
            raise ValueError(f"preferred_batch_sizes are not all between 1 and max_batch_size = {self.max_batch_size}")
        if self.tensorrt != "off" and self.device != "gpu":
            raise ValueError("tensorrt needs device=gpu")
        if self.tensorrt == "off" and self.tensorrt_cache is not None:
            raise ValueError("tensorrt_cache needs tensorrt=fp32 or fp16")
        if not self.max_batch_size:
            for name in ("max_queue_delay_ms", "max_queue_size"):
                if getattr(self, name) != type(self).model_fields[name].default:
                    raise ValueError(f"{name} is of batches, which max_batch_size = 0 turns off")
        return self


def write_triton(
    bundle: Bundle,
    repository: Path,
    *,
    name: str | None = None,
    text: bool = False,
    options: TritonOptions | None = None,
    overwrite: bool = False,
) -> list[Path]:
    """Writes the bundle's default variant into a model repository, as version 1 of a model.

    Args:
        name: of the model; None: the bundle's.
        text: write a second model, NAME_text, of strings in and out.

    Returns:
        The folders of the models.

    Raises:
        InputError: the name is no name of a folder, or taken; or the bundle does not translate.
        SettingsError: the options do not suit the bundle.
        ParityError: the text graph translates otherwise than `Translator`; nothing is written.
        OperationalError: the disk refuses, or a graph cannot be made.
    """
    options = options or TritonOptions()
    name = name or bundle.manifest.name
    decode = _decode_defaults(bundle, options)
    require_free_models(repository, name, text=text, overwrite=overwrite)
    search = default_search(bundle)
    build = batched_search if options.max_batch_size else single_search
    graphs = {name: build(search, decode, options.num_hypotheses)}
    if text:
        source, target = bundle.tokenizer("inputs"), bundle.tokenizer("targets")
        graph = text_graph(search, source=source, target=target, decode=decode, num_hypotheses=options.num_hypotheses)
        asked = TranslateOptions(decode.beam_size, decode.alpha, options.num_hypotheses, decode.extra_length)
        verify_text(TextSession(serialized(graph)), Translator(bundle), PROBES, asked)
        graphs[text_name(name)] = graph
    return [_write(bundle, repository / each, graph, options) for each, graph in graphs.items()]


def model_config(name: str, graph: ModelProto, options: TritonOptions, warmup: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of a model, as Triton's model_config.proto names its fields.

    Args:
        warmup: the dims of a warm-up request's input by its name.
    """
    batched = options.max_batch_size > 0
    defaults = {tensor.name for tensor in graph.graph.initializer}
    needed = [value for value in graph.graph.input if value.name not in defaults]
    config: dict[str, Any] = {
        "name": name,
        "backend": "onnxruntime",
        "default_model_filename": "model.onnx",
        "max_batch_size": options.max_batch_size,
        "version_policy": {"latest": {"num_versions": options.versions}},
        "input": [_tensor(value, batched=batched) for value in needed],
        "output": [_tensor(value, batched=batched) for value in graph.graph.output],
    }
    if not batched:
        optional = [value for value in graph.graph.input if value.name in defaults]
        config["input"] += [_tensor(value, batched=False) | {"optional": True} for value in optional]
    if batched and len(needed) == 2:
        config |= _ragged(*needed)
    if batched:
        config["dynamic_batching"] = _batching(options)
    config["instance_group"] = [{"count": options.instances, "kind": _Word(f"KIND_{options.device.upper()}")}]
    if options.tensorrt != "off":
        config["optimization"] = _tensorrt(options)
    if options.threads:
        config["parameters"] = [{"key": "intra_op_thread_count", "value": {"string_value": str(options.threads)}}]
    sizes = dict.fromkeys([1, max(1, options.max_batch_size)])
    config["model_warmup"] = [_warmup(size, graph, warmup) for size in sizes]
    if any(node.domain for node in graph.graph.node):
        config["model_operations"] = {"op_library_filename": [options.op_library]}
    return config


class _Word(str):
    """A value that text format writes without quotes."""


def _tensor(value: ValueInfoProto, *, batched: bool) -> dict[str, Any]:
    """An input or output. Triton adds the batch axis itself, and knows no tensor without another axis."""
    shape = [axis if isinstance(axis, int) else -1 for axis in axes(value)]
    dims = shape[1:] if batched else shape
    found: dict[str, Any] = {
        "name": value.name,
        "data_type": _Word(_TYPES[value.type.tensor_type.elem_type]),
        "dims": dims or [1],
    }
    if batched and not dims:
        found["reshape"] = {"shape": []}
    return found


def _ragged(source: ValueInfoProto, lengths: ValueInfoProto) -> dict[str, Any]:
    """Inputs of sources of any length, and of the lengths, which Triton makes itself."""
    return {
        "input": [_tensor(source, batched=False) | {"allow_ragged_batch": True}],
        "batch_input": {
            "kind": _Word("BATCH_ITEM_SHAPE"),
            "target_name": [lengths.name],
            "data_type": _Word(_TYPES[lengths.type.tensor_type.elem_type]),
            "source_input": [source.name],
        },
    }


def _batching(options: TritonOptions) -> dict[str, Any]:
    batching: dict[str, Any] = {"max_queue_delay_microseconds": round(options.max_queue_delay_ms * 1000)}
    if options.preferred_batch_sizes:
        batching["preferred_batch_size"] = sorted(options.preferred_batch_sizes)
    if options.max_queue_size:
        batching["default_queue_policy"] = {"max_queue_size": options.max_queue_size}
    return batching


def _tensorrt(options: TritonOptions) -> dict[str, Any]:
    parameters = {"precision_mode": options.tensorrt.upper()}
    if options.tensorrt_cache:
        parameters |= {"trt_engine_cache_enable": "1", "trt_engine_cache_path": options.tensorrt_cache}
    pairs = [{"key": key, "value": value} for key, value in parameters.items()]
    return {"execution_accelerators": {"gpu_execution_accelerator": [{"name": "tensorrt", "parameters": pairs}]}}


def _warmup(batch_size: int, graph: ModelProto, inputs: Mapping[str, Any]) -> dict[str, Any]:
    kinds = {value.name: value.type.tensor_type.elem_type for value in graph.graph.input}
    return {
        "name": f"batch of {batch_size}",
        "batch_size": batch_size,
        "inputs": [
            {"key": name, "value": {"data_type": _Word(_TYPES[kinds[name]]), "dims": dims, "input_data_file": name}}
            for name, dims in inputs.items()
        ],
    }


def text_format(message: Mapping[str, Any], indent: str = "") -> str:
    """A message in protobuf's text format: https://protobuf.dev/reference/protobuf/textformat-spec"""
    return "".join(_field(name, value, indent) for name, value in message.items())


def _field(name: str, value: Any, indent: str) -> str:
    if isinstance(value, Mapping):
        return f"{indent}{name} {{\n{text_format(value, indent + '  ')}{indent}}}\n"
    if isinstance(value, Sequence) and not isinstance(value, str):
        if value and isinstance(value[0], Mapping):
            return "".join(_field(name, item, indent) for item in value)
        return f"{indent}{name}: [{', '.join(map(_scalar, value))}]\n"
    return f"{indent}{name}: {_scalar(value)}\n"


def _scalar(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str) and not isinstance(value, _Word):
        escaped = re.sub(r'[\\"]', r"\\\g<0>", value).replace("\n", "\\n")
        return f'"{escaped}"'
    return str(value)


def text_name(name: str) -> str:
    """The name of the model of strings beside the model `name`."""
    return f"{name}_text"


def require_free_models(repository: Path, name: str, *, text: bool, overwrite: bool) -> None:
    """Checks that the models may be written, before the work that leads to them.

    Raises:
        InputError: the name is no name of a folder, or taken: by anything without `overwrite`, by something that is no
            model with it; or its place cannot be written to.
    """
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name):
        raise InputError(
            f"'{name}' cannot be the name of a model in Triton: it is the name of a folder",
            help="choose one of letters, digits, _ . - with --name",
        )
    if repository.exists() and not repository.is_dir():
        raise InputError(f"{repository} is a file, not a folder", path=repository, help="name the model repository")
    for folder in (repository / each for each in (name, *([text_name(name)] if text else []))):
        if folder.exists() and not overwrite:
            raise InputError(f"{folder} already exists", path=folder, help="choose another --name, or pass --overwrite")
        if folder.exists() and not (folder / CONFIG).is_file():
            raise InputError(
                f"{folder} is not a model of Triton, so it is not overwritten",
                path=folder,
                help="choose another --name",
            )
        require_place(folder)


def _decode_defaults(bundle: Bundle, options: TritonOptions) -> DecodeDefaults:
    """The bundle's, with what the options say otherwise."""
    names = ("beam_size", "alpha", "extra_length")
    given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    decode = bundle.decode.model_copy(update=given)
    widest = bundle.tokenizer("targets").vocab_size // 2
    faults = []
    if decode.beam_size > widest:
        faults.append(Fault("beam_size", decode.beam_size, f"more than half of the target vocabulary, {widest}"))
    if options.num_hypotheses > decode.beam_size:
        faults.append(Fault("num_hypotheses", options.num_hypotheses, f"more than beam_size = {decode.beam_size}"))
    if faults:
        raise SettingsError("TritonOptions", faults)
    return decode


def _write(bundle: Bundle, folder: Path, graph: ModelProto, options: TritonOptions) -> Path:
    dims, content = _warmup_input(bundle, graph.graph.input[0], batched=options.max_batch_size > 0)
    name = graph.graph.input[0].name
    config = model_config(folder.name, graph, options, {name: dims})
    try:
        with atomic_directory(folder, replace=True) as temporary:
            (temporary / "1").mkdir()
            (temporary / "1" / "model.onnx").write_bytes(serialized(graph))
            (temporary / CONFIG).write_text(text_format(config), encoding="utf-8")
            (temporary / "warmup").mkdir()
            (temporary / "warmup" / name).write_bytes(content)
    except OSError as error:
        raise OperationalError(f"cannot write {folder}: {error}") from error
    return folder


def _warmup_input(bundle: Bundle, value: ValueInfoProto, *, batched: bool) -> tuple[list[int], bytes]:
    """Dims and bytes of WARMUP_SENTENCE as Triton reads them: numbers as they are, strings behind their length."""
    if value.type.tensor_type.elem_type == TensorProto.STRING:
        text = WARMUP_SENTENCE.encode()
        return [1], struct.pack("<I", len(text)) + text
    ids = encode_with_eos(bundle.tokenizer("inputs"), WARMUP_SENTENCE)[-bundle.decode.max_source_length :]
    return [len(ids)] if batched else [1, len(ids)], np.array(ids, np.int64).tobytes()
