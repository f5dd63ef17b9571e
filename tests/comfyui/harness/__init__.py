"""What the tests need to work with a real ComfyUI: find it, boot it in this process, feed it."""
