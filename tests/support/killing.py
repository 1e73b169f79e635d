"""Number and spacing of the kills of daemon and broker."""

import os

from tests.support.long_form import IS_LONG

KILLS = 30 if IS_LONG else 6
LONGEST_S = 6.0 if IS_LONG else 2.0  # between two kills
SEED = int(os.environ.get("EDGE_FAULTS_SEED", "7"))
