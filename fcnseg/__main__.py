"""The console script `fcnseg`: `fcnseg train ...` is `python -m fcnseg.train ...`."""

import ast
import os
import runpy
import sys
from pathlib import Path

from fcnseg.texts import say

PACKAGE = Path(__file__).parent
COMMANDS = ("train", "evaluate", "predict", "export", "check", "report", "benchmark")


def main() -> None:
    """Run the command that the command line begins with; list all commands if it is empty."""
    name, *rest = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        say(overview(), sys.stdout)
    elif name in COMMANDS:
        sys.path.insert(0, os.getcwd())  # as `python -m` does: modules of the user's own may lie there
        sys.argv[1:] = rest
        runpy.run_module(f"fcnseg.{name}", run_name="__main__", alter_sys=True)
    else:
        from fcnseg.cli.messages import EXIT_WRONG_USE, leave, nearest  # imports Hydra, which the overview need not wait for

        leave(f"no command '{name}'; {nearest(name, COMMANDS)}fcnseg --help lists all commands", EXIT_WRONG_USE)


def overview() -> str:
    """The commands, each with the first words of its module's docstring. They are read: imports would take seconds."""
    lines = ["fcnseg <command> [setting=value ...]; fcnseg <command> --help lists a command's settings", ""]
    for name in COMMANDS:
        path = next(path for path in (PACKAGE / f"{name}.py", PACKAGE / name / "__main__.py") if path.exists())
        docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        lines.append(f"  {name:<11}{docstring.partition(':')[0]}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
