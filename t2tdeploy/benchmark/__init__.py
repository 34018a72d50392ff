"""How fast the variants of a bundle are on this machine: each in a process of its own, in turns (no torch, no onnx)."""
