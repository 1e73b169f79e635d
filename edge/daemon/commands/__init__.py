"""Commands over MQTT: service, dispatcher, arguments, handlers, snapshots, audit log."""
