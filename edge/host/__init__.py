"""The machine, read only: board, sensors, systemd and journal."""
