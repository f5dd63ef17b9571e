"""Tests in ComfyUI's own page: its server, its frontend, a browser.

A package, so that fixtures of package scope end with these tests: while Playwright runs, nothing
else in the process can start an event loop, and the tests of other folders do.
"""
