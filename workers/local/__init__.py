"""The embedded stack: PostgreSQL, Kafka, the engine and our processes on one machine; never a production setup."""
