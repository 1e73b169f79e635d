"""The surfaces of NVIDIA's and pycuda's Python bindings, and what our source uses of them."""
