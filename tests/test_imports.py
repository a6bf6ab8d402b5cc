"""Which module may import which: read from the source, so that nothing has to run."""

import ast
import re
import sys
from graphlib import TopologicalSorter
from importlib import import_module
from pathlib import Path

import pytest

import fcnseg

PACKAGE = Path(fcnseg.__file__).parent
FACTS = {
    "fcnseg.names",
    "fcnseg.errors",
    "fcnseg.texts",
    "fcnseg.data",
    "fcnseg.data.settings",
    "fcnseg.data.voc",
    "fcnseg.data.dataset",
}
NETWORKS = {"torch", "torchvision", "torchmetrics"}  # all that networks, losses, metrics, augmentations use


def module_name(path):
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")


SOURCES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}
PACKAGES = [path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()]
COMMANDS = {name for name, path in SOURCES.items() if "\n@command(" in path.read_text()}
LISTED = re.compile(r"^([\w, ]+): ", re.M)  # what a package's docstring lists, a line each


def listed(package):
    return [name for names in LISTED.findall(import_module(package).__doc__) for name in names.split(", ")]


LAYERS = listed("fcnseg")  # from the ground up: a layer imports itself and the layers before it, and nothing else of ours


def layer(name):
    """The file or the folder of a module: fcnseg.data.voc is in "data"."""
    return name.split(".")[1]


def named(node):
    """The modules that an import statement names: of `from a import b`, a.b where that is a module, else a."""
    if isinstance(node, ast.Import):
        return {alias.name for alias in node.names}
    assert not node.level, "imports are absolute"
    inner = {f"{node.module}.{alias.name}" for alias in node.names}
    modules = {name for name in inner if name in SOURCES}
    return modules if modules == inner else modules | {node.module}


def imports(name, *, at_import_only=False):
    """What a module imports: anywhere in it, or only when it is imported itself."""
    tree = ast.parse(SOURCES[name].read_text())
    statements = tree.body if at_import_only else ast.walk(tree)
    return set().union(*(named(node) for node in statements if isinstance(node, (ast.Import, ast.ImportFrom))))


def ours(name):
    return {module for module in imports(name) if module.startswith("fcnseg")}


def libraries(name):
    return {module.split(".")[0] for module in imports(name)} - sys.stdlib_module_names - {"fcnseg"}


def test_every_command_is_known():
    assert {name.removeprefix("fcnseg.") for name in COMMANDS} == {
        *("train", "evaluate", "predict"),
        *("export.__main__", "check.__main__", "report.__main__", "benchmark.__main__"),
    }


@pytest.mark.parametrize("name", SOURCES)
def test_nobody_imports_a_command(name):
    assert not ours(name) & COMMANDS


@pytest.mark.parametrize("name", [name for name in SOURCES if "." in name])
def test_imports_run_downwards_lazy_ones_too(name):
    below = LAYERS[: LAYERS.index(layer(name)) + 1]
    assert {layer(module) for module in ours(name) if "." in module} <= set(below)


@pytest.mark.parametrize("name", SOURCES)
def test_hydra_is_known_to_few(name):
    few = ("fcnseg.cli.", "fcnseg.benchmark.", "fcnseg.build", "fcnseg.fit", "fcnseg.settings.", "fcnseg.runs.")
    if name not in COMMANDS and not name.startswith(few):
        assert not libraries(name) & {"hydra", "omegaconf"}


@pytest.mark.parametrize("name", [n for n in SOURCES if n.startswith("fcnseg.models")])
def test_a_network_knows_torch_and_blocks(name):
    assert libraries(name) <= NETWORKS | ({"segmentation_models_pytorch"} if name == "fcnseg.models.smp" else set())
    assert {module for module in ours(name) if not module.startswith("fcnseg.models.")} <= FACTS


@pytest.mark.parametrize("name", ["fcnseg.learning.losses", "fcnseg.data.augment"])
def test_a_piece_knows_torch_and_the_facts(name):
    assert libraries(name) <= NETWORKS
    assert ours(name) <= FACTS


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("fcnseg.data.voc", {"fcnseg.data.decode", "fcnseg.data.dataset"}),
        ("fcnseg.data.dataset", {"fcnseg.texts"}),
        (
            "fcnseg.learning.task",
            {
                *(f"fcnseg.learning.{name}" for name in ("metrics", "image_metrics", "losses")),
                *("fcnseg.data.batch", "fcnseg.data.dataset"),
            },
        ),
        (
            "fcnseg.learning.divided_task",
            {
                *("fcnseg.learning.task", "fcnseg.learning.losses"),
                *("fcnseg.data.batch", "fcnseg.data.dataset", "fcnseg.machine.distributed"),
            },
        ),
        ("fcnseg.learning.metrics", {*FACTS, "fcnseg.learning.formulas", "fcnseg.data.batch"}),
        ("fcnseg.learning.formulas", set()),
        (
            "fcnseg.learning.image_metrics",
            {
                *FACTS,
                *("fcnseg.learning.metrics", "fcnseg.learning.formulas"),
                *("fcnseg.models.enlarge", "fcnseg.data.batch"),
            },
        ),
        ("fcnseg.data.pictures", FACTS),
        ("fcnseg.data.transforms", {*FACTS, "fcnseg.data.augment", "fcnseg.data.batch"}),
        ("fcnseg.data.mixing", {*FACTS, "fcnseg.data.augment", "fcnseg.data.transforms"}),
    ],
)
def test_known_modules(name, known):
    assert ours(name) <= known


@pytest.mark.parametrize("name", [n for n in SOURCES if n.startswith("fcnseg.data")])
def test_data_knows_data_files_and_warnings_only(name):
    asks = ["fcnseg.machine.distributed"] if name in ("fcnseg.data.module", "fcnseg.data.loader") else []
    machine = {f"fcnseg.machine.{name}" for name in ("files", "limits", "threads")}
    known = {*machine, "fcnseg.errors", "fcnseg.texts", *asks}
    assert {module for module in ours(name) if layer(module) != "data"} <= known


def test_no_cycles():
    graph = {name: imports(name) & SOURCES.keys() for name in SOURCES}
    TopologicalSorter(graph).prepare()  # raises CycleError


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_says_what_its_modules_are(package):
    modules = {name.split(".")[2] for name in SOURCES if name.startswith(f"fcnseg.{package}.")} - {"__main__"}
    assert modules <= {*listed(f"fcnseg.{package}")}
