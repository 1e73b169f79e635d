"""Store-and-forward outbox: memory queue, journal that outlives the process, spool on disk for long outages."""

from edge.mqtt.outbox.factory import open_outbox
from edge.mqtt.outbox.outbox import Outbox
from edge.mqtt.outbox.spooler import Spooler

__all__ = ["Outbox", "Spooler", "open_outbox"]
