"""Asks a server whether it serves, for the health checks of containers:

    python -m t2tdeploy.serving.health localhost:50051

Exits with 0 if the server's health is SERVING, else with 1. The protocol is grpc.health.v1.
"""

from __future__ import annotations

import argparse
import sys

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc


def health_of(server: str, *, timeout: float) -> str:
    """The name of a server's health status, e.g. SERVING; without an answer that of the gRPC status, e.g. UNAVAILABLE.

    Args:
        server: host:port.
        timeout: seconds to wait for the answer.
    """
    with grpc.insecure_channel(server) as channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=timeout)
        except grpc.RpcError as error:
            return str(error.code().name)
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))


def main() -> None:
    """Prints the status and exits."""
    parser = argparse.ArgumentParser(prog="python -m t2tdeploy.serving.health", description="Is the server serving?")
    parser.add_argument("server", help="host:port")
    parser.add_argument("--timeout", type=float, default=3.0, help="seconds to wait for the answer [3]")
    arguments = parser.parse_args()
    status = health_of(arguments.server, timeout=arguments.timeout)
    print(status)
    sys.exit(0 if status == "SERVING" else 1)


if __name__ == "__main__":
    main()
