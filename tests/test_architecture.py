"""The tree keeps to its own rules: imports run downwards, files and functions stay small.

Read with ``ast``, so that a forbidden import is found even where no test executes it.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "uapfast"
MAX_FILE, MAX_FUNCTION = 400, 60

LEAVES = {
    "arrays",
    "errors",
    "config",
    "csv_lines",
    "types",
    "files",
    "images",
    "plugins",
    "threads",
    "_version",
}
BELOW_OPS = LEAVES | {"_native", "kernels", "streams"}
BELOW_METHOD = BELOW_OPS | {"ops"}
BELOW_POOL = BELOW_METHOD | {"method", "models", "data", "safeload"}
BELOW_REFERENCE = BELOW_POOL | {"pool"}
BELOW_EXAMINATION = BELOW_REFERENCE | {"reference", "reference_file"}
BELOW_SUSPECTS = BELOW_METHOD | {"models", "safeload"}
BELOW_VERBS = BELOW_EXAMINATION | {"examination", "suspects"}
BELOW_REPORT = BELOW_VERBS | {"verbs"}

# What each part may import of ours, besides itself.
ALLOWED: dict[str, set[str]] = {
    "arrays": set(),
    "errors": set(),
    "config": {"errors"},
    "types": {"errors"},
    "files": {"errors"},
    "plugins": {"errors"},
    "_version": set(),
    "threads": set(),
    "csv_lines": {"errors", "files"},
    "images": {"errors"},
    "safeload": {"errors", "types", "files"},
    "_native": LEAVES,
    "streams": LEAVES,
    "kernels": LEAVES,
    "ops": BELOW_OPS,
    "models": BELOW_METHOD | {"safeload"},
    "data": BELOW_METHOD | {"models"},
    "method": BELOW_METHOD | {"models"},
    "pool": BELOW_POOL,
    "reference_file": LEAVES | {"method"},
    "reference_check": LEAVES,
    "reference": BELOW_REFERENCE | {"reference_file", "reference_check"},
    "examination": BELOW_EXAMINATION | {"suspects"},
    "suspects": BELOW_SUSPECTS,
    "verbs": BELOW_VERBS,
    "screening": BELOW_VERBS,
    "evidence": BELOW_REPORT,
    "report": BELOW_REPORT | {"screening", "evidence"},
    "demo": BELOW_REPORT | {"report"},
    "cli": BELOW_REPORT | {"screening", "evidence", "report", "demo"},
    "__main__": BELOW_OPS | {"ops", "cli"},
    "testing": BELOW_METHOD,
}
# The folders of screening, each using only those before it; its files use all of them.
SCREENING = ("listing", "table", "asking", "engine")
NO_TORCH_AT_IMPORT = (
    "__init__", "_version", "errors", "config", "types", "files", "plugins", "threads", "cli", "safeload",
)  # fmt: skip
# DESIGN: never at run time, where they would bring code execution or dormant peers.
BANNED = {"pickle", "dill", "cloudpickle", "art", "foolbox", "torchattacks", "adv_lib", "httpx", "modelscan"}
HEAVY = {"torch", "numpy", "pyarrow", "sklearn", "rich", "scipy", "matplotlib", "jinja2"}


def sources(folder: Path = PACKAGE) -> list[Path]:
    return sorted(p for p in folder.rglob("*.py") if "build" not in p.relative_to(ROOT).parts)


def part_of(path: Path) -> str:
    """``uapfast/pool/build.py`` -> ``pool``; ``uapfast/reference.py`` -> ``reference``."""
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def module_of(path: Path) -> list[str]:
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    return parts[:-1] if parts[-1] == "__init__" else parts


def imports(tree: ast.AST, path: Path) -> Iterator[tuple[int, str]]:
    """Line and absolute dotted name of everything imported, wherever in the file it stands."""
    module = module_of(path)
    package = module if path.name == "__init__.py" else module[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            prefix = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                yield node.lineno, f"{prefix}.{alias.name}"


def ours(name: str) -> str | None:
    """The part of ours that a dotted name belongs to; None for other packages."""
    parts = name.split(".")
    if parts[0] != "uapfast":
        return None
    return parts[1] if len(parts) > 1 else "__init__"


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def upward_imports(path: Path, tree: ast.Module) -> list[str]:
    part = part_of(path)
    if part == "__init__":
        return []
    found = []
    for line, name in imports(tree, path):
        target = ours(name)
        if target is None or target == part:
            continue
        if target not in ALLOWED:  # ``import uapfast``, ``from uapfast import load``: the lazy top level
            found.append(f"{relative(path)}:{line} imports the top level ({name})")
        elif target not in ALLOWED.get(part, set()):
            found.append(f"{relative(path)}:{line} {part} imports {target} ({name})")
    return found


@pytest.mark.parametrize("path", sources(), ids=relative)
def test_imports_run_downwards(path: Path) -> None:
    assert part_of(path) in {*ALLOWED, "__init__"}, f"{relative(path)} belongs to no layer of ALLOWED"
    found = upward_imports(path, parse(path))
    # The command line and the demo are users of the public API.
    if part_of(path) in {"cli", "demo", "report"}:
        found = [f for f in found if "the top level" not in f]
    assert not found, "\n".join(found)


def upward_in_screening(path: Path, tree: ast.Module) -> list[str]:
    folder = path.relative_to(PACKAGE / "screening").parts[0]
    below = SCREENING[: SCREENING.index(folder) + 1] if folder in SCREENING else SCREENING
    return [
        f"{relative(path)}:{line} {name}"
        for line, name in imports(tree, path)
        if name.startswith("uapfast.screening.") and name.split(".")[2] not in below
    ]


def test_imports_of_screening_run_downwards() -> None:
    root = PACKAGE / "screening"
    assert {p.name for p in root.iterdir() if (p / "__init__.py").exists()} == set(SCREENING)
    upward = ast.parse("from uapfast.screening.engine.registry import Done")
    assert upward_in_screening(root / "table/store.py", upward)
    assert upward_in_screening(root / "table/store.py", ast.parse("from uapfast.screening import run"))
    assert not upward_in_screening(root / "engine/local.py", upward)
    files = [p for p in sources(root) if p.parent != root]
    bad = [line for path in files for line in upward_in_screening(path, parse(path))]
    assert files and not bad, "\n".join(bad)


def circles(graph: dict[str, set[str]]) -> list[str]:
    """Modules from which imports lead back to them."""

    def reached(start: str) -> set[str]:
        found, todo = set[str](), [start]
        while todo:
            new = graph.get(todo.pop(), set()) - found
            found |= new
            todo += new
        return found

    return sorted(name for name in graph if name in reached(name))


def test_no_module_imports_itself_by_way_of_others() -> None:
    names = {".".join(module_of(path)): path for path in sources()}
    names = {name.removesuffix(".__init__"): path for name, path in names.items()}
    graph: dict[str, set[str]] = {}
    for name, path in names.items():
        found = {target for _, target in imports(parse(path), path)}
        # a module is told by its own name, what is in it by that and the module's
        targets = {t if t in names else t.rpartition(".")[0] for t in found}
        graph[name] = (targets & set(names)) - {name, "uapfast"}
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c"]
    assert not circles(graph)


def test_the_check_sees_an_upward_import() -> None:
    def found(path: str, code: str) -> list[str]:
        return upward_imports(PACKAGE / path, ast.parse(code))

    assert found("ops/x.py", "from uapfast.method import points")
    assert found("ops/x.py", "def f():\n    import uapfast.models.model")
    assert found("models/x.py", "from ..method import points")
    assert found("models/x.py", "from .. import method")
    assert found("types.py", "import uapfast")
    assert not found("method/x.py", "from uapfast.models.model import Model\nfrom . import points")
    assert not found("pool/x.py", "from ..models import model")


def test_method_reaches_models_only_for_models_themselves() -> None:
    allowed = (
        "uapfast.models.model",
        "uapfast.models.answers",
        "uapfast.models.batches",
        "uapfast.models.forms",
    )
    bad = [
        f"{relative(p)}:{line} {name}"
        for p in sources(PACKAGE / "method")
        for line, name in imports(parse(p), p)
        if ours(name) == "models" and not name.startswith(allowed)
    ]
    assert not bad, "\n".join(bad)


@pytest.mark.parametrize("part", NO_TORCH_AT_IMPORT)
def test_no_torch_at_import_of_the_light_parts(part: str) -> None:
    paths = sources(PACKAGE / part) if (PACKAGE / part).is_dir() else [PACKAGE / f"{part}.py"]
    for path in paths:
        if not path.exists():
            pytest.skip(f"{relative(path)} is not there")
        for node in parse(path).body:
            heavy = [n for _, n in imports(node, path) if n.split(".")[0] in HEAVY]
            type_only = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
            late = isinstance(node, ast.FunctionDef | ast.ClassDef)
            assert type_only or late or not heavy, f"{relative(path)}:{node.lineno} imports {heavy} at import"


def test_nothing_dangerous_or_dormant_is_imported() -> None:
    bad = [
        f"{relative(p)}:{line} {name}"
        for p in sources()
        for line, name in imports(parse(p), p)
        if name.split(".")[0] in BANNED
    ]
    assert not bad, "\n".join(bad)


def test_only_the_registry_calls_torch_library() -> None:
    bad = []
    for path in sources():
        if relative(path) in {"uapfast/ops/_registry.py", "uapfast/testing.py"}:
            continue
        for node in ast.walk(parse(path)):
            if isinstance(node, ast.Attribute) and ast.unparse(node).startswith("torch.library."):
                bad.append(f"{relative(path)}:{node.lineno} {ast.unparse(node)}")
        for line, name in imports(parse(path), path):
            if name.startswith("torch.library"):
                bad.append(f"{relative(path)}:{line} {name}")
    assert not bad, "\n".join(bad)


def test_the_library_does_not_print() -> None:
    speakers = {"cli", "demo", "__main__"}
    bad = [
        f"{relative(path)}:{node.lineno}"
        for path in sources()
        if part_of(path) not in speakers
        for node in ast.walk(parse(path))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    assert not bad, "\n".join(bad)


def every_small_file() -> list[Path]:
    native = [p for s in ("*.cpp", "*.cu", "*.h", "*.cuh", "*.hpp") for p in (ROOT / "csrc").rglob(s)]
    scripts = [ROOT / "setup.py"] if (ROOT / "setup.py").exists() else []
    return sources() + sources(ROOT / "kernels") + sources(ROOT / "benchmarks") + native + scripts


def lines_of(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


@pytest.mark.parametrize("path", every_small_file(), ids=relative)
def test_file_is_small(path: Path) -> None:
    assert lines_of(path) <= MAX_FILE, f"{relative(path)} has {lines_of(path)} lines, the limit is {MAX_FILE}"


def test_test_files_are_small_or_say_why_not() -> None:
    bad = [
        f"{relative(path)} has {lines_of(path)} lines, the limit is {MAX_FILE}"
        for path in sorted((ROOT / "tests").rglob("*.py"))
        if lines_of(path) > MAX_FILE
        and f"More than {MAX_FILE} lines: " not in (ast.get_docstring(parse(path)) or "")
    ]
    assert not bad, "\n".join(bad)


def code_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function without its docstring: a contract may be as long as it must."""
    total = (node.end_lineno or node.lineno) - node.lineno + 1
    first = node.body[0]
    if ast.get_docstring(node, clean=False) is not None:
        total -= (first.end_lineno or first.lineno) - first.lineno + 1
    return total


@pytest.mark.parametrize("path", [p for p in every_small_file() if p.suffix == ".py"], ids=relative)
def test_functions_are_small(path: Path) -> None:
    long = [
        f"{relative(path)}:{n.lineno} {n.name} has {code_lines(n)} lines, the limit is {MAX_FUNCTION}"
        for n in ast.walk(parse(path))
        if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef) and code_lines(n) > MAX_FUNCTION
    ]
    assert not long, "\n".join(long)


# Functions that have one name in many files because they are called by it.
BY_NAME = {"main", "reference", "run"}  # of a process, of an op, of an engine


def public_names(tree: ast.Module, path: str) -> Iterator[str]:
    """Classes, type aliases, functions; a command of cli/ is named after the function that it calls."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            if node.name not in BY_NAME and not path.startswith("uapfast/cli/"):
                yield node.name
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            if re.fullmatch("[A-Z][A-Za-z0-9]*[a-z][A-Za-z0-9]*", node.targets[0].id):
                yield node.targets[0].id


def defined_twice(trees: dict[str, ast.Module]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for path, tree in trees.items():
        for name in set(public_names(tree, path)):
            if not name.startswith("_"):
                found.setdefault(name, []).append(path)
    return {name: sorted(paths) for name, paths in found.items() if len(paths) > 1}


def test_no_name_is_defined_twice() -> None:
    one = ast.parse("class Row: ...\nclass _Own: ...\nKEY = 1\ndef ask(): ...\ndef run(): ...")
    two = ast.parse("Row = dict[str, int]\nclass _Own: ...\nKEY = 2\nasync def ask(): ...\ndef run(): ...")
    assert defined_twice({"a.py": one, "b.py": two}) == {"Row": ["a.py", "b.py"], "ask": ["a.py", "b.py"]}
    assert defined_twice({"a.py": one, "uapfast/cli/b.py": two}) == {"Row": ["a.py", "uapfast/cli/b.py"]}
    assert not defined_twice({relative(path): parse(path) for path in sources()})


def test_the_native_core_knows_no_python_and_no_torch() -> None:
    banned = re.compile(r'#\s*include\s*[<"](pybind11|Python\.h|torch|ATen|c10)')
    bad = []
    for folder in ("cpu", "cuda", "include"):
        for path in (ROOT / "csrc" / folder).rglob("*"):
            if path.is_file():
                for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
                    if banned.search(line):
                        bad.append(f"{relative(path)}:{number} {line.strip()}")
    assert not bad, "\n".join(bad)
