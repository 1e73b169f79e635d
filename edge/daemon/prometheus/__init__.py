"""Prometheus exporter: the figures of telemetry over HTTP."""
