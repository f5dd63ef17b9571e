"""Chat completions over HTTP, as vLLM, Ollama, LM Studio and others speak them."""

from __future__ import annotations

import base64
import difflib
import io
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import BoundedSemaphore
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from ....errors import MogaError
from ....shots.script import shorten
from ..settings import Caption
from ..stopping import STOPPED, go_on
from .answers import AnswerError
from .memory import Memory, Spent, question
from .pace import Pace, asked_to_wait

if TYPE_CHECKING:
    import httpx

T = TypeVar("T")
_CONNECT = 10.0  # seconds
_LONGEST_WAIT = 600.0  # seconds that a server may ask for
_THIS_ONE = (400, 413, 422)  # of a question: its length, or a filter of contents
_AGAIN = (408, 409, 425, 429)  # and 500 upwards
_JPEG = 90


class EndpointError(MogaError, RuntimeError):
    """An endpoint that does not answer, or not so; the message has its words and the fix.

    No film is at fault, so it ends the run, which goes on when it is started again.
    """


class _Again(Exception):
    """A failure that may pass. wait: seconds that the server asked for."""

    def __init__(self, why: str, wait: float | None = None) -> None:
        super().__init__(why)
        self.wait = wait


@dataclass(frozen=True)
class Answer:
    """The text of an answer, and what it took."""

    text: str
    spent: Spent


class Endpoint:
    """One endpoint, for any number of threads.

    first_wait: seconds before the second try; each further one waits twice as long.
    """

    def __init__(self, settings: Caption, first_wait: float = 1.0) -> None:
        import httpx

        key = os.environ.get(settings.key_variable, "") if settings.key_variable else ""
        try:
            self._client = httpx.Client(
                base_url=settings.url.rstrip("/") + "/",
                headers={"Authorization": f"Bearer {key}"} if key else {},
                timeout=httpx.Timeout(settings.timeout, connect=min(_CONNECT, settings.timeout)),
                limits=httpx.Limits(max_connections=settings.concurrency),
            )
        except (httpx.InvalidURL, ValueError) as error:
            raise EndpointError(
                f"caption.url is {settings.url!r}, which is no address ({error}); write such as "
                "http://localhost:8000/v1."
            ) from None
        self._settings, self._first_wait = settings, first_wait
        self._turns = BoundedSemaphore(settings.concurrency)
        self._pace = Pace(settings.per_minute)
        self._down: EndpointError | None = None  # once it is, no thread tries on

    def check(self) -> None:
        """Ask which models there are. Raises EndpointError unless the one of the settings is."""
        import httpx

        where, model = f"caption.url is {self._settings.url}", self._settings.model
        try:
            reply = self._client.get("models", timeout=_CONNECT)
        except (httpx.RequestError, httpx.InvalidURL) as error:
            raise EndpointError(
                f"{where}, where nobody answers ({_words(error)}); start the server, or set "
                "caption.by to none."
            ) from None
        self._refuse_key(reply)
        names = _names(reply)
        if names and model not in names:
            near = difflib.get_close_matches(model, names, 1, 0.3)
            fix = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(names[:5])}."
            raise EndpointError(f"caption.model is {model!r}, which {where[15:]} has not; {fix}")

    def ask(self, prompt: str, frames: np.ndarray | None, judge: Callable[[str], T],
            memory: Memory) -> T:  # fmt: skip
        """What `judge` makes of the answer, which is asked for until it raises no AnswerError.

        frames: uint8 (T, H, W, 3) in RGB. An answer that was given before is not asked for again.
        Raises AnswerError when all answers were turned down, EndpointError when none came.
        """
        key = question(self._settings.model, prompt, frames)
        if known := memory.recall(key):
            try:
                return judge(known.answer)
            except AnswerError:
                pass  # turned down at the time, or held against other settings now
        messages: list[dict[str, Any]] = [{"role": "user", "content": _content(prompt, frames)}]
        for _ in range(self._settings.tries):
            answer = self._complete(messages)
            memory.keep(key, answer.text, answer.spent)
            try:
                return judge(answer.text)
            except AnswerError as error:
                why = error
                messages = [*messages[:1], {"role": "assistant", "content": answer.text or "-"}]
                messages.append({"role": "user", "content": f"Not so: {error}. Answer again."})
        raise AnswerError(f"{self._settings.tries} answers were no captions, the last one: {why}")

    def _complete(self, messages: Sequence[dict[str, Any]]) -> Answer:
        """One answer, after as many tries as it takes. Raises EndpointError."""
        from tenacity import Retrying, retry_if_exception_type, stop_after_attempt

        tries = Retrying(
            stop=stop_after_attempt(self._settings.tries),
            wait=self._wait,
            retry=retry_if_exception_type(_Again),
            reraise=True,
            sleep=STOPPED.wait,
        )
        body = {"model": self._settings.model, "messages": list(messages)}
        try:
            return tries(self._post, body)
        except _Again as error:
            self._down = EndpointError(
                f"caption.url is {self._settings.url}, which failed {self._settings.tries} times, "
                f"at last so: {error}. What was answered is kept; start again when it is well."
            )
            raise self._down from None
        except EndpointError as error:
            self._down = error
            raise

    def _wait(self, state: Any) -> float:
        from tenacity import wait_random_exponential

        error = state.outcome.exception()
        if error.wait is None:
            return wait_random_exponential(self._first_wait, max=60 * self._first_wait)(state)
        self._pace.hold(error.wait)  # for all threads
        return error.wait

    def _post(self, body: dict[str, Any]) -> Answer:
        import httpx

        self._pace.wait()
        try:
            with self._turns:
                go_on()
                if self._down:
                    raise self._down
                reply = self._client.post("chat/completions", json=body)
        except httpx.RequestError as error:
            raise _Again(_words(error)) from None
        if reply.status_code in _AGAIN or reply.status_code >= 500:
            wait = asked_to_wait(reply.headers.get("retry-after"))
            if wait is not None and wait > _LONGEST_WAIT:
                raise EndpointError(
                    f"caption.url is {self._settings.url}, which asks to wait {wait:.0f} s "
                    f"({_said(reply)}); start again then, what was answered is kept."
                )
            raise _Again(_said(reply), wait)
        self._refuse_key(reply)
        if reply.status_code in _THIS_ONE:
            raise AnswerError(f"the server refuses the question ({_said(reply)})")
        if reply.status_code >= 300:
            raise EndpointError(
                f"caption.url is {self._settings.url}, which refuses the call ({_said(reply)}); "
                "check caption.url and caption.model."
            )
        return _answer(reply)

    def _refuse_key(self, reply: httpx.Response) -> None:
        if reply.status_code in (401, 403):
            raise EndpointError(
                f"caption.url is {self._settings.url}, which takes no call without a right key "
                f"({_said(reply)}); put one into the environment variable "
                f"{self._settings.key_variable}."
            )


def _answer(reply: httpx.Response) -> Answer:
    """Raises _Again for what is no completion."""
    try:
        data = reply.json()
        choice = data["choices"][0]
        message = choice["message"]
        text = message.get("content") or message.get("refusal") or ""
        if isinstance(text, list):
            text = " ".join(part.get("text", "") for part in text)
        usage = data.get("usage") or {}
        spent = Spent(1, int(usage.get("prompt_tokens") or 0),
                      int(usage.get("completion_tokens") or 0))  # fmt: skip
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        raise _Again(f"no completion, but {shorten(reply.text, 60)!r}") from None
    return Answer(str(text), spent)


def _content(prompt: str, frames: np.ndarray | None) -> list[dict[str, Any]]:
    content: list[dict[str, Any]] = [{"type": "text", "text": prompt}]
    for frame in () if frames is None else frames:
        content.append({"type": "image_url", "image_url": {"url": _data_url(frame)}})
    return content


def _data_url(frame: np.ndarray) -> str:
    from PIL import Image

    held = io.BytesIO()
    Image.fromarray(frame).save(held, "JPEG", quality=_JPEG)
    return "data:image/jpeg;base64," + base64.b64encode(held.getvalue()).decode()


def _names(reply: httpx.Response) -> list[str]:
    """Models that a server names; none where it does not tell."""
    try:
        return [str(model["id"]) for model in reply.json()["data"]]
    except (ValueError, KeyError, TypeError):
        return []


def _said(reply: httpx.Response) -> str:
    """The status of a reply and its words, wherever servers put them."""
    try:
        data = reply.json()
        error = data.get("error", data.get("message", data)) if isinstance(data, dict) else data
        words = error.get("message", error) if isinstance(error, dict) else error
    except ValueError:
        words = reply.text
    return f"{reply.status_code} {reply.reason_phrase}: {shorten(str(words), 120)}".rstrip(": ")


def _words(error: Exception) -> str:
    return shorten(str(error), 120) or type(error).__name__
