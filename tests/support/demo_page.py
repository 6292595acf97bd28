"""What tests read from the demo's page, and what they do on it."""

import json
import re
from collections.abc import Callable
from typing import Any

from playwright.sync_api import Locator, Page, expect
from waiting import PATIENCE

DEMO = ["-m", "examples.demo"]
QUICK = {
    "SSE_HUB_TICK": "0.1",
    "SSE_HUB_RECONNECT": "0.3,0.5",
    "SSE_HUB_TOKEN": "0.01",
}


def visitor(new_page: Callable[..., Page]) -> Callable[..., Page]:
    """A function that opens the demo under a name, and waits until the page's stream is open."""

    def go(url: str, name: str, **options: Any) -> Page:
        page = new_page(**options)
        page.add_init_script(f"sessionStorage.setItem('name', {json.dumps(name)})")
        page.goto(url)
        expect(page.locator("#fact-stream")).to_have_text(re.compile(r"\w"))
        return page

    return go


def state(page: Page, wanted: str) -> None:
    expect(page.locator("#state")).to_have_attribute("data-state", wanted)


def log_line(page: Page, event: str) -> Locator:
    return page.locator(f"#log tr[data-event='{event}']")


def number(page: Page, name: str) -> int:
    return int(page.locator(f"#{name}").inner_text())


def ticks_go_on(page: Page, more: int = 3) -> None:
    """Wait for more ticks, and check that none is missing or came twice."""
    received = number(page, "ticks-received")
    for _ in range(more):
        expect(page.locator("#ticks-received")).not_to_have_text(str(received))
        received = number(page, "ticks-received")
    assert (number(page, "ticks-missing"), number(page, "ticks-twice")) == (0, 0)


def say(page: Page, text: str) -> None:
    page.fill("#chat-text", text)
    page.press("#chat-text", "Enter")
    expect(page.locator("#chat-text")).to_have_value("")


def write(page: Page, to: str, text: str) -> None:
    page.select_option("#whisper-to", label=to)
    page.fill("#whisper-text", text)
    page.press("#whisper-text", "Enter")
    expect(page.locator("#whisper-outcome")).to_have_text(f"Sent to {to}, and to nobody else.")


def answer_ended(state: str, *pages: Page) -> None:
    """Wait until these pages show that an answer has ended before its time, and offer to ask again."""
    for page in pages:
        expect(page.locator("#words")).to_have_attribute("data-state", state)
        expect(page.locator("#ask")).to_have_text("Ask again")


def ask_again(page: Page) -> None:
    """The same question, without typing it: a new answer begins."""
    page.click("#ask")
    expect(page.locator("#words")).to_have_attribute("data-state", "writing")
    expect(page.locator("#words")).to_contain_text("Server-")
    expect(page.locator("#ask")).to_have_text("Stop")


def keep_states(page: Page, selector: str) -> None:
    """Keep each state of an element from here on: one that is soon over may come and go unseen."""
    page.evaluate(
        """(selector) => {
          window.states = [];
          const keep = ([{ target }]) => states.push(target.dataset.state);
          const of = { attributeFilter: ["data-state"] };
          new MutationObserver(keep).observe(document.querySelector(selector), of);
        }""",
        selector,
    )


def keep_costs(page: Page) -> None:
    """Keep what the card of costs shows from here on of the streams that are open: memory, CPU and age."""
    page.evaluate(r"""() => {
      window.costs = { hub: [], starlette: [] };
      const card = document.getElementById("cost");
      const shown = (kind, name) => document.getElementById(`cost-${kind}-${name}`).textContent;
      const keep = () => {
        const kind = card.dataset.state;
        const values = ["memory", "cpu", "age"].map((name) => kind in costs && shown(kind, name));
        if (values.every((value) => /^\d/.test(value))) costs[kind].push(values);
      };
      new MutationObserver(keep).observe(card, { subtree: true, childList: true, attributes: true });
    }""")


def keep_toasts(page: Page) -> None:
    """Keep the text of every toast from here on: a toast is gone after a few seconds."""
    page.evaluate("""() => {
      window.toasted = [];
      const keep = (records) =>
        records.forEach(({ addedNodes }) => addedNodes.forEach((node) => toasted.push(node.textContent)));
      new MutationObserver(keep).observe(document.getElementById("toasts"), { childList: true });
    }""")


def toasted(page: Page, text: str) -> None:
    """Wait until a toast said this."""
    page.wait_for_function(
        "(text) => toasted.some((said) => said.includes(text))", arg=text, timeout=PATIENCE * 1000
    )


def notify(page: Page, text: str) -> None:
    page.fill("#notice-text", text)
    page.press("#notice-text", "Enter")
    expect(page.locator("#notice-text")).to_have_value("")
