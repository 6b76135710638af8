"""Outbox to Kafka, engine outbox to Zeebe: two loops that share nothing but their code; they must never decide."""
