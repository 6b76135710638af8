"""Our clients of what we do not run ourselves: outside systems and the engine's questions; they must never decide."""
