"""Starts ComfyUI's server and works its page in a browser."""
