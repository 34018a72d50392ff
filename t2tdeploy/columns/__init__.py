"""Columns of tables as features: declared, fitted on training rows, applied to raw values (no torch, no ONNX)."""
