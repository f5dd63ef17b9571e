"""The timeline on a schedule node, as a person sees and moves it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .server import wait_until

if TYPE_CHECKING:
    from playwright.sync_api import ElementHandle, Page

_NODE = "app.canvas.graph.nodes.filter((node) => node.type === 'MoGAShotSchedule')[which]"
_WIDGET = f"{_NODE}?.widgets.find((widget) => widget.name === name)"


class Timeline:
    """The timeline of a schedule in the graph that is shown, by its place among them.

    Nodes are made anew by undo, reload and the like: all is looked up when it is asked for.
    """

    def __init__(self, page: Page, which: int = 0) -> None:
        self._page, self._which = page, which

    def _evaluate(self, code: str, *values: Any) -> Any:
        return self._page.evaluate(
            f"([which, name, values]) => ({code})", [self._which, "script", [*values]]
        )

    @property
    def _element(self) -> ElementHandle | None:
        found = self._page.evaluate_handle(
            f"([which, name]) => {_WIDGET}?.element ?? null", [self._which, "timeline"]
        )
        return found.as_element()

    @property
    def exists(self) -> bool:
        return self._element is not None

    @property
    def script(self) -> str:
        return self._evaluate(f"{_WIDGET}.value")

    def write(self, script: str) -> None:
        """As another program would."""
        self._evaluate(f"Object.assign({_WIDGET}, {{ value: values[0] }}).value", script)

    def type(self, script: str) -> None:
        """As a person: into the box, in place of what it holds."""
        self.box.fill(script)

    @property
    def box(self) -> ElementHandle:
        """The script's text box that can be seen."""
        for box in self._page.query_selector_all("textarea"):
            if box.is_visible() and box.input_value() == self.script:
                return box
        raise LookupError("no text box with the script")

    @property
    def selected(self) -> str:
        """What is selected in the text box that has the focus."""
        return self._page.evaluate(
            "(box => box.value?.slice(box.selectionStart, box.selectionEnd))"
            "(document.activeElement)"
        )

    @property
    def marked(self) -> str:
        """The style that marks a line of the text box; none when it is empty."""
        return self.box.evaluate("box => box.style.backgroundImage")

    @property
    def state(self) -> str:
        return self._element.evaluate("element => element.dataset.state ?? ''")

    @property
    def words(self) -> str:
        return self._element.query_selector(".moga-words").inner_text()

    @property
    def shots(self) -> list[str]:
        """What is written on each shot, as `1 4.06 s A caption.`"""
        return [
            shot.evaluate(
                "shot => [...shot.querySelectorAll('span')].map(s => s.textContent).join(' ')"
            )
            for shot in self._element.query_selector_all(".moga-shot")
        ]

    @property
    def shares(self) -> list[float]:
        """How much of the bar each shot has, by what can be seen; of a hidden one nothing."""
        # in one go: between two calls the page may draw the shots anew
        widths = self._element.evaluate(
            "element => [...element.querySelectorAll('.moga-shot')]"
            ".map(shot => shot.getBoundingClientRect().width)"
        )
        return [width / sum(widths) for width in widths if width]

    @property
    def cuts(self) -> list[ElementHandle]:
        return self._element.query_selector_all(".moga-cut")

    @property
    def size(self) -> list[float]:
        return self._evaluate(f"[...{_NODE}.size]")

    def settle(self, *shots: str) -> None:
        """Wait until it is of a sound script; of these shots, where some are given."""
        wait_until(
            lambda: self.state == "live" and (not shots or self.shots == [*shots]),
            f"a timeline of {shots or 'a sound script'}",
        )

    def drag(self, cut: int, share: float, drop: bool = True) -> None:
        """Take a cut, from 1, and put it where the bar is so many parts of itself long."""
        start = self._middle(".moga-cut", cut - 1)
        left, _, width, _ = self._place(".moga-track")
        end = left + share * width, start[1]
        self._page.mouse.move(*start)
        self._page.mouse.down()
        self._page.mouse.move(*end, steps=8)
        if drop:
            self._page.mouse.up()

    def double_click(self, shot: int) -> None:
        self._page.mouse.dblclick(*self._middle(f".moga-shot:nth-child({shot})"))

    def click(self, shot: int) -> None:
        self._page.mouse.click(*self._middle(f".moga-shot:nth-child({shot})"))

    def wheel(self, by: float) -> None:
        self._page.mouse.move(*self._middle(".moga-track"))
        self._page.mouse.wheel(0, by)

    def add(self) -> None:
        self._page.mouse.click(*self._middle(".moga-plus"))

    def _middle(self, selector: str, which: int = 0) -> tuple[float, float]:
        left, top, width, height = self._place(selector, which)
        return left + width / 2, top + height / 2

    def _place(self, selector: str, which: int = 0) -> list[float]:
        """Left, top, width and height on the page, once it is drawn there and holds still."""
        place: list[float] | None = None

        def still() -> bool:
            nonlocal place
            before = place
            place = self._element.evaluate(
                "(element, [selector, which]) => {"
                "  const box = element.querySelectorAll(selector)[which]?.getBoundingClientRect();"
                "  return box?.width ? [box.x, box.y, box.width, box.height] : null;"
                "}",
                [selector, which],
            )
            return place is not None and place == before

        wait_until(still, f"{selector} on the page")
        return place
