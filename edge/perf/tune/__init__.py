"""The search for the best operating point: what is tried, on the pipeline that serves, and what came of it."""
