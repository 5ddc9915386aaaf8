"""Reads pgdbpool's configuration out of a Python file, which is parsed and never run.

A module may do anything when it is imported. So `config` has to be made of literals, of names that the module gives to
such values once, and of variables of the environment for passwords, which poold knows as `password_env`. Whatever could
change one of these values at run time is a problem. Problems show neither passwords nor source text, in which a
password may stand.
"""

import ast
import re
import shlex
import warnings
from collections.abc import Container, Iterator
from pathlib import Path

from poold.config.file import shown

_MUTATORS = {"append", "clear", "extend", "insert", "pop", "popitem", "remove", "setdefault", "update"}
_ENVIRON = ("os.environ", "environ")
_GETTERS = ("os.environ.get", "os.getenv", "environ.get", "getenv")
_PASSWORD = "pass"
_KEYS = {"db", "groups"}  # which every configuration has


class Variable(str):
    """The name of an environment variable, in the place of the password that it holds."""

    has_default = False  # whether the file says what to take without the variable


class Unreadable(Exception):
    """The file has no configuration that can be read; problems as in ConfigError.

    name is what the file calls its configuration; "" if Python cannot read the file either.
    """

    def __init__(self, *problems: str, name: str) -> None:
        super().__init__(*problems)
        self.problems = list(problems)
        self.name = name


def read(text: str, harmless: Container[str]) -> object:
    """Return the value of the last top-level `config = ...`, which is the one that an import would leave.

    Without any it is the only dict that has db and groups, as pgdbpool's documents call it config1 and db_config too.
    harmless are the keys whose values problems may name: beneath any other key, what looks like a name may be an
    unquoted password. Raises Unreadable.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the warning about an escape like "\d" prints the line to stderr
            module = ast.parse(text)
    except SyntaxError as error:
        raise Unreadable(f"line {error.lineno}: not valid Python: {error.msg}", name="") from None
    except (ValueError, RecursionError, MemoryError) as error:
        raise Unreadable(f"not usable Python: {str(error) or 'nested too deeply'}", name="") from None
    assigned = dict(_assignments(module))
    name = _name(assigned)
    node = assigned[name]
    reader = _Reader(module, harmless, node.lineno)
    try:
        value = reader.value(node, "db")
        problems = [*reader.problems, *_changes(module, name, node)]
    except (ValueError, TypeError, RecursionError, MemoryError):  # a list as a key, -"text"
        raise Unreadable(f"line {node.lineno}: {name} cannot be built from its literals", name=name) from None
    if problems:
        raise Unreadable(*problems, name=name)
    return value


def _name(assigned: dict[str, ast.expr]) -> str:
    """Return the name of the configuration among these assignments."""
    if "config" in assigned:
        return "config"
    dicts = {name: _keys(node) for name, node in assigned.items() if isinstance(node, ast.Dict)}
    alike = [name for name, keys in dicts.items() if keys >= _KEYS]
    if len(alike) == 1:
        return alike[0]
    hint = f"; rename {', '.join(alike or dicts)} to config" if dicts else ""
    raise Unreadable(f"found no top-level config = {{...}}, expected pgdbpool's dict{hint}", name="NAME")


def _keys(node: ast.Dict) -> set[object]:
    return {key.value for key in node.keys if isinstance(key, ast.Constant)}


def how_to_print(filename: str, name: str) -> str:
    """Return the command that lets Python print the file's configuration, and imports what is printed."""
    path = Path(filename)
    folder = "" if path.parent == Path() else f"cd {shlex.quote(str(path.parent))} && "
    module = path.stem if path.stem.isidentifier() else "MODULE"
    program = f"import json, {module}; print(json.dumps({module}.{name}))"
    return f"({folder}python -c {shlex.quote(program)}) | poold import-config -"


class _Reader:
    """Makes the value of an expression, as far as it is plain; the rest becomes problems."""

    def __init__(self, module: ast.Module, harmless: Container[str], line: int) -> None:
        self.problems: list[str] = []
        self._module = module
        self._harmless = harmless
        # Names are what they are above this line.
        self._line = line
        self._constants = {name: node for name, node in _assignments(module) if node.lineno < line}
        # Names whose values are being made: one that refers to itself has none.
        self._open: list[str] = []

    def value(self, node: ast.expr, key: str) -> object:
        """Return the value, None beside a problem; key is the dict key above the expression."""
        match node:
            case ast.Constant(constant) if constant is ...:
                self.problems.append(f"line {node.lineno}: found the placeholder ..., expected a value")
                return None
            case ast.Constant() | ast.UnaryOp(ast.USub() | ast.UAdd(), ast.Constant()):
                return ast.literal_eval(node)
            case ast.List() | ast.Tuple() | ast.Set():
                items = [self.value(item, key) for item in node.elts]
                return {ast.Tuple: tuple, ast.Set: set}.get(type(node), list)(items)
            case ast.Dict():
                return self._dict(node, key)
            case ast.Name(name) if self._is_constant(name):
                return self._constant(name, key)
        if key == _PASSWORD and (variable := self._variable(node)) is not None:
            return variable
        self._refuse(node, key)
        return None

    def _dict(self, node: ast.Dict, key: str) -> dict[object, object]:
        made: dict[object, object] = {}
        for name, each in zip(node.keys, node.values, strict=True):
            if name is None:
                inner = self.value(each, key)
                made.update(inner if isinstance(inner, dict) else {})
                continue
            word = self.value(name, key)
            made[word] = self.value(each, str(word) if isinstance(name, ast.Constant | ast.Name) else key)
        return made

    def _is_constant(self, name: str) -> bool:
        return name in self._constants and name not in self._open

    def _constant(self, name: str, key: str) -> object:
        node = self._constants[name]
        self.problems += [each for each in _changes(self._module, name, node) if each not in self.problems]
        self._open.append(name)
        try:
            return self.value(node, key)
        finally:
            self._open.pop()

    def _variable(self, node: ast.expr) -> Variable | None:
        """Return the environment variable that the expression asks for, None if it does anything else."""
        match node:
            case ast.Subscript(source, ast.Constant(str(name))) if self._is_of_os(source, _ENVIRON):
                default: ast.expr = ast.Constant(None)
            case ast.Call(source, [ast.Constant(str(name))], []) if self._is_of_os(source, _GETTERS):
                default = ast.Constant(None)
            case ast.Call(source, [ast.Constant(str(name)), default], []) | ast.Call(
                source, [ast.Constant(str(name))], [ast.keyword("default", default)]
            ) if self._is_of_os(source, _GETTERS):
                pass
            case _:
                return None
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            return None
        variable = Variable(name)
        variable.has_default = not (isinstance(default, ast.Constant) and default.value in (None, ""))
        return variable

    def _is_of_os(self, node: ast.expr, names: tuple[str, ...]) -> bool:
        """Whether it is one of these names of the module os, which have to be imported under their own names."""
        dotted = _dotted(node)
        if dotted not in names:
            return False
        first = dotted.partition(".")[0]
        imports = [each for each in self._module.body if isinstance(each, ast.Import | ast.ImportFrom)]
        if first == "os":
            return any(isinstance(each, ast.Import) and _binds(each, "os") for each in imports)
        return any(isinstance(each, ast.ImportFrom) and each.module == "os" and _binds(each, first) for each in imports)

    def _refuse(self, node: ast.expr, key: str) -> None:
        found = _named(node) if key in self._harmless else f"an expression for {shown(key)} (not shown)"
        self.problems.append(
            f"line {node.lineno}: found {found}, expected a literal, because the file is not run; write the value"
        )


def _assignments(module: ast.Module) -> Iterator[tuple[str, ast.expr]]:
    """Yield name and value of each top-level assignment, in order."""
    for statement in module.body:
        targets: list[ast.expr] = []
        if isinstance(statement, ast.Assign):
            targets = statement.targets
        elif isinstance(statement, ast.AnnAssign):
            targets = [statement.target]
        if isinstance(statement, ast.Assign | ast.AnnAssign) and statement.value is not None:
            yield from ((target.id, statement.value) for target in targets if isinstance(target, ast.Name))


def _dotted(node: ast.expr) -> str:
    """Return a name with its attributes, "" for any other expression."""
    match node:
        case ast.Name(name):
            return name
        case ast.Attribute(of, name):
            return f"{_dotted(of)}.{name}"
    return ""


def _named(node: ast.expr) -> str:
    match node:
        case ast.Name():
            return node.id
        case ast.Attribute():
            return f"{_named(node.value)}.{node.attr}"
        case ast.Call():
            return f"{_named(node.func)}(...)"
        case ast.Subscript():
            return f"{_named(node.value)}[...]"
    return {ast.JoinedStr: "an f-string", ast.BinOp: "a calculation"}.get(type(node), f"({type(node).__name__})")


def _binds(statement: ast.AST, name: str) -> bool:
    """Whether an import, a function or a class gives this name to something."""
    if isinstance(statement, ast.Import | ast.ImportFrom):
        return any((each.asname or each.name.partition(".")[0]) in (name, "*") for each in statement.names)
    return getattr(statement, "name", None) == name


def _changes(module: ast.Module, name: str, definition: ast.expr) -> Iterator[str]:
    """Yield a problem for module code below the definition that changes the name's value, as that code is not run."""
    nodes: list[ast.AST] = [statement for statement in module.body if statement.lineno > definition.lineno]
    for node in nodes:
        is_scope = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda)
        if not is_scope:  # the name may be another variable there
            nodes.extend(ast.iter_child_nodes(node))
        stores = isinstance(getattr(node, "ctx", None), ast.Store | ast.Del)
        mutates = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _MUTATORS
        root: ast.AST = node
        while isinstance(root, ast.Attribute | ast.Subscript | ast.Call):
            root = root.func if isinstance(root, ast.Call) else root.value
        is_changed = (stores or mutates) and isinstance(root, ast.Name) and root.id == name
        is_bound = isinstance(node, ast.Import | ast.ImportFrom) or is_scope
        if is_changed or (is_bound and _binds(node, name)):
            yield f"line {getattr(node, 'lineno', 0)}: {name} is changed after its definition; write the values there"
