"""Asks a server whether it serves, for the health checks of containers:

    python -m t2tdeploy.serving.health localhost:50051

Exits with 0 if the server's health is SERVING, with 1 if it is not, with 2 if a file of TLS cannot be used. The
protocol is grpc.health.v1.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from t2tdeploy.errors import T2TDeployError
from t2tdeploy.serving.channel import PLAIN, Security, call_timeout, open_channel


def health_of(server: str, *, timeout: float, security: Security = PLAIN) -> str:
    """The name of a server's health status, e.g. SERVING; without an answer that of the gRPC status, e.g. UNAVAILABLE.

    Args:
        server: host:port.
        timeout: seconds to wait for the answer.
        security: TLS; servers answer this without a token.

    Raises:
        UserError: a file of TLS is not as it must be.
    """
    with open_channel(server, security) as channel:
        try:
            check = health_pb2_grpc.HealthStub(channel).Check
            answer = check(health_pb2.HealthCheckRequest(), timeout=call_timeout(timeout))
        except grpc.RpcError as error:
            return str(error.code().name)
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))


def main() -> None:
    """Prints the status and exits."""
    parser = argparse.ArgumentParser(prog="python -m t2tdeploy.serving.health", description="Is the server serving?")
    parser.add_argument("server", help="host:port")
    parser.add_argument("--timeout", type=float, default=3.0, help="seconds to wait for the answer [3]")
    parser.add_argument("--tls", action="store_true", help="encrypt, and trust the well-known authorities")
    parser.add_argument("--tls-ca", type=Path, help="PEM file of the authorities to trust instead")
    parser.add_argument("--tls-certificate", type=Path, help="PEM file of the client's certificate, if it needs one")
    parser.add_argument("--tls-key", type=Path, help="PEM file of its key")
    arguments = parser.parse_args()
    security = Security(arguments.tls, arguments.tls_ca, arguments.tls_certificate, arguments.tls_key)
    try:
        status = health_of(arguments.server, timeout=arguments.timeout, security=security)
    except T2TDeployError as error:
        print(f"error: {error.message}", *([f"help: {error.help}"] if error.help else []), sep="\n", file=sys.stderr)
        sys.exit(error.exit_code)
    print(status)
    sys.exit(0 if status == "SERVING" else 1)


if __name__ == "__main__":
    main()
