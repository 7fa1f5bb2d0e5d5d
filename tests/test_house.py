"""The house stands: packages import downwards only, modules in no circle, and each has a test file of its name."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
STAND_ALONE = {"ops", "_version"}
# What each may import beside itself.
BELOW = {
    "_version": set(),
    "ops": set(),
    "data": {"ops"},
    "metrics": {*STAND_ALONE, "kernels"},
    "plotting": {"ops"},
    "serialization": STAND_ALONE,
    "nn": {"ops"},
    "kernels": {"ops"},
    "transforms": {"ops", "nn", "kernels"},
    "distributions": {"ops", "nn", "transforms", "plotting", "serialization"},
    "models": {"ops", "nn", "transforms", "distributions", "serialization"},
    "infer": {"ops", "nn", "transforms", "distributions", "models"},
    "training": {
        *STAND_ALONE,
        "data",
        "plotting",
        "serialization",
        "nn",
        "kernels",
        "transforms",
        "distributions",
        "models",
    },
    "testing": {"transforms"},
}
# The only circle: a report shows itself by a table of reports.
AS_A_TYPE = {("pyro_pcflow.metrics.comparison", "pyro_pcflow.metrics.report")}
BELOW["cli"] = {*BELOW}
BELOW["__main__"] = {"cli"}


def modules():
    """Every module of the package by its name; the front door is left out, which leads everywhere."""
    found = {}
    for path in sorted((ROOT / "pyro_pcflow").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    del found["pyro_pcflow"]
    return found


MODULES = modules()


class WithoutTypes(ast.NodeTransformer):
    """Leave out what only a type checker imports."""

    def visit_If(self, node):
        return None if ast.unparse(node.test) == "TYPE_CHECKING" else self.generic_visit(node)


def imports(path, *, types):
    """Modules of the package that one imports, within functions, too."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree if types else WithoutTypes().visit(tree)):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            names = [f"{node.module}.{name}" for name in names]
        for name in names:
            if name.split(".")[0] == "pyro_pcflow":
                yield name if name in MODULES else name.rpartition(".")[0]


@pytest.mark.parametrize("name", MODULES)
def test_imports_lead_down(name):
    own = name.split(".")[1]
    found = imports(MODULES[name], types=True)
    others = {other.split(".")[1] if "." in other else "the front door" for other in found} - {own}
    assert others <= BELOW[own]


def test_no_circle():
    graph = {name: {*imports(path, types=True)} - {name} for name, path in MODULES.items()}
    for name, other in AS_A_TYPE:
        graph[name].remove(other)
        assert other not in imports(MODULES[name], types=False)
    TopologicalSorter(graph).prepare()


LOOKUPS = {"getattr", "hasattr", "getattr_static", "attrgetter", "methodcaller"}
OWN = "a field of an object of ours, by its name"
# Of rooms that a user's module goes through, what may be looked up beside `training/objective.py`, and why.
ALLOWED = {
    "pyro_pcflow.distributions.point_cloud": {"getattr(mask, 'dtype', type(mask).__name__)": "words of an error"},
    "pyro_pcflow.distributions.thinning": {
        "getattr(self, field.name)": OWN,
        "getattr(log_retention, 'batch_shape', torch.Size())": "a function may say its batch shape, as documented",
        "getattr(self.log_retention, 'batch_shape', torch.Size())": "as above",
    },
    "pyro_pcflow.infer.bayesian_weights": {"getattr(self, key)": "reading a PyroSample samples it"},
    "pyro_pcflow.kernels.cpu.build": {"hasattr(os, 'geteuid')": "Windows has none"},
    "pyro_pcflow.kernels.cpu.threads": {
        "hasattr(os, 'register_at_fork')": "Windows has none",
        "except AttributeError": "a symbol of OpenMP that a library may lack",
    },
    "pyro_pcflow.metrics.comparison": {"getattr(report.protocol, name)": OWN},
    "pyro_pcflow.metrics.protocol": {"getattr(self, field.name)": OWN, "getattr(other, field.name)": OWN},
    "pyro_pcflow.metrics.report": {
        "except (AttributeError, KeyError, TypeError, ValueError)": "a file may hold anything in place of a report"
    },
    "pyro_pcflow.nn.conditioner": {"getattr(self, name)": OWN},
    "pyro_pcflow.training.options": {"getattr(self, name)": OWN},
    "pyro_pcflow.training.run_config": {"getattr(options, option)": OWN},
}
ROOMS = ("nn", "kernels", "transforms", "distributions", "models", "infer", "metrics", "training", "cli")


def lookups(path):
    """What is looked up by a name in a string, or guessed by what it raises."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", None)
            if name in LOOKUPS:
                yield ast.unparse(node)
        elif isinstance(node, ast.ExceptHandler) and node.type and "AttributeError" in ast.unparse(node.type):
            yield f"except {ast.unparse(node.type)}"


@pytest.mark.parametrize("name", [name for name in MODULES if name.split(".")[1] in ROOMS])
def test_attributes_of_a_users_module_are_looked_up_in_one_place(name):
    """What a module may offer is asked in `training/objective.py`, where the protocol is written down."""
    if name != "pyro_pcflow.training.objective":
        assert {*lookups(MODULES[name])} == {*ALLOWED.get(name, {})}


def test_every_module_has_a_test_file_of_its_name():
    places = [path.relative_to(ROOT / "pyro_pcflow") for path in MODULES.values() if not path.name.startswith("_")]
    expected = [Path("tests") / place.with_name(f"test_{place.name}") for place in places]
    assert [str(path) for path in expected if not (ROOT / path).is_file()] == []
