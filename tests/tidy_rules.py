"""The checkers behind ``test_tidy.py``: each takes text and gives back what is wrong with it.

They know no paths of their own except the rooms that may hold ``unsafe``; ``test_tidy.py`` walks
the tree, and also feeds each checker a bad sample, so that none can fall silent.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from fnmatch import fnmatch

FILE_LINES = 500
FILE_LINES_WITH_REASON = 700
FUNCTION_LINES = 70
LINE_COLUMNS = 100

# Split, so that this file does not contain what it forbids.
BANNED_WORDS = ("TO" + "DO", "FIX" + "ME", "X" + "XX", "HA" + "CK")

# Rust files that may contain `unsafe`, as patterns relative to the repository.
UNSAFE_ROOMS = (
    "crates/aioxide-core/src/backend/sys.rs",
    "crates/aioxide-core/src/backend/sys/*.rs",
    "crates/aioxide-core/src/backend/epoll.rs",
    "crates/aioxide-core/src/buf.rs",
    "crates/aioxide-py/src/ffi/*.rs",
    # Slots of the hot types, written by hand, and the types themselves.
    "crates/aioxide-py/src/handle.rs",
    "crates/aioxide-py/src/handle/*.rs",
    "crates/aioxide-py/src/module.rs",
    "crates/aioxide-py/src/state.rs",
    "crates/aioxide-py/src/future.rs",
    "crates/aioxide-py/src/future_iter.rs",
    "crates/aioxide-py/src/future/*.rs",
    "crates/aioxide-py/src/task.rs",
    "crates/aioxide-py/src/task/*.rs",
    "crates/aioxide-py/src/sync/*.rs",
    "crates/aioxide-py/src/event_loop/*.rs",
    "crates/aioxide-py/src/streams/life.rs",
    "crates/aioxide-py/src/streams/*_class.rs",
    "crates/aioxide-py/src/transport/*.rs",
)

# What the binding crate may be built on (docs/design/dependencies.md says why).
BINDING_DEPENDENCIES = {"aioxide-core", "libc", "pyo3-ffi", "pyo3-build-config"}
CORE_DEPENDENCIES = {"libc"}

_LITERAL = re.compile(
    r"""
      (?P<line>//[^\n]*)
    | (?P<block>/\*)
    | (?P<raw>\b(?:b|c)?r(?P<hash>\#*)".*?"(?P=hash))
    | (?P<text>(?:\b[bc])?"(?:\\.|[^"\\])*")
    | (?P<char>\bb?'(?:\\(?:u\{[^}]*\}|x..|.)|[^'\\])'|'(?:\\(?:u\{[^}]*\}|x..|.)|[^'\\])')
    """,
    re.VERBOSE | re.DOTALL,
)


def _blank(text: str) -> str:
    return re.sub(r"[^\n]", " ", text)


def rust_code(source: str) -> str:
    """Blanks comments and literals of Rust source; every other character stays where it was."""
    out: list[str] = []
    position = 0
    while match := _LITERAL.search(source, position):
        end = match.end()
        if match.lastgroup == "block":
            depth = 1
            while depth:
                step = re.compile(r"/\*|\*/").search(source, end)
                if step is None:
                    end = len(source)
                    break
                depth += 1 if step.group() == "/*" else -1
                end = step.end()
        out += [source[position : match.start()], _blank(source[match.start() : end])]
        position = end
    return "".join(out) + source[position:]


def _line(text: str, offset: int) -> int:
    return text.count("\n", 0, offset) + 1


def _matches(code: str, pattern: str) -> Iterator[tuple[int, str]]:
    for match in re.finditer(pattern, code):
        yield _line(code, match.start()), match.group().strip()


def rust_head(source: str) -> list[str]:
    """A Rust file starts with its duty."""
    return [] if source.startswith("//! ") else ["does not start with a `//!` head"]


def python_head(source: str) -> list[str]:
    """A Python file starts with a docstring."""
    return [] if ast.get_docstring(ast.parse(source)) else ["does not start with a docstring"]


def file_size(source: str, comment: str) -> list[str]:
    """A file keeps to its size, or says in its head why it is longer."""
    lines = source.splitlines()
    head = "\n".join(lines[:40])
    reason = re.search(rf"^\s*{comment}\s*Size: \S+( \S+){{3,}}", head, re.MULTILINE)
    limit = FILE_LINES_WITH_REASON if reason else FILE_LINES
    found = [f"{len(lines)} lines, more than {limit}"] if len(lines) > limit else []
    found += [
        f"line {number} has {len(line)} columns"
        for number, line in enumerate(lines, 1)
        if len(line) > LINE_COLUMNS and "://" not in line
    ]
    return found


def rust_functions(source: str) -> Iterator[tuple[str, int, int]]:
    """Yields name, first line and number of lines of each Rust function with a body."""
    code = rust_code(source)
    for match in re.finditer(r"\bfn\s+(\w+)", code):
        depth, offset = 0, match.end()
        while offset < len(code) and not (code[offset] in ";{" and depth == 0):
            depth += {"(": 1, "[": 1, ")": -1, "]": -1}.get(code[offset], 0)
            offset += 1
        if offset == len(code) or code[offset] == ";":
            continue
        for end in range(offset, len(code)):
            depth += {"{": 1, "}": -1}.get(code[end], 0)
            if depth == 0:
                first = _line(code, match.start())
                yield match.group(1), first, _line(code, end) - first + 1
                break


def rust_function_size(source: str) -> list[str]:
    """A Rust function fits on a screen or two."""
    return [
        f"fn {name} at line {first} has {count} lines"
        for name, first, count in rust_functions(source)
        if count > FUNCTION_LINES
    ]


def python_function_size(source: str) -> list[str]:
    """A Python function fits on a screen or two."""
    return [
        f"def {node.name} at line {node.lineno} has {node.end_lineno - node.lineno + 1} lines"
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno is not None
        and node.end_lineno - node.lineno + 1 > FUNCTION_LINES
    ]


# The word, and the macros of `ffi/class.rs` that expand to it.
_UNSAFE_OR_EXPANDED = re.compile(r"\bunsafe\b|\b(?:noargs|onearg|varargs|attribute)!")


def may_be_unsafe(path: str) -> bool:
    """Tells whether a Rust file is one of the rooms where ``unsafe`` is allowed."""
    return any(fnmatch(path, room) for room in UNSAFE_ROOMS)


def unsafe_use(path: str, source: str, parent: str = "") -> list[str]:
    """Outside its rooms there is no ``unsafe``, and the compiler keeps it so.

    A room that neither uses it nor expands the macros of method tables, which do, forbids it like
    any other module, and a module is bound by what its parent forbids. ``lib.rs`` and ``mod.rs``
    cannot forbid it for the rooms below them, and what is not in a crate's ``src`` is not shipped:
    there the absence of the word is enough.
    """
    code = rust_code(source)
    if may_be_unsafe(path) and _UNSAFE_OR_EXPANDED.search(code):
        return []
    found = [f"line {line}: unsafe outside its rooms" for line, _ in _matches(code, r"\bunsafe\b")]
    is_module = "/src/" in path and not path.endswith(("/lib.rs", "/mod.rs"))
    forbids = re.compile(r"#!\[forbid\(unsafe_code\)\]")
    if is_module and not forbids.search(code) and not forbids.search(rust_code(parent)):
        found.append("does not declare #![forbid(unsafe_code)]")
    return found


def safety_comments(source: str) -> list[str]:
    """Each ``unsafe`` block or impl has a SAFETY comment on the lines before it or beside it."""
    lines, code = source.splitlines(), rust_code(source)
    found = []
    for line, word in _matches(code, r"\bunsafe\s*(?:\{|impl\b)"):
        above = line - 2
        near = [lines[line - 1]]
        while above >= 0 and not re.search(r"[;{}]\s*$", rust_code(lines[above])):
            near.append(lines[above])
            above -= 1
        if not any("SAFETY:" in text for text in near):
            found.append(f"line {line}: {word} without a SAFETY comment")
    return found


def _without_tests(code: str) -> str:
    """Cuts a trailing ``#[cfg(test)] mod tests`` off."""
    match = re.search(r"#\[cfg\((?:all\()?test\b[^\n]*\]\s*mod\s+\w+\s*\{", code)
    return code[: match.start()] if match else code


def dropped_results(source: str) -> list[str]:
    """The binding drops no result without a name, and unwraps nothing."""
    code = _without_tests(rust_code(source))
    rules = ((r"\blet\s+_\s*=", "bare let _ ="), (r"(?m)^\s*_\s*=(?!=|>)", "bare _ ="))
    rules += ((r"\.\s*unwrap\s*\(\s*\)", ".unwrap()"),)
    return [f"line {n}: {what}" for pattern, what in rules for n, _ in _matches(code, pattern)]


def banned_words(source: str) -> list[str]:
    """Unfinished work is an issue, not a comment."""
    pattern = r"\b(?:" + "|".join(BANNED_WORDS) + r")\b"
    return [f"line {line}: {word}" for line, word in _matches(source, pattern)]


def core_mentions_python(source: str) -> list[str]:
    """The core's code names nothing of Python; its prose may, to name a source."""
    pattern = r"\b(?:pyo3\w*|Py[A-Z_]\w*|_Py\w*|cpython|python)\b"
    return [f"line {n}: {word}" for n, word in _matches(rust_code(source), pattern)]


def binding_imports_package(source: str) -> list[str]:
    """The binding never imports the Python package that stands above it."""
    pattern = r"(?i)import\w*\s*\(\s*(?:\w+,\s*)*c?\"aioxide(?:\.\w+)*\""
    return [f"line {n}: {word}" for n, word in _matches(source, pattern)]


def dependencies(manifest: dict[str, object], allowed: set[str]) -> list[str]:
    """A crate is built on what was decided, and on nothing else."""
    named: set[str] = set()
    tables: list[object] = [manifest]
    targets = manifest.get("target")
    # Under `cfg(loom)` nothing is built but a test.
    wanted = targets.items() if isinstance(targets, dict) else ()
    tables += [table for condition, table in wanted if condition != "cfg(loom)"]
    for table in tables:
        for key in ("dependencies", "build-dependencies"):
            part = table.get(key) if isinstance(table, dict) else None
            named |= set(part) if isinstance(part, dict) else set()
    return [f"depends on {name}" for name in sorted(named - allowed)]


def duplicate_names(source: str) -> list[str]:
    """No test is hidden by a later one of the same name."""
    found = []
    for scope in ast.walk(ast.parse(source)):
        if not isinstance(scope, ast.Module | ast.ClassDef):
            continue
        kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
        names = Counter(
            node.name
            for node in scope.body
            if isinstance(node, kinds) and node.name.lower().startswith("test")
        )
        found += [f"{name} is defined {n} times" for name, n in names.items() if n > 1]
    return found


def rooms_named(markdown: str) -> dict[str, set[str]]:
    """Reads a code map: ``### `folder``` headings and the bullets that start with a `name`."""
    rooms: dict[str, set[str]] = {}
    folder = None
    for line in markdown.splitlines():
        if heading := re.match(r"#+ (?:`([\w./-]+)`)?", line):
            folder = heading.group(1)
            if folder is not None:
                rooms[folder.rstrip("/")] = set()
        elif folder is not None and re.match(r"[-*] `", line):
            before = re.split(r"[:\u2013\u2014]", line, maxsplit=1)[0]
            rooms[folder.rstrip("/")] |= {
                n.rstrip("/") for n in re.findall(r"`([\w./-]+)`", before)
            }
    return rooms


def room_differences(named: dict[str, set[str]], existing: dict[str, set[str]]) -> list[str]:
    """The code map shows every room that exists and none that does not."""
    found = [f"{folder} is not in the map" for folder in sorted(existing.keys() - named.keys())]
    found += [f"{folder} does not exist" for folder in sorted(named.keys() - existing.keys())]
    for folder in sorted(existing.keys() & named.keys()):
        missing = sorted(existing[folder] - named[folder])
        invented = sorted(named[folder] - existing[folder])
        found += [f"{folder}: {name} is not in the map" for name in missing]
        found += [f"{folder}: {name} does not exist" for name in invented]
    return found


def paths_named(markdown: str, exists: Callable[[str], bool]) -> list[str]:
    """Every path that prose puts in backticks or links to is there."""
    named = set(re.findall(r"`((?:[\w.-]+/)+[\w.-]*)`", markdown))
    named |= {t for t in re.findall(r"\]\(([\w./-]+)(?:#[\w-]*)?\)", markdown) if t}
    return [f"{path} does not exist" for path in sorted(named) if not exists(path)]


def stub_names(stub: str) -> tuple[set[str], dict[str, set[str]]]:
    """Reads a stub: its top-level names, and the public names that each class declares."""
    names: set[str] = set()
    classes: dict[str, set[str]] = {}
    for node in _declarations(ast.parse(stub).body):
        declared = _declared(node)
        names |= declared
        if isinstance(node, ast.ClassDef):
            members = classes.setdefault(node.name, set())
            for part in _declarations(node.body):
                members |= _declared(part)
    return names, classes


def _declarations(body: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    """Walks statements and the branches of version checks."""
    for node in body:
        if isinstance(node, ast.If):
            yield from _declarations([*node.body, *node.orelse])
        else:
            yield node


def _declared(node: ast.stmt) -> set[str]:
    match node:
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            return {name}
        case ast.AnnAssign(target=ast.Name(id=name)):
            return {name}
        case ast.Assign(targets=targets):
            return {target.id for target in targets if isinstance(target, ast.Name)}
    return set()


def stub_differences(stub: str, module: object) -> list[str]:
    """What the built module shows and what its stub says are the same."""
    names, classes = stub_names(stub)
    public = {n for n in vars(module) if not n.startswith("_")}
    declared = {n for n in names if not n.startswith("_")}
    found = [f"{name} is not in the stub" for name in sorted(public - declared)]
    found += [f"{name} is not in the module" for name in sorted(declared - public)]
    for name in sorted(public & classes.keys()):
        kind = vars(module)[name]
        # What a class overrides is declared by its base's stub.
        inherited = {n for base in kind.__mro__[1:] for n in vars(base)}
        own = {n for n in vars(kind) if not n.startswith("_")} - inherited
        said = {n for n in classes[name] if not n.startswith("_")}
        found += [f"{name}.{part} is not in the stub" for part in sorted(own - said)]
        lacking = (part for part in sorted(said) if not hasattr(kind, part))
        found += [f"{name}.{part} is not in the module" for part in lacking]
    return found
