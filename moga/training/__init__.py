"""The parts of the trainer, `python -m moga.train`."""
