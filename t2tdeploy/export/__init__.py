"""From a trained model to a bundle: torch to ONNX, the search Loop, parity."""
