"""INT8: calibration, layer search, quantization, comparison, verification."""
