"""Inference runtime for NVIDIA Jetson boards."""

import os

__version__ = "0.1.0"

# From 1.29 on, ONNX Runtime writes a device id and a database into the home directory and looks up a telemetry host. It
# begins while it is imported, so that its own disable_telemetry_events() comes too late. Python runs this file before a
# module of the package, or a decoder of one's own, can import the library; child processes inherit the variable. What
# it was before does not count: a device talks to nobody that its configuration does not name.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
