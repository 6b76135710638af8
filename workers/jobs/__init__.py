"""The engine's jobs: each loads by id and passes one command through the door; they must never decide anything."""
