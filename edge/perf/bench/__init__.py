"""Benchmark: plan, measurement, assessment and report of `edge bench`."""
