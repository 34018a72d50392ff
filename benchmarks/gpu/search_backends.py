"""What tensorrt_section.py compares: decoders on a GPU, made and called as those of benchmarks/decode_backends.py."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
from decode_backends import BEAM, EXTRA, NEVER_ENDS, Found

from t2tdeploy.sentences import pad_rows

LONGEST_SOURCE = 64
"""Of the profiles that engines are built for."""
STATIC_HYPOTHESES = 1


def read_answers(outputs: dict[str, Any], rows: int) -> Found:
    """Best hypotheses and their scores."""
    ids, lengths, scores = outputs["target_ids"], outputs["lengths"], outputs["scores"]
    return [(ids[row, 0, : lengths[row, 0]].tolist(), float(scores[row, 0])) for row in range(rows)]


def limits_of(batch: list[list[int]], length: int | None) -> Any:
    """max_length [batch]"""
    return np.array([len(ids) + EXTRA if length is None else length for ids in batch], dtype=np.int64)


class TensorRT:
    """An engine on the first GPU. `model` is the file that build_engine wrote; `precision` is that of its graph."""

    def __init__(self, model: Path, precision: str, threads: int, alpha: float) -> None:
        import torch

        from t2tdeploy.tensorrt_engines import this_platform

        if not torch.cuda.is_available():
            raise RuntimeError("torch sees no CUDA GPU: the engine was built, not run")
        trt = importlib.import_module(this_platform().library)
        runtime = trt.Runtime(trt.Logger(trt.Logger.WARNING))
        engine = runtime.deserialize_cuda_engine(model.read_bytes())
        if engine is None:
            raise RuntimeError("TensorRT does not read the engine")
        self._torch, self._runtime, self._engine = torch, runtime, engine  # the context needs them alive
        self._context = engine.create_execution_context()
        self._stream = torch.cuda.Stream()
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        self._outputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.OUTPUT]
        kinds = {"INT64": torch.int64, "FLOAT": torch.float32, "BOOL": torch.bool}
        self._types = {name: kinds[engine.get_tensor_dtype(name).name] for name in names}

    def __call__(self, batch: list[list[int]], length: int | None) -> Found:
        return read_answers(self.run(pad_rows(batch), limits_of(batch, length)), len(batch))

    def run(self, source_ids: Any, max_length: Any) -> dict[str, Any]:
        """One call of the engine: arrays in, arrays out."""
        torch, context = self._torch, self._context
        given = {"source_ids": source_ids, "max_length": max_length}
        tensors = {name: torch.from_numpy(array).contiguous().cuda() for name, array in given.items()}
        for name, tensor in tensors.items():
            context.set_input_shape(name, tuple(tensor.shape))
        for name in self._outputs:
            tensors[name] = torch.empty(tuple(context.get_tensor_shape(name)), dtype=self._types[name], device="cuda")
        for name, tensor in tensors.items():
            context.set_tensor_address(name, tensor.data_ptr())
        torch.cuda.synchronize()
        if not context.execute_async_v3(self._stream.cuda_stream):
            raise RuntimeError("TensorRT did not run the engine")
        self._stream.synchronize()
        return {name: tensors[name].cpu().numpy() for name in self._outputs}


class _Onnxruntime:
    """A graph in onnxruntime with the providers of a subclass."""

    fixed = False  # whether the options are constants of the graph
    provider: str

    def __init__(self, model: Path, precision: str, threads: int, alpha: float) -> None:
        import onnxruntime

        if self.provider not in onnxruntime.get_available_providers():
            raise RuntimeError(f"this onnxruntime has no {self.provider}")
        if hasattr(onnxruntime, "preload_dlls"):
            onnxruntime.preload_dlls()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(str(model), options, providers=self._providers(model))
        if self.provider not in self._session.get_providers():
            raise RuntimeError(f"{self.provider} could not be loaded")
        self._alpha = alpha

    def _providers(self, model: Path) -> list[Any]:
        return [self.provider]

    def __call__(self, batch: list[list[int]], length: int | None) -> Found:
        feeds: dict[str, Any] = {"source_ids": pad_rows(batch), "max_length": limits_of(batch, length)}
        if not self.fixed:
            alpha = self._alpha if length is None else NEVER_ENDS
            feeds |= {"beam_size": np.array(BEAM), "alpha": np.array(alpha, np.float32), "num_hypotheses": np.array(1)}
        names = ["target_ids", "lengths", "scores"]
        return read_answers(dict(zip(names, self._session.run(names, feeds), strict=True)), len(batch))


class Cuda(_Onnxruntime):
    """The growing graph on onnxruntime's CUDA provider."""

    provider = "CUDAExecutionProvider"

    def _providers(self, model: Path) -> list[Any]:
        return [self.provider, "CPUExecutionProvider"]


class TensorRTProvider(_Onnxruntime):
    """The static graph on onnxruntime's TensorRT provider; engines go beside the graph."""

    fixed = True
    provider = "TensorrtExecutionProvider"

    def _providers(self, model: Path) -> list[Any]:
        from tensorrt_section import profile

        from t2tdeploy.export.tensorrt import provider_options

        options = provider_options(model, model.parent / "engines", profile())
        return [(self.provider, options), "CUDAExecutionProvider", "CPUExecutionProvider"]


class StaticOnCpu(_Onnxruntime):
    """The static graph on a CPU."""

    fixed = True
    provider = "CPUExecutionProvider"


class CTranslate2OnGpu:
    """As decode_backends.CTranslate2, on the first GPU."""

    def __init__(self, model: Path, precision: str, threads: int, alpha: float) -> None:
        import ctranslate2
        from decode_backends import CTranslate2

        if ctranslate2.get_cuda_device_count() == 0:
            raise RuntimeError("CTranslate2 sees no CUDA GPU")
        self._translate = CTranslate2(model, precision, threads, alpha, device="cuda")

    def __call__(self, batch: list[list[int]], length: int | None) -> Found:
        return self._translate(batch, length)


GPU_BACKENDS = {
    "tensorrt": TensorRT,
    "ort-tensorrt": TensorRTProvider,
    "ort-cuda": Cuda,
    "ort-cpu-static": StaticOnCpu,
    "ctranslate2-cuda": CTranslate2OnGpu,
}
