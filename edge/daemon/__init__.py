"""The life of `edge run`: ticks, telemetry, alarms, commands, Home Assistant."""
