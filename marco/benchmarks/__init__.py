"""What Marco costs: one module a benchmark, each run by `marco bench NAME`."""
