"""Random numbers other than dropout masks as inputs of a graph, for the reasons of masks.py."""

from __future__ import annotations

from onnx import ModelProto, TensorProto, helper

from t2tdeploy.export.naming import rename_tensors
from t2tdeploy.training.graph.manifest import NoiseSpec
from t2tdeploy.training.graph.masks import axes_in, drawn_shape

_DISTRIBUTIONS = {"RandomUniformLike": "uniform", "RandomNormalLike": "normal"}


def noise_as_inputs(model: ModelProto) -> list[NoiseSpec]:
    """Replaces every operator that draws, as translations/random.py writes them, by a new input `noise_N` of float32.

    Returns:
        their specs, in the order of the new inputs.

    Raises:
        DifferentiationError: the shape of one is not known.
    """
    graph = model.graph
    shapes = axes_in(graph)
    drawing = [node for node in graph.node if node.op_type in _DISTRIBUTIONS]
    specs = [
        NoiseSpec(
            name=f"noise_{number}",
            distribution=_DISTRIBUTIONS[node.op_type],
            shape=drawn_shape(shapes, node.output[0], node.input[0]),
        )
        for number, node in enumerate(drawing)
    ]
    for node in drawing:
        graph.node.remove(node)
    graph.input.extend(helper.make_tensor_value_info(spec.name, TensorProto.FLOAT, [*spec.shape]) for spec in specs)
    rename_tensors(graph, {node.output[0]: spec.name for node, spec in zip(drawing, specs, strict=True)})
    return specs
