"""Engines by name."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from t2tdeploy.errors import UnknownNameError
from t2tdeploy.hparams import HParams
from t2tdeploy.models.model import Model
from t2tdeploy.progress import Reporter
from t2tdeploy.training.gradient_engine import GradientEngine, default_device
from t2tdeploy.training.processes import ALONE, Processes
from t2tdeploy.training.torch_engine import TorchEngine

ENGINES = ("ort", "torch")
AUTO = "auto"


def make_engine(
    name: str,
    model: Model,
    hparams: HParams,
    *,
    device: torch.device | None = None,
    processes: Processes = ALONE,
    gradient_builder: str = AUTO,
    graph_directory: Path | None = None,
    reporter: Reporter | None = None,
) -> GradientEngine:
    """The engine `name` for a model on the CPU; collective.

    Args:
        name: one of `ENGINES`, or `AUTO`: see `faster_engine`; "ort" if a gradient builder is named.
        device, processes: see `GradientEngine`.
        gradient_builder: of the training graph; only "ort" has one.
        graph_directory: where the first process writes the training graph, for people to look at and use.
        reporter: told what takes long.

    Raises:
        UnknownNameError: there is no such engine.
        UserError: the model, its parameters or its precision are not for this engine.
        OperationalError: onnxruntime is missing or does not work on the device.
    """
    if name not in (AUTO, *ENGINES):
        raise UnknownNameError("engine", name, (AUTO, *ENGINES))
    if name == AUTO:
        name = faster_engine(model) if gradient_builder == AUTO else "ort"
        if reporter is not None and name == "torch":
            reporter.message("engine torch, as images are convolved (--engine ort trains them too, slower on CPUs)")
    if name == "torch":
        return TorchEngine(model, hparams, device=device, processes=processes)
    from t2tdeploy.training.graph.obtain import obtain_training_graph
    from t2tdeploy.training.graph.target import Target
    from t2tdeploy.training.ort_engine import OrtEngine, require_element_types, require_support

    require_support(hparams, device)
    require_element_types(model)
    with processes.in_turn():
        on_gpu = (device or default_device()).type == "cuda"
        target = Target("cuda" if on_gpu else "cpu", hparams.precision)
        graph = obtain_training_graph(
            model, hparams, target=target, gradient_builder=gradient_builder, reporter=reporter
        )
    if graph_directory is not None and processes.first:
        graph.save(graph_directory)
    return OrtEngine(model, hparams, graph, device=device, processes=processes)


def faster_engine(model: Model) -> str:
    """torch for models that convolve images, onnxruntime for all others.

    On CPUs torch's convolutions and their gradients are three times as fast as what a training graph can be made of
    (benchmarks/class_engines.py); on GPUs it has not been measured.
    """
    return "torch" if any(isinstance(module, nn.Conv2d) for module in model.modules()) else "ort"
