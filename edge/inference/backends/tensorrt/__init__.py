"""TensorRT: builder, plans, engines."""
