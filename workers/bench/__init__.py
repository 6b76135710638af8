"""`recourse bench`: how good the product is, as ratios to the same work done with less; it must never be part of a
running service, nor compare itself with work that is easier."""
