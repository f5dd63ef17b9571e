"""A server on this machine that speaks chat completions, and misbehaves as it is told to."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

CAPTION = "Wide shot of a bright square that moves over a dark ground from left to right."


class ChatServer:
    """replies: what to do with each call in turn, then CAPTION for ever.

    A reply is a text; a number, for a status; or a function of the handler and the call's body.
    """

    def __init__(self, *replies, models=("vision",), key=None):
        self.replies, self.models, self.key = list(replies), models, key
        self.calls, self.lock = [], threading.Lock()
        self.open, self.most_open = 0, 0
        chat = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def do_GET(self):
                if chat.refused(self):
                    return
                data = {"data": [{"id": name} for name in chat.models]}
                send(self, 200, json.dumps(data).encode())

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if chat.refused(self):
                    return
                with chat.lock:
                    chat.calls.append(body)
                    reply = chat.replies.pop(0) if chat.replies else chat.usual(body)
                    chat.open += 1
                    chat.most_open = max(chat.open, chat.most_open)
                try:
                    chat.give(self, reply, body)
                finally:
                    with chat.lock:
                        chat.open -= 1

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.http.shutdown()
        self.http.server_close()

    def usual(self, body):
        """CAPTION, and for the second call that of every shot."""
        prompt = prompt_of(body)
        if '"captions"' not in prompt:
            return CAPTION
        count = int(prompt.partition("A film has ")[2].split()[0])
        return json.dumps({"global": "A bright square.", "captions": [CAPTION] * count})

    def refused(self, handler):
        if self.key is None or handler.headers.get("Authorization") == f"Bearer {self.key}":
            return False
        send(handler, 401, b'{"error": {"message": "bad key"}}')
        return True

    def give(self, handler, reply, body):
        if callable(reply):
            reply(handler, body)
        elif isinstance(reply, int):
            send(handler, reply, json.dumps({"error": {"message": "out of order"}}).encode())
        else:
            send(handler, 200, completion(reply))


def prompt_of(body):
    return body["messages"][0]["content"][0]["text"]


def completion(text, **usage):
    used = {"prompt_tokens": 100, "completion_tokens": 20, **usage}
    choice = {"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    return json.dumps({"choices": [choice], "usage": used}).encode()


def send(handler, status, data, **headers):
    handler.send_response(status)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", str(len(data)))
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(data)


def raw(data, status=200, **headers):
    return lambda handler, body: send(handler, status, data, **headers)


def dropped(handler, body):
    """The connection ends before anything is answered."""
    handler.close_connection = True
    handler.connection.close()


def cut_off(handler, body):
    """The connection ends in the middle of the answer."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"choices": [')
    handler.close_connection = True


def slow(seconds):
    def wait(handler, body):
        time.sleep(seconds)
        send(handler, 200, completion(CAPTION))

    return wait
