"""The routes, one module per noun; none of them must ever decide what a command means."""
