"""Data sets and what makes them."""
