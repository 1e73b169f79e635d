"""What Prometheus reads: the figures of telemetry over HTTP."""
