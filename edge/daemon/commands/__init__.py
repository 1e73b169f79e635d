"""Commands over MQTT: service, dispatcher, arguments, handlers, audit log."""
