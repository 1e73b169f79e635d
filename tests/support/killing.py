"""How often and how long the tests of this folder kill: shortly, unless EDGE_FAULTS=full asks for the whole figure."""

import os

IS_FULL = os.environ.get("EDGE_FAULTS") == "full"
KILLS = 30 if IS_FULL else 6
LONGEST_S = 6.0 if IS_FULL else 2.0  # between two kills
SEED = int(os.environ.get("EDGE_FAULTS_SEED", "7"))
