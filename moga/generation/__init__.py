"""The parts of `python -m moga.generate`."""
