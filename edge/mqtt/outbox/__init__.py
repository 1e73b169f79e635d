"""What waits to be sent: in memory, with a copy that outlives the process, and on disk while the broker is away."""

from edge.mqtt.outbox.factory import open_outbox
from edge.mqtt.outbox.outbox import Outbox
from edge.mqtt.outbox.spooler import Spooler

__all__ = ["Outbox", "Spooler", "open_outbox"]
