"""The "assistant": its words are canned, their streaming is real."""

import asyncio
import random
import re
from collections.abc import AsyncIterator

from sse_hub import JSONServerSentEvent, ServerSentEvent

ANSWERS = {
    ("resume", "lost", "reconnect", "gap", "cut"): (
        "Every event carries an id. When the connection drops, the browser itself reconnects after the time "
        "the server named in retry:, and sends the last id it saw in the Last-Event-ID header.\n\n"
        "The hub looks that id up in its history, replays what came after it, in order, and goes on live. "
        "If the history no longer reaches back that far, it says so with a stream-reset event: "
        "never a silent gap."
    ),
    ("websocket", "socket", "polling"): (
        "Choose Server-Sent Events when the server does the talking: prices, notices, progress, tokens.\n\n"
        "They are plain HTTP, so cookies, authentication, proxies and compression work as they always did, "
        "and the browser reconnects by itself. What the page has to say goes back in ordinary POST requests. "
        "Choose WebSockets when both sides send many small messages, as in a game."
    ),
    (): (
        "Server-Sent Events are one long HTTP response to which the server keeps adding lines. "
        "In the browser, new EventSource(url) is the whole client.\n\n"
        "That is enough for live prices, notifications, a chat room, a progress bar, or an answer that "
        "appears word by word, like this one. This answer is an ordinary async generator that the hub "
        "runs: reload the page, or open another, and it goes on; every token carries an id, so even a cut "
        "in the middle of a sentence can be mended."
    ),
}


def tokens_for(question: str) -> list[str]:
    """The answer to `question` in pieces about as long as a language model's."""
    words = set(re.findall(r"[a-z]+", question.lower()))
    answer = next(
        text for keys, text in ANSWERS.items() if not keys or any(word.startswith(keys) for word in words)
    )
    return re.findall(r"\s*\S{1,7}|\s+", answer)


async def write_answer(question: str, pace: float) -> AsyncIterator[ServerSentEvent]:
    """Yield the tokens, one about every `pace` seconds."""
    for token in tokens_for(question):
        await asyncio.sleep(random.uniform(0.4, 1.6) * pace)
        yield JSONServerSentEvent(token, event="token")
