"""Snapshot → power mode, batch and waiting time, for the least energy within latency targets; pure."""

from edge.power.governor.contract import Decision, Rules, Snapshot, StreamSeen
from edge.power.governor.governor import Governor

__all__ = ["Decision", "Governor", "Rules", "Snapshot", "StreamSeen"]
