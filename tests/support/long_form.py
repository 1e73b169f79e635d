"""The long form of tests, asked for by EDGE_LONG_TESTS=1: whole figures, where a short form always runs."""

import os

IS_LONG = os.environ.get("EDGE_LONG_TESTS") == "1"
