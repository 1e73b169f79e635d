"""What waits to be sent: in memory, with a copy that outlives the process, and on disk while the broker is away."""

from edge.outbox.opening import open_outbox
from edge.outbox.outbox import Outbox
from edge.outbox.shelving import Shelving

__all__ = ["Outbox", "Shelving", "open_outbox"]
