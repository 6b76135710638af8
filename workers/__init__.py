"""The house that runs: processes, edges and the embedded stack; it must never decide business questions."""
