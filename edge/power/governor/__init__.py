"""Snapshot → power mode, batch and waiting time, for the least energy within latency targets; pure."""

from edge.power.governor.contract import Decision, GovernorInput, Rules, StreamSeen
from edge.power.governor.governor import Governor

__all__ = ["Decision", "Governor", "GovernorInput", "Rules", "StreamSeen"]
