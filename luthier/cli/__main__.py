"""``python -m luthier.cli``: the command line where the console script is not on the path, as in a submitted job."""

from __future__ import annotations

from luthier.cli import main

main()
