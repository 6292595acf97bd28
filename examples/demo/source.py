"""The lines behind a card, for its code button: the source itself, so it cannot differ from what runs."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fastapi import APIRouter, HTTPException
from fastapi.responses import PlainTextResponse


def routes(cards: Mapping[str, Sequence[Callable[..., Any]]]) -> APIRouter:
    """An endpoint that serves the source of each card's functions."""
    texts = {card: "\n\n".join(text_of(function) for function in made) for card, made in cards.items()}
    router = APIRouter()

    @router.get("/api/code/{card}")
    async def code(card: str) -> PlainTextResponse:
        """The lines behind a card."""
        if card not in texts:
            raise HTTPException(404, "No such card.")
        return PlainTextResponse(texts[card])

    return router


def text_of(function: Callable[..., Any]) -> str:
    """A function's lines, without the indentation of what it stands in."""
    return inspect.cleandoc("\n" + inspect.getsource(function)).rstrip()
