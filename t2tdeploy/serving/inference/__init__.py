"""The Open Inference Protocol v2, as tritonclient speaks it, over gRPC and HTTP."""
