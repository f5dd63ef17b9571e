"""The pack's one address on ComfyUI's server, where there is a server."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from .timeline import MAX_BODY, PATH, answer

if TYPE_CHECKING:
    from aiohttp import web


def add_route() -> None:
    """Answer the page's timelines. Once, however often the pack lies in custom_nodes."""
    try:
        from server import PromptServer
    except ImportError:
        return
    routes: Any = getattr(getattr(PromptServer, "instance", None), "routes", None)
    if routes is not None and not any(getattr(route, "path", "") == PATH for route in routes):
        routes.post(PATH)(_reply)


async def _reply(request: web.Request) -> web.Response:
    from aiohttp import web

    # Read here, because ComfyUI lets through uploads of a hundred megabytes.
    body = bytearray()
    async for piece in request.content.iter_chunked(MAX_BODY):
        body += piece
        if len(body) > MAX_BODY:
            words = f"The script is larger than {MAX_BODY // 1024} KiB, too large for a timeline."
            return web.json_response({"error": {"message": words}}, status=413)
    # Away from the loop, which also serves what is being sampled.
    loop = asyncio.get_running_loop()
    status, reply = await loop.run_in_executor(None, answer, bytes(body))
    return web.json_response(reply, status=status)
