"""ComfyUI's page as a person works with it: open a workflow, set values, Run, look at the nodes."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .server import NotReached
from .timeline import Timeline

if TYPE_CHECKING:  # the tests are collected where it is missing, to be skipped
    from playwright.sync_api import Page

SCRIPT = Path(__file__).with_name("page.js")
SCHEDULE, DECODE = "MoGAShotSchedule", "MoGADecodeToVideo"
APPLY, APPLY_SHOTS = "MoGAApply", "MoGAApplyShots"
SECONDS = 60


class ComfyPage:
    """One page in a browser. Nodes are called by their type, of which the graph has one.

    What does not come about raises NotReached, so that assertions stay with the tests.
    """

    def __init__(self, page: Page, url: str) -> None:
        self._page, self._url = page, url
        self.console_errors: list[str] = []
        page.set_default_timeout(SECONDS * 1000)
        page.add_init_script(path=SCRIPT)
        page.on("console", lambda told: told.type == "error" and self._note(told.text))
        page.on("pageerror", lambda error: self._note(str(error)))

    def _note(self, words: str) -> None:
        self.console_errors.append(words)

    def open(self) -> None:
        self._page.goto(self._url)
        self._arrive()

    def reload(self) -> None:
        """As F5: the graph comes from what the browser kept."""
        self._page.reload()
        self._arrive()

    def _arrive(self) -> None:
        self._wait("tests.ready()", "the page to be ready")
        self._call("listen")
        self.console_errors.clear()  # of the frontend's own start

    def open_workflow(self, workflow: Path, becomes: Mapping[str, str] | None = None) -> None:
        """As File > Open: the names of its nodes are known when it is there.

        becomes: types of nodes that the page replaces, and by which.
        """
        types = (n["type"] for n in json.loads(workflow.read_text("utf-8"))["nodes"])
        wanted = sorted((becomes or {}).get(kind, kind) for kind in types)
        self._page.locator("#comfy-file-input").set_input_files(workflow)
        self._wait(
            "wanted => JSON.stringify(app.graph.nodes.map(n => n.type).sort()) === wanted",
            f"the graph of {workflow.name}",
            json.dumps(wanted, separators=(",", ":")),
        )

    def save(self, name: str) -> None:
        """As Ctrl+S, with a name typed into the dialog."""
        with self._page.expect_response("**/userdata/workflows*"):
            self._page.keyboard.press("Control+s")
            field = self._page.get_by_role("dialog").get_by_role("textbox")
            field.fill(name)
            field.press("Enter")

    def set_widget(self, kind: str, name: str, value: Any) -> None:
        self._call("set", kind, name, value)

    def widget(self, kind: str, name: str) -> Any:
        return self._page.evaluate("([k, n]) => tests.widget(k, n).value", [kind, name])

    def widgets(self) -> dict[str, dict[str, Any]]:
        """The values of all widgets: {type: {widget: value}}."""
        return self._call("values")

    def sources(self, kind: str) -> dict[str, str]:
        """What its inputs are connected to: {input: type of the node}."""
        return self._call("sources", kind)

    def disconnect(self, kind: str, name: str) -> None:
        self._call("disconnect", kind, name)

    def unknown_nodes(self) -> list[str]:
        """Types that the page has no node for."""
        return self._call("unknown")

    def run(self, ends: str = "execution_success") -> None:
        """Press Run and wait until the job ended so; ``refused``: it was not taken."""
        with self.running(ends):
            pass

    @contextlib.contextmanager
    def running(self, ends: str = "execution_success") -> Iterator[None]:
        """Press Run, do what is within while it goes on, and wait until the job ended so."""
        job = self._press_run()
        yield
        if (end := self._end(job)) != ends:
            raise NotReached(f"the run ended as {end}, not {ends}: {self.errors()}")

    def try_run(self) -> str:
        """Press Run, wait, and tell how the job ended."""
        return self._end(self._press_run())

    def _press_run(self) -> str | None:
        """The job's id; None when it was refused."""
        with self._page.expect_response("**/prompt") as sent:
            self._page.get_by_test_id("queue-button").click()
        self._page.mouse.move(0, 0)  # off the button and its tooltip
        return sent.value.json()["prompt_id"] if sent.value.ok else None

    def _end(self, job: str | None) -> str:
        end = job and self._wait("job => tests.end(job)", "the end of the job", job)
        if end in (None, "execution_error"):
            overlay = self._page.get_by_test_id("error-overlay")
            overlay.or_(self._page.get_by_role("dialog")).first.wait_for()
        return end or "refused"

    def wait_for_progress(self, kind: str) -> None:
        """Until a node that is being run shows how far it is."""
        self._wait("kind => tests.progress(kind)", f"progress of {kind}", kind)

    def interrupt(self) -> None:
        self._page.evaluate("app.extensionManager.command.execute('Comfy.Interrupt')")

    def text(self, kind: str) -> str:
        """The line that the server wrote on a node; empty when there is none to be seen."""
        return self._call("text", kind)

    def pictures(self, kind: str) -> list[bytes]:
        """The files of the pictures that can be seen on a node now."""
        return self._files(kind, "img")

    def videos(self, kind: str) -> list[bytes]:
        """The files of the videos that can be seen on a node now."""
        return self._files(kind, "video")

    def _files(self, kind: str, tag: str) -> list[bytes]:
        found = [self._page.request.get(address) for address in self._call("shown", kind, tag)]
        return [file.body() for file in found if file.ok]

    def errors(self) -> str:
        """All that the page says is wrong, with details unfolded; empty when it says nothing."""
        from playwright.sync_api import TimeoutError

        details = self._page.get_by_test_id("error-overlay-see-errors")
        panel = self._page.get_by_test_id("properties-panel")
        if details.is_visible():
            try:
                details.click(timeout=20_000)
            except TimeoutError:
                if details.is_visible():
                    raise
                # else the page has found by itself that all is well
            else:
                panel.wait_for()
        folded = panel.locator("[aria-controls][aria-expanded=false]")
        for _ in range(folded.count()):
            folded.first.click()
        places = [panel, self._page.get_by_role("dialog")]
        return "\n".join(p.first.inner_text() for p in places if p.first.is_visible())

    def marked_nodes(self) -> list[str]:
        """Types of the nodes that are framed in red."""
        return self._call("marked")

    def do(self, name: str, *values: Any) -> Any:
        """Call a function of page.js."""
        return self._call(name, *values)

    def command(self, name: str) -> None:
        """One of the page's commands, by its id."""
        self._page.evaluate(f"app.extensionManager.command.execute('{name}')")

    def press(self, keys: str) -> None:
        self._page.keyboard.press(keys)

    def mouse_up(self) -> None:
        self._page.mouse.up()

    @contextlib.contextmanager
    def without(self, address: str) -> Iterator[None]:
        """As if the server were not there, for an address such as `**/moga/*`."""
        self._page.route(address, lambda route: route.abort())
        yield
        self._page.unroute(address)

    @contextlib.contextmanager
    def held(self, address: str) -> Iterator[None]:
        """As if the server took its time for an address, to the end of the block."""
        routes = []
        self._page.route(address, lambda route: routes.append(route))
        yield
        for route in routes:
            route.continue_()
        self._page.unroute(address)

    def graph(self) -> dict[str, Any]:
        """What Save would write."""
        return self._page.evaluate("app.graph.serialize()")

    def timeline(self, which: int = 0) -> Timeline:
        """That of a schedule, by its place among those in the graph that is shown."""
        return Timeline(self._page, which)

    def screenshot(self, path: Path) -> None:
        self._page.screenshot(path=path)

    def _call(self, name: str, *values: Any) -> Any:
        return self._page.evaluate("([name, values]) => tests[name](...values)", [name, [*values]])

    def _wait(self, condition: str, what: str, argument: Any = None) -> Any:
        from playwright.sync_api import TimeoutError

        try:
            return self._page.wait_for_function(condition, arg=argument).json_value()
        except TimeoutError:
            raise NotReached(f"waited {SECONDS} seconds for {what}") from None
