"""The report and its plots, from the JSON alone.

python -m bench.render             # bench/results/*.json -> results.md, fanout.svg, growth.svg
python -m bench.render --quick     # what the quick suite left -> quick.md, quick-fanout.svg
"""

import argparse
import json
import sys
from pathlib import Path

from bench import encode, imports, others, report, toolchains
from bench.parts import FULL, QUICK

RESULTS = toolchains.ROOT / "bench" / "results"

LEGEND = """Median of the valid runs, lowest and highest in parentheses. A run is left out if an event was
lost, doubled or out of order, a stream failed, or the load generator was itself saturated. What is compared
and how to read it: [bench/README.md](../README.md)."""


def section(document: report.Document) -> str:
    """One part's tables."""
    simple = {"encode": encode.table, "imports": imports.table, "others": others.table}.get(
        document["workload"]
    )
    if simple is None:
        return report.section(document)
    found = report.provenance(document["machine"], document["versions"])
    return f"{document['options']['rounds']} rounds.\n\n{simple(document)}\n\n- {found}"


def _plots(documents: dict[str, report.Document], directory: Path, prefix: str) -> dict[str, str]:
    """Draw what there is data for; returns the file's name by part."""
    drawn: dict[str, str] = {}
    try:
        from bench import plots
    except ImportError as error:
        print(f"no plots: {error} (the dependency group `bench` has it)", file=sys.stderr)
        return drawn
    for name, draw in (("fanout", plots.bars), ("growth", plots.curves)):
        document = documents.get(prefix + name)
        if document is not None and draw(document, directory / f"{prefix}{name}.svg"):
            drawn[prefix + name] = f"{prefix}{name}.svg"
    return drawn


def render(directory: Path, *, quick: bool = False) -> Path:
    """Write the report of everything that is in the directory; returns its path."""
    parts = QUICK if quick else FULL
    documents: dict[str, report.Document] = {}
    for part in parts:
        path = directory / f"{part.name}.json"
        if path.exists():
            documents[part.name] = json.loads(path.read_text())
    drawn = _plots(documents, directory, "quick-" if quick else "")
    sections = ["# Results of the benchmark", LEGEND]
    for name, document in documents.items():
        minutes = document["seconds"] / 60
        unfinished = "" if document["complete"] else " **Not all rounds were run.**"
        sections.append(f"## {document['title']}")
        sections.append(f"{document['began'][:10]}, {minutes:.1f} minutes.{unfinished}")
        if name in drawn:
            sections.append(f"![{document['title']}]({drawn[name]})")
        sections.append(section(document))
    target = directory / ("quick.md" if quick else "results.md")
    target.write_text("\n\n".join(sections) + "\n")
    return target


def main() -> None:
    """Render and name what was written."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.render", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--quick", action="store_true", help="what the quick suite left")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where the JSON is [bench/results]")
    args = parser.parse_args()
    print(f"written: {render(args.out, quick=args.quick)}", file=sys.stderr)


if __name__ == "__main__":
    main()
