"""Snapshot → power mode, batch and waiting time, for the least energy within latency targets; pure."""

from edge.governor.decision import Decision, Rules, Snapshot, StreamSeen
from edge.governor.governor import Governor

__all__ = ["Decision", "Governor", "Rules", "Snapshot", "StreamSeen"]
