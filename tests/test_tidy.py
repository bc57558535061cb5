"""The house rules of CONTRIBUTING.md, executed; and each rule shown to be able to fail."""

from __future__ import annotations

import importlib
import os
import tomllib
import types
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import tidy_rules as rules

ROOT = Path(__file__).resolve().parent.parent
CORE = "crates/aioxide-core/"
BINDING = "crates/aioxide-py/"
_NOT_OURS = {"target", "__pycache__", "node_modules", "corpus", "artifacts", "results"}


def _walk() -> Iterator[str]:
    for folder, folders, names in os.walk(ROOT):
        folders[:] = sorted(f for f in folders if f not in _NOT_OURS and not f.startswith("."))
        for name in sorted(names):
            yield (Path(folder) / name).relative_to(ROOT).as_posix()


FILES = tuple(_walk())
RUST = tuple(path for path in FILES if path.endswith(".rs"))
PYTHON = tuple(path for path in FILES if path.endswith(".py"))
STUBS = tuple(path for path in FILES if path.endswith(".pyi"))
MARKDOWN = tuple(path for path in FILES if path.endswith(".md"))


def read(path: str) -> str:
    """The text of one file of the repository."""
    return (ROOT / path).read_text(encoding="utf-8")


def check(paths: tuple[str, ...] | list[str], rule: Callable[[str], list[str]]) -> None:
    """Applies a rule to files and fails with everything that it found."""
    found = [f"{path}: {what}" for path in paths for what in rule(read(path))]
    assert not found, "\n" + "\n".join(found)


def inside(folder: str, paths: tuple[str, ...] = RUST) -> list[str]:
    """Those of the paths that lie below a folder."""
    return [path for path in paths if path.startswith(folder)]


# --- the tree keeps the rules ---


def test_there_is_something_to_check() -> None:
    assert inside(CORE)
    assert inside(BINDING)
    assert inside("python/aioxide/", PYTHON)
    assert inside("tests/", PYTHON)


def test_files_have_heads() -> None:
    check(RUST, rules.rust_head)
    check(PYTHON, rules.python_head)


def test_files_keep_their_size() -> None:
    check(RUST, lambda source: rules.file_size(source, "//!"))
    check(PYTHON + STUBS, lambda source: rules.file_size(source, "#?"))


def test_functions_keep_their_size() -> None:
    check(RUST, rules.rust_function_size)
    check(PYTHON, rules.python_function_size)


def test_unsafe_stays_in_its_rooms() -> None:
    found = []
    for path in RUST:
        parent = Path(path).parent.as_posix() + ".rs"
        text = read(parent) if parent in RUST else ""
        found += [f"{path}: {what}" for what in rules.unsafe_use(path, read(path), text)]
    assert not found, "\n" + "\n".join(found)


def test_unsafe_is_explained() -> None:
    check(RUST, rules.safety_comments)


def test_binding_drops_no_result() -> None:
    check(inside(BINDING), rules.dropped_results)


def test_nothing_is_left_unfinished() -> None:
    check(RUST + PYTHON + STUBS + MARKDOWN + ("Makefile",), rules.banned_words)


def test_core_knows_no_python() -> None:
    check(inside(CORE), rules.core_mentions_python)
    manifest = tomllib.loads(read(f"{CORE}Cargo.toml"))
    assert not rules.dependencies(manifest, rules.CORE_DEPENDENCIES)


def test_binding_knows_what_it_may() -> None:
    check(inside(BINDING), rules.binding_imports_package)
    manifest = tomllib.loads(read(f"{BINDING}Cargo.toml"))
    assert not rules.dependencies(manifest, rules.BINDING_DEPENDENCIES)


def test_panics_unwind() -> None:
    profiles = tomllib.loads(read("Cargo.toml")).get("profile", {})
    assert all(profile.get("panic", "unwind") == "unwind" for profile in profiles.values())


def test_no_test_hides_another() -> None:
    check(inside("tests/", PYTHON), rules.duplicate_names)
    modules: dict[str, list[str]] = {}
    for path in inside("tests/", PYTHON):
        modules.setdefault(Path(path).name, []).append(path)
    # Without packages, two test modules of one name are one module to Python.
    clashes = {name: paths for name, paths in modules.items() if len(paths) > 1}
    clashes.pop("conftest.py", None)
    clashes.pop("__init__.py", None)
    clashes.pop("__main__.py", None)
    assert not clashes


def existing_rooms() -> dict[str, set[str]]:
    """Every folder that ARCHITECTURE.md has to map, with what is in it."""
    rooms: dict[str, set[str]] = {}
    for path in FILES:
        *folders, name = path.split("/")
        if not folders:
            continue
        rooms.setdefault(".", set()).add(folders[0])
        # Of sources every folder is shown, of the rest the first level.
        deep = {"crates": 3, "python": 2}.get(folders[0])
        if folders[0] not in ("crates", "python", "tests", "tools"):
            continue
        if deep is None:
            if len(folders) > 1 or name.endswith(".py"):
                rooms.setdefault(folders[0], set()).add((*folders[1:], name)[0])
        elif len(folders) >= deep and name.endswith((".rs", ".py", ".pyi")) and name != "tests.rs":
            for depth in range(deep, len(folders) + 1):
                rooms.setdefault("/".join(folders[:depth]), set()).add((*folders, name)[depth])
    return rooms


def test_architecture_maps_every_room() -> None:
    named = rules.rooms_named(read("ARCHITECTURE.md"))
    found = rules.room_differences(named, existing_rooms())
    assert not found, "\n" + "\n".join(found)


@pytest.mark.parametrize("path", MARKDOWN)
def test_prose_names_paths_that_exist(path: str) -> None:
    bases = [ROOT, (ROOT / path).parent, *ROOT.glob("crates/*/src")]

    def exists(named: str) -> bool:
        return any((base / named).exists() for base in bases)

    assert not rules.paths_named(read(path), exists)


def test_stub_is_the_module() -> None:
    native = importlib.import_module("aioxide._aioxide")
    assert not rules.stub_differences(read("python/aioxide/_aioxide.pyi"), native)


# --- each rule can fail, and does not fail on what is right ---

LONG = "x\n" * (rules.FILE_LINES + 1)
LONG_FN = "{\n" + "    f();\n" * rules.FUNCTION_LINES + "}\n"
SAFE = "crates/aioxide-core/src/timers.rs"
ROOM = "crates/aioxide-core/src/backend/sys.rs"


@pytest.mark.parametrize(
    ("rule", "bad", "good"),
    [
        (rules.rust_head, "use std::io;\n", "//! Duty.\nuse std::io;\n"),
        (rules.python_head, "import os\n", '"""Duty."""\nimport os\n'),
        (
            lambda s: rules.file_size(s, "//!"),
            LONG,
            "//! Size: one table that is never split\n" + LONG,
        ),
        (lambda s: rules.file_size(s, "//!"), LONG, "x\n" * rules.FILE_LINES),
        (lambda s: rules.file_size(s, "//!"), "//! Size: long\n" + LONG, "short\n"),
        (
            lambda s: rules.file_size(s, "//!"),
            "//! Size: long for a reason given\n" + LONG * 2,
            "x\n",
        ),
        (lambda s: rules.file_size(s, "#"), "x" * 101, "x" * 100),
        (rules.rust_function_size, f"fn f<T>(a: [u8; 2]) {LONG_FN}", "fn f();\nfn g() {}\n"),
        (rules.rust_function_size, f"impl A {{ fn f() -> u8 {LONG_FN} }}", f"mod a {LONG_FN}"),
        (
            rules.rust_function_size,
            f"fn a() {{ '{{'; }} fn f() {LONG_FN}",
            'fn f() { "{"; }\n' * 99,
        ),
        (
            rules.python_function_size,
            "def f():\n" + "    f()\n" * 70,
            "def f():\n" + "    f()\n" * 69,
        ),
        (rules.python_function_size, "async def f():\n" + "    f()\n" * 70, "f()\n" * 99),
        (lambda s: rules.unsafe_use(SAFE, s), "fn f() {}", "#![forbid(unsafe_code)]\nfn f() {}"),
        (
            lambda s: rules.unsafe_use(SAFE, s),
            "#![forbid(unsafe_code)]\nunsafe fn f() {}",
            '#![forbid(unsafe_code)]\n// unsafe\nfn f() { "unsafe" }',
        ),
        (
            lambda s: rules.unsafe_use(SAFE, s),
            "// #![forbid(unsafe_code)]",
            "#![forbid(unsafe_code)]",
        ),
        (lambda s: rules.unsafe_use("a/src/lib.rs", s), "unsafe { f() }", "mod sys;"),
        (lambda s: rules.unsafe_use(ROOM, s), "fn f() {}", "unsafe fn f() {}"),
        (lambda s: rules.unsafe_use(SAFE, "", s), "//", "#![forbid(unsafe_code)]"),
        (
            rules.safety_comments,
            "fn f() {\n  unsafe { g() }\n}",
            "// SAFETY: mine.\nunsafe { g() }",
        ),
        (
            rules.safety_comments,
            "// SAFETY: one.\nunsafe { g() };\nunsafe { h() };",
            "// SAFETY: a long\n// proof.\nlet x =\n    unsafe { g() };",
        ),
        (rules.safety_comments, "unsafe impl Send for A {}", "unsafe fn f() {}"),
        (rules.dropped_results, "let _ = f();", "let _kept = f();"),
        (rules.dropped_results, "  _ = f();", "match x { _ => f() }"),
        (rules.dropped_results, "f() . unwrap ( )", "f().unwrap_or(0) // .unwrap()"),
        (rules.dropped_results, "f().unwrap();", "#[cfg(test)]\nmod tests { f().unwrap(); }"),
        (rules.banned_words, "# TO" + "DO later", "# to do later"),
        (
            rules.core_mentions_python,
            "use pyo3_ffi::PyObject;",
            "/// As Python's `PyObject`.\nuse a;",
        ),
        (rules.core_mentions_python, "fn f(o: *mut PyObject) {}", 'let x = "PyObject";'),
        (rules.binding_imports_package, 'import(c"aioxide.connect")', 'import(c"asyncio")'),
        (rules.binding_imports_package, 'import(py, "aioxide")', 'import_error("aioxide has")'),
        (rules.duplicate_names, "def test_a(): ...\ndef test_a(): ...", "def test_a(): ..."),
        (
            rules.duplicate_names,
            "class TestA:\n def test_a(s): ...\n async def test_a(s): ...",
            "class TestA:\n def test_a(s): ...\nclass TestB:\n def test_a(s): ...",
        ),
        (lambda s: rules.paths_named(s, lambda p: p == "a/b"), "see `a/c`", "see `a/b` and `c`"),
        (lambda s: rules.paths_named(s, lambda p: p == "a.md"), "[see](b.md#x)", "[see](a.md#x)"),
    ],
)
def test_rule_can_fail(rule: Callable[[str], list[str]], bad: str, good: str) -> None:
    assert rule(bad)
    assert not rule(good)


def test_dependency_rule_can_fail() -> None:
    bad = tomllib.loads('[dependencies]\nlibc = "1"\n[target."cfg(unix)".dependencies]\npyo3 = "1"')
    assert rules.dependencies(bad, {"libc"}) == ["depends on pyo3"]
    assert not rules.dependencies(bad, {"libc", "pyo3"})
    loom = tomllib.loads('[target."cfg(loom)".dependencies]\nloom = "1"')
    assert not rules.dependencies(loom, {"libc"})


def test_room_rule_can_fail() -> None:
    text = "# Map\n### `a/src`\n- `b.rs`, `c.rs`: not `d.rs`\n- `e/` \u2014 one\n### Else\n- `f`\n"
    named = rules.rooms_named(text)
    assert named == {"a/src": {"b.rs", "c.rs", "e"}}
    assert not rules.room_differences(named, {"a/src": {"b.rs", "c.rs", "e"}})
    assert rules.room_differences(named, {"a/src": {"b.rs", "c.rs", "e", "g.rs"}})
    assert rules.room_differences(named, {"a/src": {"b.rs", "c.rs"}})
    assert rules.room_differences(named, {"a/src": {"b.rs", "c.rs", "e"}, "h": set()})
    assert rules.room_differences(named, {})


def test_stub_rule_can_fail() -> None:
    module = types.ModuleType("m")
    module.A = type("A", (), {"f": 1})  # type: ignore[attr-defined]
    stub = "import sys\nclass A:\n  if sys.version_info > (3,):\n    def f(self): ...\n"
    assert not rules.stub_differences(stub, module)
    assert rules.stub_differences("", module) == ["A is not in the stub"]
    assert rules.stub_differences("class A: ...", module) == ["A.f is not in the stub"]
    assert rules.stub_differences(stub + "  g: int\n", module) == ["A.g is not in the module"]
    assert rules.stub_differences(stub + "B: int\n", module) == ["B is not in the module"]


def test_rust_reader_keeps_lines_and_code() -> None:
    source = "a /* { /* } */ \" */ b\nr#\"un\"safe\"# c\"x\" '{' '\\'' <'a> // }\nd\n"
    code = rules.rust_code(source)
    assert code.split() == ["a", "b", "<'a>", "d"]
    assert len(code) == len(source)
    assert code.count("\n") == source.count("\n")
