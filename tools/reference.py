"""Render docs/reference.md from the docstrings and signatures of the package's public names.

    python tools/reference.py            write docs/reference.md
    python tools/reference.py --check    fail if it is out of date

Docstrings have Google's sections (`Args:`, `Raises:`) and reStructuredText's literal blocks.
"""

from __future__ import annotations

import ast
import re
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sources import (
    FUNCTIONS,
    PACKAGE,
    Definition,
    Found,
    Module,
    bases,
    definitions,
    members,
    module,
    resolve,
)

PAGE = Path(__file__).resolve().parent.parent / "docs" / "reference.md"

# Modules and names in the order in which a reader wants them; others follow in alphabetical order.
MODULES = ["", "hub", "exceptions", "event", "responses", "sse", "brokers", "uvicorn", "testing"]
NAMES = [
    "Hub",
    "HubResponse",
    "Subscription",
    "Publication",
    "Presence",
    "RedisBroker",
    "EventSourceResponse",
]
NAMES += ["ServerSentEvent", "JSONServerSentEvent", "HubError"]
WIDTH = 110

INTRO = """\
# Reference

Every public name. `make reference` renders this page from the docstrings: change those, not this page.
Times are seconds unless the name says otherwise; sizes are bytes.
"""

# --- signatures


@dataclass(frozen=True)
class Parameter:
    """One parameter, `*`, `/` or `**options`, as it is written."""

    name: str
    kind: str = ""
    default: str = ""

    def __str__(self) -> str:
        written = f"{self.name}: {self.kind}" if self.kind else self.name
        return f"{written} = {self.default}" if self.default else written


def source(node: ast.expr | None) -> str:
    """An expression's source, strings in double quotes."""
    if node is None:
        return ""
    return re.sub(r"'([^'\"\\]*)'", r'"\1"', ast.unparse(node))


def parameters(found: Found, skip: int) -> list[Parameter]:
    """The parameters of a function but for the first `skip`, and private ones."""
    node = found.node
    assert isinstance(node, FUNCTIONS)
    args, given = node.args, []
    positional = [*args.posonlyargs, *args.args]
    defaults = [None] * (len(positional) - len(args.defaults)) + list(args.defaults)
    for index, (arg, default) in enumerate(zip(positional, defaults, strict=True)):
        if index >= skip:
            given.append(Parameter(arg.arg, source(arg.annotation), readable(source(default), found.module)))
        if args.posonlyargs and index == len(args.posonlyargs) - 1 and index >= skip:
            given.append(Parameter("/"))
    if args.vararg:
        given.append(Parameter(f"*{args.vararg.arg}", source(args.vararg.annotation)))
    elif args.kwonlyargs:
        given.append(Parameter("*"))
    for arg, default in zip(args.kwonlyargs, args.kw_defaults, strict=True):
        given.append(Parameter(arg.arg, source(arg.annotation), readable(source(default), found.module)))
    if args.kwarg:
        given.append(Parameter(f"**{args.kwarg.arg}", source(args.kwarg.annotation)))
    return [parameter for parameter in given if not parameter.name.startswith("_")]


_expanded: dict[str, Definition] = {}
"""Which call has the table of a TypedDict's options: the first one; others refer to it."""


def options_of(found: Found) -> Iterator[tuple[Parameter, str]]:
    """The fields of a TypedDict that `**options: Unpack[...]` names, with the docstring below each."""
    node = found.node
    kwarg = node.args.kwarg if isinstance(node, FUNCTIONS) else None
    annotation = kwarg.annotation if kwarg else None
    if not isinstance(annotation, ast.Subscript) or ast.unparse(annotation.value).split(".")[-1] != "Unpack":
        return
    name = ast.unparse(annotation.slice)
    typed = resolve(name, found.module)
    if typed is None or not is_typed_dict(typed) or _expanded.setdefault(name, node) is not node:
        return
    for owner in reversed(list(bases(typed))):
        assert isinstance(owner.node, ast.ClassDef)
        nodes, docs = definitions(owner.node.body)
        for key, value in nodes.items():
            if isinstance(value, ast.AnnAssign):
                default = re.search(r"default ([^\s.,;:]+)", docs[key])
                yield Parameter(key, source(value.annotation), default[1] if default else ""), docs[key]


def is_typed_dict(found: Found) -> bool:
    """Whether a class is one that only names options."""
    owners = [owner.node for owner in bases(found)] if isinstance(found.node, ast.ClassDef) else []
    parents = [base for owner in owners if isinstance(owner, ast.ClassDef) for base in owner.bases]
    return any(ast.unparse(parent).split(".")[-1] == "TypedDict" for parent in parents)


def readable(default: str, into: Module) -> str:
    """A default as a user would write it: `8 * _MIB` is 8 MiB, a constant its value."""
    if size := re.fullmatch(r"(\d+) \* _MIB", default):
        return f"{size[1]} * MiB"
    if re.fullmatch(r"[A-Z_]+", default):
        node = into.definitions.get(default)
        if node is None:
            for outer in into.tree.body:
                if isinstance(outer, ast.ClassDef):
                    node = node or definitions(outer.body)[0].get(default)
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            return source(node.value)
    return default


def signature(name: str, found: Found, skip: int) -> str:
    """A call as one line, or one parameter a line where that is too long."""
    assert isinstance(found.node, FUNCTIONS)
    written = [str(parameter) for parameter in parameters(found, skip)]
    if options := [str(option) for option, _ in options_of(found)]:
        written[-1:] = options if "*" in written else ["*", *options]
    prefix = "async " if isinstance(found.node, ast.AsyncFunctionDef) else ""
    returns = source(found.node.returns) if name[0].islower() else ""
    arrow = f" -> {returns}" if returns and not returns.startswith("_") else ""
    line = f"{prefix}{name}({', '.join(written)}){arrow}"
    if len(line) > WIDTH:
        line = f"{prefix}{name}(\n" + "".join(f"    {item},\n" for item in written) + f"){arrow}"
    return f"```py\n{line}\n```"


# --- docstrings


def inline(text: str) -> str:
    """reStructuredText's inline marks as Markdown's."""
    text = re.sub(r":(?:meth|class|func|data|attr|mod):`~?([^`]+)`", r"`\1`", text)
    return text.replace("``", "`")


def cell(text: str) -> str:
    """Text as a table's cell."""
    joined = " ".join(text.split())
    return inline(joined).replace("|", "\\|")


def sections(doc: str) -> Iterator[tuple[str, str]]:
    """A docstring's parts: ("", prose), ("Args", …), ("Raises", …)."""
    parts = re.split(r"^(Args|Raises|Returns|Yields):\n", doc, flags=re.MULTILINE)
    yield "", parts[0]
    for name, body in zip(parts[1::2], parts[2::2], strict=True):
        block = re.match(r"(?:(?: +[^\n]*)?\n?)*", body)
        end = block.end() if block else 0
        yield name, textwrap.dedent(body[:end])
        if body[end:].strip():
            yield "", body[end:]


def items(body: str) -> Iterator[tuple[str, str]]:
    """The entries `name: text` of a section, their lines joined."""
    for entry in re.split(r"\n(?=\S)", body.strip()):
        name, _, text = entry.partition(":")
        yield name.strip(), text


def prose(text: str) -> str:
    """Paragraphs; a literal block becomes a fenced one."""
    out: list[str] = []
    blocks = re.split(r"\n\s*\n", text.strip("\n"))
    literal = False
    for block in blocks:
        if literal and block.startswith("    "):
            code = textwrap.dedent(block)
            if out and out[-1].endswith("\n```") and out[-1].startswith("```py"):
                out[-1] = out[-1][:-4] + f"\n\n{code}\n```"
            else:
                out.append(f"```{'text' if '├' in code else 'py'}\n{code}\n```")
            continue
        literal = block.rstrip().endswith("::")
        block = re.sub(r"(^|\n)::$", "", block.rstrip())
        block = re.sub(r"::$", ":", block)
        if block.strip():
            out.append(inline(textwrap.dedent(block)))
    return "\n\n".join(out)


def documented(doc: str, found: Found, skip: int) -> str:
    """A docstring with its arguments as a table beside their defaults."""
    out: list[str] = []
    is_function = isinstance(found.node, FUNCTIONS)
    defaults = {given.name: given.default for given in parameters(found, skip)} if is_function else {}
    rows: list[tuple[str, str, str]] = []
    for name, body in sections(doc):
        if name == "Args":
            for entry, text in items(body):
                for single in entry.split(", "):
                    rows.append((single, defaults.get(single, ""), text))
        elif name == "Raises":
            out.append("Raises:\n\n" + "\n".join(f"- `{kind}`: {cell(text)}" for kind, text in items(body)))
        elif name:
            out.append(f"{name}: {cell(body)}")
        elif body.strip():
            out.append(prose(body))
    rows += [(option.name, option.default, text) for option, text in options_of(found)]
    if rows:
        table = "| argument | default | meaning |\n|---|---|---|\n" + "\n".join(
            f"| `{single}` | {f'`{default}`' if default else ''} | {cell(text)} |"
            for single, default, text in rows
        )
        out.insert(1 if out else 0, table)
    return "\n\n".join(part for part in out if part)


# --- pages


def render_class(name: str, found: Found) -> Iterator[str]:
    if is_typed_dict(found):
        yield f"### `{name}`"
        yield documented(found.doc, found, 0)
        return
    every = members(found)
    constructor = every.pop("__init__", None) or every.get("__new__")
    every.pop("__new__", None)
    assert isinstance(found.node, ast.ClassDef)
    parents = [ast.unparse(base) for base in found.node.bases]
    yield f"### `{name}`"
    is_error = any(parent.endswith(("Error", "Exception")) or parent == "InvalidEvent" for parent in parents)
    if constructor is not None and not is_error and isinstance(constructor.node, FUNCTIONS):
        if parameters(constructor, 1):
            yield signature(name, constructor, 1)
        yield documented(found.doc, constructor, 1)
    else:
        yield documented(found.doc, found, 0)
    if rows := [row for row in (attribute(key, value) for key, value in every.items()) if row]:
        yield "| attribute | type or value | meaning |\n|---|---|---|\n" + "\n".join(rows)
    for key, value in every.items():
        if isinstance(value.node, FUNCTIONS) and not is_property(value.node):
            static = any(ast.unparse(mark) == "staticmethod" for mark in value.node.decorator_list)
            yield f"#### `{name}.{key}`"
            yield signature(key, value, 0 if static else 1)
            yield documented(value.doc, value, 1)


def is_property(node: Definition) -> bool:
    return isinstance(node, FUNCTIONS) and any(
        ast.unparse(mark).endswith(("property", ".setter")) for mark in node.decorator_list
    )


def attribute(name: str, found: Found) -> str | None:
    """A property, or a documented field, as a row."""
    node = found.node
    if is_property(node) and isinstance(node, FUNCTIONS):
        kind = source(node.returns)
    elif isinstance(node, ast.AnnAssign) and found.doc:
        kind = source(node.annotation)
    elif isinstance(node, ast.Assign) and found.doc:
        kind = source(node.value)
    else:
        return None
    return f"| `{name}` | `{kind.replace('|', chr(92) + '|')}` | {cell(found.doc)} |"


def render_name(name: str, found: Found) -> Iterator[str]:
    node = found.node
    if isinstance(node, ast.ClassDef):
        yield from render_class(name, found)
    elif isinstance(node, FUNCTIONS):
        yield f"### `{name}`"
        yield signature(name, found, 0)
        yield documented(found.doc, found, 0)
    elif found.doc:
        value = node.value
        yield f"### `{name}`"
        if value is not None and not isinstance(value, ast.Call):
            yield f"`{source(value)}`"
        yield prose(found.doc)


def public_modules() -> list[str]:
    files = [path.stem for path in PACKAGE.glob("*.py") if not path.stem.startswith("_")]
    packages = [path.parent.name for path in PACKAGE.glob("[!_]*/__init__.py")]
    return [name for name in MODULES if name == "" or name in files + packages] + sorted(
        set(files + packages) - set(MODULES)
    )


def render() -> str:
    """The page."""
    _expanded.clear()
    out, rendered, contents = [], set(), []
    for name in public_modules():
        current = module(name)
        title = f"sse_hub.{name}" if name else "sse_hub"
        part: list[str] = []
        entries = sorted(current.public, key=lambda key: (NAMES.index(key) if key in NAMES else 99, key))
        errors = module("exceptions").public if name != "exceptions" else []
        shown_names = []
        for entry in entries:
            found = resolve(entry, current)
            if found is None or id(found.node) in rendered or entry in errors:
                continue
            if text := list(render_name(entry, found)):
                rendered.add(id(found.node))
                part += text
                shown_names.append(entry)
        if part:
            out.append(f"## `{title}`")
            if name:
                out.append(
                    documented(
                        ast.get_docstring(current.tree) or "",
                        Found(current, ast.Assign([], ast.Constant("")), ""),
                        0,
                    )
                )
            out += part
            links = ", ".join(f"[`{entry}`](#{entry.lower()})" for entry in shown_names)
            contents.append(f"| `{title}` | {links} |")
    table = "| module | names |\n|---|---|\n" + "\n".join(contents)
    return "\n\n".join(part for part in [INTRO.strip(), table, *out] if part) + "\n"


def undocumented() -> list[str]:
    """Public names, and public members of public classes, without a docstring."""
    missing = []
    for name in public_modules():
        for entry in module(name).public:
            found = resolve(entry, module(name))
            if found is None or not isinstance(
                found.node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
            ):
                continue
            if not found.doc:
                missing.append(entry)
            if isinstance(found.node, ast.ClassDef):
                missing += [
                    f"{entry}.{key}"
                    for key, value in members(found).items()
                    if isinstance(value.node, FUNCTIONS) and not key.startswith("_") and not value.doc
                ]
    return sorted(set(missing))


def main() -> int:
    page = render()
    if "--check" in sys.argv[1:]:
        if PAGE.read_text(encoding="utf-8") != page:
            print("docs/reference.md is out of date: run `make reference`", file=sys.stderr)
            return 1
        return 0
    PAGE.write_text(page, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
