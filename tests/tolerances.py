"""How far a float may lie from its expected value."""

EXACT = 1e-12  # float64 throughout
CLOSE = 1e-5  # float32 somewhere on the way
