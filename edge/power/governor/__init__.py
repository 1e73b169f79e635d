"""Power governor: the mode, batch and waiting time of least energy within latency targets; pure."""

from edge.power.governor.contract import Decision, GovernorInput, Rules, StreamLoad
from edge.power.governor.governor import Governor

__all__ = ["Decision", "Governor", "GovernorInput", "Rules", "StreamLoad"]
