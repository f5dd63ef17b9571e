"""The kernels behind the table in `moga.kernels`, one way of running attention per module."""
