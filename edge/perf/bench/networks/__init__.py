"""Built-in networks: layers as in their papers, random weights."""

from edge.perf.bench.networks.catalog import NAMES, Network, find
from edge.perf.bench.networks.model_folder import write

__all__ = ["NAMES", "Network", "find", "write"]
