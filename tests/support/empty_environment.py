"""An environment as a user makes it: empty, but for the wheel and what the wheel says that it needs.

What it needs is linked from the environment of the tests, distribution by distribution, so that no network is used and what is not
declared is not there.
"""

import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def needed(requirements: list[str]) -> dict[str, metadata.Distribution]:
    """The distributions that requirements lead to, by name: what they require, and so on. Raises if one is not installed."""
    found: dict[str, metadata.Distribution] = {}
    seen: set[tuple[str, str]] = set()
    queue = [(Requirement(one), "") for one in requirements]
    while queue:
        wanted, extra = queue.pop()
        if wanted.marker and not wanted.marker.evaluate({"extra": extra}):
            continue
        name = canonicalize_name(wanted.name)
        distribution = found.setdefault(name, metadata.distribution(name))
        for inner in ("", *wanted.extras):
            if (name, inner) not in seen:
                seen.add((name, inner))
                queue += [(Requirement(one), inner) for one in distribution.requires or ()]
    return found


class EmptyEnvironment:
    """A virtual environment in a folder, with pip alone."""

    def __init__(self, folder: Path) -> None:
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        self.folder = folder
        self.python = folder / "bin" / "python"
        code = "import sysconfig; print(sysconfig.get_path('purelib'))"
        self.packages = Path(self.run(self.python, "-c", code, cwd=folder).stdout.strip())

    def run(self, *command: object, cwd: Path) -> subprocess.CompletedProcess[str]:
        """Run a command with nothing of the checkout in its surroundings. Raises with what it printed if it fails."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        kept |= {"PATH": f"{self.folder / 'bin'}:{kept['PATH']}", "VIRTUAL_ENV": str(self.folder)}
        done = subprocess.run(
            list(map(str, command)), cwd=cwd, env=kept, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done

    def install(self, wheel: Path) -> None:
        """Install a wheel and nothing else, without a network."""
        self.run(self.python, "-m", "pip", "install", "--no-index", "--no-deps", wheel, cwd=self.folder)

    def link(self, requirements: list[str]) -> set[str]:
        """Link what the requirements lead to into the environment; returns the distributions' names."""
        distributions = needed(requirements)
        for distribution in distributions.values():
            root = Path(str(distribution.locate_file("")))
            for top in {file.parts[0] for file in distribution.files or () if file.parts[0] != ".."}:
                here = self.packages / top
                if (root / top).exists() and not here.exists():
                    here.symlink_to(root / top)
        return set(distributions)
