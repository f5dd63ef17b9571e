"""Latents to frames and frames to latents, a few at a time and exactly."""
