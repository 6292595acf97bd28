"""A small make-believe stock exchange: prices that wander."""

import random
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from pydantic import BaseModel

from .models import now


class Quote(BaseModel):
    """One share's price and its change since the exchange opened (0.01 is one per cent)."""

    symbol: str
    name: str
    price: float
    change: float


class Tick(BaseModel):
    """All prices at one moment. `number` counts up by one, so a page can prove that none is missing."""

    number: int
    at: datetime
    quotes: list[Quote]


@dataclass(slots=True)
class Share:
    """A price on a random walk that is drawn back to where it began, so that it stays in sight."""

    symbol: str
    name: str
    opened: float
    volatility: float
    price: float = field(init=False)
    drift: float = field(init=False, default=0.0)

    def __post_init__(self) -> None:
        self.price = self.opened

    def step(self) -> Quote:
        """Move once."""
        self.drift = 0.8 * self.drift + random.gauss(0.0, self.volatility * 0.12)
        pull = 0.015 * (self.opened - self.price) / self.opened
        self.price *= 1 + self.drift + pull + random.gauss(0.0, self.volatility * 0.55)
        return Quote(
            symbol=self.symbol,
            name=self.name,
            price=round(self.price, 2),
            change=round(self.price / self.opened - 1, 5),
        )


class Market:
    """The exchange: call `tick` for the next prices."""

    def __init__(self, last: Tick | None = None) -> None:
        """Open, or go on from `last`."""
        self.number = 0
        self.shares = [
            Share("FERN", "Fern & Moss", 84.20, 0.0022),
            Share("HELIO", "Helio Power", 212.75, 0.0016),
            Share("KITE", "Kite Logistics", 37.40, 0.0030),
            Share("TIDE", "Tidewater Labs", 128.10, 0.0019),
        ]
        if last is not None:
            self.number = last.number
            for share, quote in zip(self.shares, last.quotes, strict=True):
                share.price = quote.price

    def tick(self, *, ago: float = 0.0) -> Tick:
        """The next prices, as of `ago` seconds before now."""
        self.number += 1
        at = now() - timedelta(seconds=ago)
        return Tick(number=self.number, at=at, quotes=[share.step() for share in self.shares])
