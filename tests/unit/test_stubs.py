"""The stubs of the compiled core say what the built modules have: names and parameters."""

from __future__ import annotations

import ast
import enum
import importlib
import inspect
import pkgutil
from pathlib import Path
from types import ModuleType

import pytest

import underpass.core

STUBS = Path(underpass.core.__path__[0])
MODULES = sorted(module.name for module in pkgutil.iter_modules(underpass.core.__path__))

SPECIAL = {"__len__", "__iter__", "__getitem__", "__setitem__", "__delitem__", "__contains__"}
"""What else of the double-underscored names a reader would miss."""


def stub_of(name: str) -> ast.Module:
    return ast.parse((STUBS / f"{name}.pyi").read_text(encoding="utf-8"))


def built(name: str) -> ModuleType:
    return importlib.import_module(f"underpass.core.{name}")


def is_public(name: str) -> bool:
    return not name.startswith("_") or name in SPECIAL


def own_names(module: ModuleType) -> set[str]:
    """What a module defines; what it only imported belongs to another stub."""
    found = set()
    for name, value in vars(module).items():
        if name.startswith("_"):
            continue
        home = getattr(value, "__module__", module.__name__)
        if isinstance(value, ModuleType) or (isinstance(value, type) and home != module.__name__):
            continue
        if isinstance(value, enum.Enum):
            continue  # Cython exports the members of its enumerations as well
        found.add(name)
    return found


def stub_names(body: list[ast.stmt]) -> set[str]:
    names = set()
    for node in body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
            names.add(node.name)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
        elif isinstance(node, ast.Assign):
            names.update(each.id for each in node.targets if isinstance(each, ast.Name))
    return {name for name in names if is_public(name)}


def members(kind: type) -> set[str]:
    return {name for name in vars(kind) if is_public(name)}


def parameters(function: ast.FunctionDef) -> list[str]:
    spec = function.args
    every = [*spec.posonlyargs, *spec.args, *spec.kwonlyargs]
    return [each.arg for each in every if each.arg not in ("self", "cls")]


def signature_of(value: object) -> list[str] | None:
    try:
        found = inspect.signature(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return [name for name in found.parameters if name not in ("self", "cls")]


def test_there_are_modules_to_compare() -> None:
    assert {"frames", "h2", "relay", "endpoint", "streams", "heads"} <= set(MODULES)


@pytest.mark.parametrize("name", MODULES)
def test_every_module_has_a_stub_that_says_what_it_is(name: str) -> None:
    assert ast.get_docstring(stub_of(name))


@pytest.mark.parametrize("name", MODULES)
def test_a_stub_names_what_its_module_has(name: str) -> None:
    names = stub_names(stub_of(name).body)
    assert names <= own_names(built(name))
    elsewhere = {each for other in MODULES for each in stub_names(stub_of(other).body)}
    assert own_names(built(name)) - names <= elsewhere, "neither in the stub nor imported"


@pytest.mark.parametrize("name", MODULES)
def test_the_classes_of_a_stub_have_the_members_of_the_built_ones(name: str) -> None:
    for node in stub_of(name).body:
        if not isinstance(node, ast.ClassDef) or not is_public(node.name):
            continue
        kind = getattr(built(name), node.name)
        if issubclass(kind, enum.Enum):
            values = {
                each.targets[0].id: ast.literal_eval(each.value)
                for each in node.body
                if isinstance(each, ast.Assign) and isinstance(each.targets[0], ast.Name)
            }
            assert values == {member.name: member.value for member in kind}
            continue
        names = stub_names(node.body)
        assert names <= members(kind), node.name
        # What a class overrides its base's stub has said already.
        assert members(kind) - names <= {each for base in kind.__bases__ for each in dir(base)}
        assert [base.id for base in node.bases if isinstance(base, ast.Name)] == [
            base.__name__ for base in kind.__bases__ if base is not object
        ], node.name


@pytest.mark.parametrize("name", MODULES)
def test_functions_and_methods_have_the_parameters_they_say(name: str) -> None:
    module = stub_of(name)
    scopes: list[tuple[object, list[ast.stmt]]] = [(built(name), module.body)]
    scopes += [
        (getattr(built(name), node.name), node.body)
        for node in module.body
        if isinstance(node, ast.ClassDef) and is_public(node.name)
    ]
    for owner, body in scopes:
        for each in body:
            if isinstance(each, ast.FunctionDef) and not each.decorator_list:
                actual = signature_of(getattr(owner, each.name))
                if actual is not None and not each.name.startswith("__"):
                    assert actual == parameters(each), each.name


def test_signatures_of_compiled_functions_can_be_read() -> None:
    """Or the comparison above would compare nothing."""
    h2 = built("h2")
    assert signature_of(h2.H2Connection.forward) == ["exchange"]
    assert signature_of(h2.H2Connection.sweep) == [
        "first_byte_timeout",
        "idle_timeout",
        "total_timeout",
    ]
