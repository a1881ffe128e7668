"""Hash all code that the result of a script can depend on, so that a rule runs again when that code changes.

Needs: the standard library.

Code is followed by name, from the script to the functions, classes and constants that it reaches in the modules beside
it. Comments, docstrings, positions in a file and unused definitions do not count. Statements that run when a module is
imported count for every importer. Of a registry (REGISTRIES), a dictionary of definitions, an entry counts if its key
occurs as a string in reached code. If reached code calls importlib.import_module, a reached string "module:name" counts
as a use of that name.
"""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TypeGuard

REGISTRIES = ("SCHEMAS", "EVALUATORS", "ENGINES", "QUANTITIES")
# Decorators without side effects at import.
_HARMLESS = ("dataclass", "cache", "lru_cache", "wraps", "contextmanager", "inference_mode", "no_grad")
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_DEFINITIONS = (*_FUNCTIONS, ast.ClassDef)
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


@dataclass
class _Code:
    """A statement: its syntax tree as text, the names it uses, its strings, and the imports inside it."""

    dump: str
    names: frozenset[str]
    attributes: frozenset[tuple[str, str]]
    texts: frozenset[str]
    imports: dict[str, tuple[str, str | None]]


@dataclass
class _Module:
    """A file: definitions by name, imports by local name, and the statements that run at import or as a program."""

    definitions: dict[str, list[_Code]] = field(default_factory=dict)
    registries: dict[str, dict[str, _Code]] = field(default_factory=dict)
    imports: dict[str, tuple[str, str | None]] = field(default_factory=dict)
    effects: list[_Code] = field(default_factory=list)
    as_program: list[_Code] = field(default_factory=list)


def hash_of_code(script: str | Path, *texts: str) -> str:
    """Return a hash (16 hex digits) of all code that a script reaches in its file and in the modules beside it.

    `texts` are keys of registry entries that the script receives at run time.
    """
    reached = reached_code(script, *texts)
    text = json.dumps(sorted(reached.items()))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def reached_code(script: str | Path, *texts: str) -> dict[str, list[str]]:
    """Return the code that a script or a module of the library reaches, as dumped statements by `module:name`."""
    script = Path(script)
    root = next(folder for folder in script.parents if not (folder / "__init__.py").is_file())
    return _Reach(root, texts).from_module(".".join(script.relative_to(root).with_suffix("").parts))


class _Reach:
    """Traversal of all code that a module reaches."""

    def __init__(self, root: Path, texts: Iterable[str]) -> None:
        self.root = root
        self.modules: dict[str, _Module | None] = {}
        self.reached: dict[str, list[str]] = {}
        self.texts = set(texts)
        self.open_registries: set[tuple[str, str]] = set()
        self.imported: set[str] = set()
        self.pending: list[tuple[str, str]] = []
        self.imports_by_name = False

    def from_module(self, name: str) -> dict[str, list[str]]:
        self._import(name)
        self._all_of(name, as_program=True)
        while True:
            while self.pending:
                self._name(*self.pending.pop())
            # A string that was reached last may be a key of a registry that was reached before.
            if not self._entries_of_registries() and not self._loaders():
                return self.reached

    def _module(self, name: str) -> _Module | None:
        """Return a module beside the script, or None for any other name."""
        if name not in self.modules:
            path = self.root / (name.replace(".", "/") + ".py")
            if not path.is_file():
                path = self.root / name.replace(".", "/") / "__init__.py"
            self.modules[name] = _read(path, path.stat().st_mtime_ns) if path.is_file() else None
        return self.modules[name]

    def _known(self, name: str) -> _Module:
        """Return a module that is known to exist."""
        module = self._module(name)
        assert module is not None, name
        return module

    def _import(self, name: str) -> None:
        """Add the import-time statements of a module, of its packages and of the modules that it imports."""
        parts = name.split(".")
        for n in range(1, len(parts) + 1):
            prefix = ".".join(parts[:n])
            module = self._module(prefix)
            if module is None or prefix in self.imported:
                continue
            self.imported.add(prefix)
            for index, code in enumerate(module.effects):
                self._code(prefix, f"(effect {index})", code)
            for source, attribute in module.imports.values():
                self._import(source)
                if attribute:
                    self._import(f"{source}.{attribute}")

    def _all_of(self, name: str, as_program: bool = False) -> None:
        """Add all definitions of a module; with `as_program` also its main block."""
        module = self._known(name)
        self.pending += [(name, definition) for definition in (*module.definitions, *module.registries)]
        for registry, entries in module.registries.items():
            for key, code in entries.items():
                self._code(name, f"{registry}[{key}]", code)
        if as_program:
            for index, code in enumerate(module.as_program):
                self._code(name, f"(program {index})", code)

    def _name(self, module_name: str, name: str) -> None:
        """Add a name of a module: a definition, a registry, or an import."""
        module = self._module(module_name)
        key = f"{module_name}:{name}"
        if module is None or key in self.reached:
            return
        if name in module.registries:
            self.open_registries.add((module_name, name))
        elif name in module.definitions:
            self.reached[key] = []
            for code in module.definitions[name]:
                self._code(module_name, name, code)
        elif name in module.imports:
            self._imported_name(*module.imports[name], key)

    def _imported_name(self, source: str, attribute: str | None, key: str) -> None:
        if self._module(source) is None:
            # Of other packages only the name counts.
            self.reached.setdefault(key, [f"{source}.{attribute}" if attribute else source])
        elif attribute is None:
            self._all_of(source)
        elif self._module(f"{source}.{attribute}") is not None:
            self._all_of(f"{source}.{attribute}")
        else:
            self.pending.append((source, attribute))

    def _code(self, module_name: str, name: str, code: _Code) -> None:
        """Add a statement and queue the names that it uses."""
        self.reached.setdefault(f"{module_name}:{name}", []).append(code.dump)
        self.texts |= code.texts
        self.imports_by_name |= ("importlib", "import_module") in code.attributes
        module = self._known(module_name)
        imports = {**module.imports, **code.imports}
        for source, attribute in code.imports.values():
            self._import(source)
            if attribute:
                self._import(f"{source}.{attribute}")
        # A module that is used only through attributes contributes only these attributes.
        module_of_name = {
            used: f"{imports[used][0]}.{imports[used][1]}" if imports[used][1] else imports[used][0]
            for used, _ in code.attributes
            if used in imports and used not in code.names
        }
        for used, attribute in code.attributes:
            if used in module_of_name and self._module(module_of_name[used]) is not None:
                self.pending.append((module_of_name[used], attribute))
            elif used in code.imports:
                self._imported_name(*code.imports[used], f"{module_name}:{used}")
            else:
                self.pending.append((module_name, used))
        for used in code.names:
            if used in code.imports:
                self._imported_name(*code.imports[used], f"{module_name}:{used}")
            else:
                self.pending.append((module_name, used))
        for text in code.texts:
            # The argument of `python -m package.module`.
            is_dotted = "." in text and all(part.isidentifier() for part in text.split("."))
            if is_dotted and self._module(text) is not None:
                self._import(text)
                self._all_of(text, as_program=True)

    def _loaders(self) -> bool:
        """Queue definitions that reached strings of the form "module:name" refer to; return whether any is new."""
        if not self.imports_by_name:
            return False
        pairs = (text.split(":") for text in sorted(self.texts) if text.count(":") == 1)
        self.pending = [
            (module, name)
            for module, name in pairs
            if all(part.isidentifier() for part in (*module.split("."), name))
            and f"{module}:{name}" not in self.reached
            and (loaded := self._module(module)) is not None
            and name in loaded.definitions
        ]
        for module, _ in self.pending:
            self._import(module)
        return bool(self.pending)

    def _entries_of_registries(self) -> bool:
        """Add entries of reached registries whose key is a reached string; return whether any is new."""
        before = len(self.reached)
        for module_name, registry in sorted(self.open_registries):
            for key, code in self._known(module_name).registries[registry].items():
                if key in self.texts and f"{module_name}:{registry}[{key}]" not in self.reached:
                    self._code(module_name, f"{registry}[{key}]", code)
        return len(self.reached) > before


@cache
def _read(path: Path, _modified_ns: int) -> _Module:
    """Parse a file into definitions, imports and import-time statements; cached, since many rules share the library."""
    tree = _without_docstrings(ast.parse(path.read_text()))
    module = _Module()
    for statement in tree.body:
        if not isinstance(statement, ast.Pass):
            _sort_in(statement, module)
    return module


def _sort_in(statement: ast.stmt, module: _Module) -> None:
    if isinstance(statement, (ast.Import, ast.ImportFrom)):
        module.imports |= _imports_of([statement])
        return
    if _is_main_guard(statement):
        module.as_program.append(_code_of(statement))
        return
    if _is_for_types_alone(statement):
        module.imports |= _imports_of(ast.walk(statement))
        return
    bound = list(_names_bound_by(statement))
    if isinstance(statement, (ast.Assign, ast.AnnAssign)) and bound[:1] and bound[0] in REGISTRIES:
        entries = _entries_of(statement.value)
        if entries is not None:
            module.registries[bound[0]] = {key: _code_of(value) for key, value in entries}
            return
    code = _code_of(statement)
    for name in bound:
        module.definitions.setdefault(name, []).append(code)
    if _has_effect(statement):
        module.imports |= _imports_of(ast.walk(statement))
        module.effects.append(code)


def _entries_of(value: ast.expr | None) -> list[tuple[str, ast.expr]] | None:
    """Return the entries of a dictionary display with only string keys; None for any other expression."""
    if not isinstance(value, ast.Dict):
        return None
    keys = [key.value for key in value.keys if isinstance(key, ast.Constant) and isinstance(key.value, str)]
    return list(zip(keys, value.values, strict=True)) if len(keys) == len(value.keys) else None


def _names_bound_by(statement: ast.stmt) -> Iterator[str]:
    """Yield the names that a statement binds in its scope, except imports."""
    if isinstance(statement, _DEFINITIONS):
        yield statement.name
        return
    pending: list[ast.AST] = [statement]
    while pending:
        node = pending.pop()
        if isinstance(node, _DEFINITIONS):
            yield node.name
            continue
        if isinstance(node, (*_COMPREHENSIONS, ast.Lambda)):
            continue
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.ExceptHandler) and node.name:
            yield node.name
        pending += ast.iter_child_nodes(node)


def _has_effect(statement: ast.stmt) -> bool:
    """Whether a statement does more than bind names when its module is imported."""
    if isinstance(statement, _DEFINITIONS):
        return any(_last_name(decorator) not in _HARMLESS for decorator in statement.decorator_list)
    if isinstance(statement, (ast.Assign, ast.AnnAssign)):
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        return not all(isinstance(target, (ast.Name, ast.Tuple)) for target in targets)
    return True


def _last_name(decorator: ast.expr) -> str:
    node = decorator.func if isinstance(decorator, ast.Call) else decorator
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def _is_main_guard(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.If) and "__name__" in {n.id for n in ast.walk(statement.test) if _is_name(n)}


def _is_for_types_alone(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.If) and _last_name(statement.test) == "TYPE_CHECKING"


def _is_name(node: ast.AST) -> TypeGuard[ast.Name]:
    return isinstance(node, ast.Name)


def _code_of(node: ast.AST) -> _Code:
    nodes = list(ast.walk(node))
    uses = _Uses()
    uses.visit(node)
    texts = {n.value for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, str)}
    return _Code(
        ast.dump(node, include_attributes=False),
        frozenset(uses.names),
        frozenset(uses.attributes),
        frozenset(texts),
        _imports_of(nodes),
    )


class _Uses(ast.NodeVisitor):
    """Collect the names that a statement takes from its module: plain names, and names before an attribute."""

    def __init__(self) -> None:
        self.names: set[str] = set()
        self.attributes: set[tuple[str, str]] = set()
        self.local: list[set[str]] = []

    def visit_Name(self, node: ast.Name) -> None:  # noqa: N802  method names of ast.NodeVisitor
        if not any(node.id in names for names in self.local):
            self.names.add(node.id)

    def visit_Attribute(self, node: ast.Attribute) -> None:  # noqa: N802
        if not _is_name(node.value):
            self.visit(node.value)
        elif not any(node.value.id in names for names in self.local):
            self.attributes.add((node.value.id, node.attr))

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:  # noqa: N802
        # These expressions belong to the enclosing scope.
        for expression in (*node.decorator_list, *_annotations_of(node.args), *filter(None, [node.returns])):
            self.visit(expression)
        declared = {name for n in ast.walk(node) if isinstance(n, (ast.Global, ast.Nonlocal)) for name in n.names}
        bound = {name for statement in node.body for name in _names_bound_by(statement)}
        self._within((_arguments_of(node.args) | bound) - declared, node.args, node.body)

    visit_AsyncFunctionDef = visit_FunctionDef  # noqa: N815

    def visit_Lambda(self, node: ast.Lambda) -> None:  # noqa: N802
        self._within(_arguments_of(node.args), node.args, [node.body])

    def _within(self, names: set[str], arguments: ast.arguments, body: Sequence[ast.AST]) -> None:
        for default in (*arguments.defaults, *filter(None, arguments.kw_defaults)):
            self.visit(default)
        self.local.append(names)
        for part in body:
            self.visit(part)
        self.local.pop()

    def _visit_comprehension(self, node: ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp) -> None:
        targets = {n.id for generator in node.generators for n in ast.walk(generator.target) if _is_name(n)}
        self.visit(node.generators[0].iter)
        self.local.append(targets)
        self.generic_visit(node)
        self.local.pop()

    visit_ListComp = visit_SetComp = visit_DictComp = visit_GeneratorExp = _visit_comprehension  # noqa: N815


def _arguments_of(arguments: ast.arguments) -> set[str]:
    return {argument.arg for argument in ast.walk(arguments) if isinstance(argument, ast.arg)}


def _annotations_of(arguments: ast.arguments) -> list[ast.expr]:
    return [n.annotation for n in ast.walk(arguments) if isinstance(n, ast.arg) and n.annotation is not None]


def _imports_of(nodes: Iterable[ast.AST]) -> dict[str, tuple[str, str | None]]:
    """Return imports by bound name: the module, and the name in it (None for the module itself)."""
    imports: dict[str, tuple[str, str | None]] = {}
    for node in nodes:
        if isinstance(node, ast.Import):
            for alias in node.names:
                # `import a.b` binds a, but a.b counts as imported.
                imports[alias.asname or alias.name.partition(".")[0]] = (alias.name, None)
        elif isinstance(node, ast.ImportFrom) and node.module and node.module != "__future__":
            for alias in node.names:
                imports[alias.asname or alias.name] = (node.module, alias.name)
    return imports


def _without_docstrings(tree: ast.Module) -> ast.Module:
    """Remove strings that are statements of their own from a tree, in place, and return it."""
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            body[:] = [child for child in body if not _is_bare_string(child)] or [ast.Pass()]
    return tree


def _is_bare_string(statement: ast.stmt) -> bool:
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )
