"""Inference engines: ONNX Runtime and TensorRT."""
