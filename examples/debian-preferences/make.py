"""Make the preference pairs of this directory out of ../debian-sections: python make.py, without arguments.

Of a package's description its own section is to be preferred to another, drawn evenly by a fixed seed.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

HERE = Path(__file__).parent
SOURCE = HERE.parent / "debian-sections"
SEED = 42
ROWS = {"train": 600, "validation": 100}


def main() -> None:
    """Write each split's first rows as pairs."""
    draw = random.Random(SEED)
    for split, count in ROWS.items():
        lines = (SOURCE / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines]
        sections = sorted({row["label"] for row in rows})
        with (HERE / f"{split}.jsonl").open("w", encoding="utf-8") as stream:
            for row in rows[:count]:
                other = draw.choice([section for section in sections if section != row["label"]])
                pair = {"prompt": row["text"], "chosen": row["label"], "rejected": other}
                stream.write(json.dumps(pair, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
