"""Procedural films of several shots, whose characters and actions are known, and read back."""
