"""MQTT: publisher, TLS, topics, schemas, outbox."""
