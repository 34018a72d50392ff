"""The gRPC server and its clients (no torch)."""
