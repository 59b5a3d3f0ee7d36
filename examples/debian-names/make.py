"""Make the rows of this directory out of ../debian-sections: python make.py, without arguments.

Of a package's description the synopsis is the prompt, and the package's name is what is to be said.
"""

from __future__ import annotations

import json
from pathlib import Path

HERE = Path(__file__).parent
SOURCE = HERE.parent / "debian-sections"
ROWS = {"train": 600, "validation": 100, "test": 200}


def main() -> None:
    """Write each split's last rows."""
    for split, count in ROWS.items():
        lines = (SOURCE / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
        with (HERE / f"{split}.jsonl").open("w", encoding="utf-8") as stream:
            for line in lines[-count:]:
                name, _, synopsis = json.loads(line)["text"].partition(": ")
                stream.write(json.dumps({"prompt": synopsis, "completion": name}, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
