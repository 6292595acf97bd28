"""README.md stays short, and its figures and those of docs/performance.md are the benchmark's."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pages import ROOT

README = ROOT / "README.md"
RESULTS = (ROOT / "bench" / "results" / "results.md").read_text()

# Columns of the pages' tables, by the results' name for them.
COLUMNS = {
    "CPU per delivered event": "CPU per event, µs",
    "memory per client": "RSS per client, KB",
    "last client, median": "last client p50, ms",
}


def cells(row: str) -> list[str]:
    return [cell.strip() for cell in row.strip().strip("|").split("|")]


def tables(text: str) -> list[tuple[list[str], list[list[str]]]]:
    """Each table of a page: its head, and its rows."""
    found = re.findall(r"^(\|.*\|)\n\|[-| ]+\|\n((?:\|.*\|\n)+)", text, re.MULTILINE)
    return [(cells(head), [cells(row) for row in rows.splitlines()]) for head, rows in found]


def measured(clients: str) -> dict[str, dict[str, str]]:
    """What was measured with so many clients at a steady pace: by server and column, the median."""
    section = RESULTS.partition("\n## Steady fan-out\n")[2].partition("\n## ")[0]
    (head, rows), *_ = tables(section.partition(f"fanout, {clients} clients:\n")[2])
    return {
        row[0]: {name: value.split(" ")[0] for name, value in zip(head, row, strict=True)} for row in rows
    }


@pytest.mark.parametrize("name", ["README.md", "ARCHITECTURE.md", "docs/performance.md"])
def test_every_figure_is_in_the_results(name: str) -> None:
    known = {number.replace(",", "") for number in re.findall(r"[\d,]*\d\.\d+", RESULTS)}
    text = (ROOT / name).read_text()
    for number in re.findall(r"([\d,]*\d\.\d+) (?:µs|KB|ms)", text):
        digits = len(number.partition(".")[2])
        rounded = {f"{float(value):.{digits}f}" for value in known}
        assert number.replace(",", "") in rounded, f"{name}: {number}"


def test_readme_is_short_and_names_the_commands() -> None:
    text = README.read_text()
    assert len(text.splitlines()) <= 250
    assert "`make demo` starts a demo" in text
    assert "`make test` runs every test" in text


def test_where_a_hub_without_a_broker_will_do_is_three_lines() -> None:
    section = README.read_text().partition("\n## Several workers\n")[2].partition("\n## ")[0]
    hubs = re.findall(r"^- `(Hub\([^`]*\))`", section, re.MULTILINE)
    assert hubs == ["Hub()", 'Hub("file:events")', 'Hub("redis://localhost:6379")']
    assert section.index("file:events") < section.index("redis")


def test_the_first_figures_are_those_of_the_table() -> None:
    (first,) = re.findall(r"- \*\*Fast\.\*\* (.*?)Under uvicorn", README.read_text(), re.DOTALL)
    results = measured("2,000")
    rows = [results[name] for name in ("sse-hub handed off", "sse-starlette")]
    figures = [float(row[COLUMNS[name]]) for row in rows for name in list(COLUMNS)[:2]]
    assert re.findall(r"([\d.,]+) (?:µs|KB)", first) == [f"{figure:.1f}" for figure in figures]


@pytest.mark.parametrize("page", [README, ROOT / "docs" / "performance.md"], ids=lambda page: page.name)
def test_the_figures_are_the_benchmarks(page: Path) -> None:
    text = page.read_text()
    compared = 0
    for head, rows in tables(text):
        if "CPU per delivered event" not in head:
            continue
        # A table says for how many clients it is, in its first cell or just before.
        before = text[: text.index("| " + " | ".join(head))]
        (*_, clients) = re.findall(r"([\d,]+) clients", before + head[0])
        results = measured(clients)
        for row in rows:
            for name, said in zip(head[1:], row[1:], strict=True):
                number, unit = said.split(" ")
                is_number = results[row[0]][COLUMNS[name]]
                assert COLUMNS[name].endswith(unit)
                digits = len(number.partition(".")[2])
                assert number == f"{float(is_number.replace(',', '')):,.{digits}f}", (row[0], name)
                compared += 1
    assert compared >= 20
