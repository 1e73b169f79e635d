"""The published networks, built in: layers as in their papers, weights drawn at random when they are written."""

from edge.perf.bench.networks.catalog import NAMES, Network, find
from edge.perf.bench.networks.model_folder import write

__all__ = ["NAMES", "Network", "find", "write"]
