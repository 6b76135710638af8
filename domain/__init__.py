"""The house that thinks and remembers: decisions are pure, the store keeps them; it never calls an outside system."""
