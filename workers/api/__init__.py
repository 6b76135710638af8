"""The HTTP edge: who asks, what they ask, and the answer in the contract's words; it must never decide."""
