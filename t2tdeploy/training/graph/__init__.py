"""Training as an ONNX graph: building, keeping and running graphs of forward, loss and backward."""
