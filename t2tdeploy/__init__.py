"""Train sequence models, export them to one ONNX graph with beam search inside, and serve them over gRPC."""

__version__ = "0.1.0"
