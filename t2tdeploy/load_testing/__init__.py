"""Load for a running server, and what came of it: rates, latencies, goodput."""
