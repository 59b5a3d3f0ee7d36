"""The pass of ``luthier data check`` over a large file, with no cache, against a plain ``datasets`` map with two processes.

Both read the same JSONL file of questions and answers and make token ids and labels of it with the same tokenizer and chat
template; luthier's side also looks for duplicates, leakage, personal data and languages. Each turn is a process of its own
with caches of its own. On luthier's side Ray is up before the clock starts, as it is for whoever checks before training;
the processes that tokenise start within it, as do those of the other side.

    vs_datasets       megabytes a second, luthier / datasets (higher is better)
    mb_per_s          megabytes of the file a second, luthier
    peak_memory_mb    most megabytes that luthier's processes held of their own, together
    memory_growth     the same at the whole file / at half of it (1: it does not grow with the file)
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).parent))

from harness.sides import paired_ratio
from harness.workloads import ROOT, base_config, python_reference

from luthier.trainers.base_model import prepare_base

MB = 1_000_000
CPUS = 2
MAX_LENGTH = 512
SAMPLE_EVERY_S = 0.25
TARGETS = {"vs_datasets": 1.0, "mb_per_s": None, "peak_memory_mb": None, "memory_growth": 1.15}

Told = dict[str, float]


def main() -> None:
    """Measure in turns and print the figures as JSON on the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=1000, help="size of the file")
    parser.add_argument("--rounds", type=int, default=1, help="turns of each side")
    options = parser.parse_args()
    os.chdir(ROOT)
    base_dir = prepare_base(base_config().model, offline=True)
    found: dict[str, list[Told]] = {"luthier": [], "datasets": [], "half": []}
    with tempfile.TemporaryDirectory(prefix="data-throughput-") as directory:
        whole, half = Path(directory) / "whole.jsonl", Path(directory) / "half.jsonl"
        rows = write_rows(whole, options.megabytes * MB)
        write_rows(half, options.megabytes * MB // 2)
        for turn in range(options.rounds):
            for name in ("luthier", "datasets")[:: 1 if turn % 2 == 0 else -1]:
                side = by_luthier if name == "luthier" else by_datasets
                found[name].append(timed(side, whole, base_dir))
                tell(name, found[name][-1])
            found["half"].append(timed(by_luthier, half, base_dir))
            tell("half the file", found["half"][-1])
    settings = {
        "megabytes": options.megabytes,
        "rows": rows,
        "max_length": MAX_LENGTH,
        "cpus": CPUS,
        "rounds": options.rounds,
        "tokenizer": "SmolLM2-135M-Instruct",
        "datasets_peak_memory_mb": round(median_of(found["datasets"], "peak_mb")),
        "memory": "sum over the processes of pages that no other process has (USS); Ray's object store, at most 256 MB, is shared",
    }
    print(json.dumps(list(figures(found, settings))))


def tell(name: str, told: Told) -> None:
    """Print what a turn came to."""
    print(
        f"{name:14} {told['mb_per_s']:7.2f} MB/s  {told['seconds']:7.1f} s  {told['rows']:9,.0f} rows  "
        f"peak {told['peak_mb']:6.0f} MB",
        flush=True,
    )


def write_rows(path: Path, size_bytes: int) -> int:
    """Write questions and answers of uneven length, drawn by a seed from the Python reference; none comes twice.

    Returns:
        How many rows the file has.
    """
    draw = random.Random(0)
    pieces = [paragraph for row in python_reference() for paragraph in row.answer.split("\n\n") if len(paragraph) > 40]
    written, number = 0, 0
    with path.open("w", encoding="utf-8") as file:
        while written < size_bytes:
            number += 1
            answer = "\n\n".join(draw.sample(pieces, draw.randint(1, 6)))
            row = {"prompt": f"What does the Python reference say? ({number})", "completion": answer}
            written += file.write(json.dumps(row) + "\n")
    return number


def timed(side: Callable[[Path, Path, str, Any], None], path: Path, base_dir: Path) -> Told:
    """One turn in a process of its own, its memory and that of all processes it starts."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    with tempfile.TemporaryDirectory(prefix="data-turn-") as cache:
        process = context.Process(target=side, args=(path, base_dir, cache, sender))
        process.start()
        sender.close()
        assert process.pid is not None
        peak = Peak(process.pid)
        try:
            seconds, rows = receiver.recv()
        except EOFError:
            sys.exit("a side failed; its traceback stands above")
        finally:
            process.join()
            peak.stop()
    return {
        "seconds": seconds,
        "rows": rows,
        "mb_per_s": path.stat().st_size / MB / seconds,
        "peak_mb": peak.most_bytes / MB,
    }


class Peak:
    """Watches how much memory a process and its descendants hold of their own.

    Args:
        pid: The process.

    Attributes:
        most_bytes: The most so far.
    """

    def __init__(self, pid: int) -> None:
        self.most_bytes = 0
        self._process = psutil.Process(pid)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Watch no longer."""
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(SAMPLE_EVERY_S):
            try:
                family = [self._process, *self._process.children(recursive=True)]
            except psutil.NoSuchProcess:
                return
            self.most_bytes = max(self.most_bytes, sum(map(_own_bytes, family)))


def _own_bytes(process: psutil.Process) -> int:
    try:
        return int(process.memory_full_info().uss)
    except psutil.Error:  # it ended meanwhile
        return 0


def by_luthier(path: Path, base_dir: Path, cache: str, sender: Any) -> None:
    """The pass of ``luthier data check``."""
    os.environ["LUTHIER_CACHE"] = cache
    from luthier.cluster.session import start
    from luthier.trainers.data_report import check_data

    source = {"name": "data", "train": str(path)}
    cfg = base_config(
        f"datasets={json.dumps([source])}",
        f"data.max_length={MAX_LENGTH}",
        "tune=null",
        "data.max_train_samples=null",
        "data.max_dropped_fraction=0.5",
        f"cluster.num_cpus={CPUS}",
    )
    with start(cfg):
        began = time.monotonic()
        report = check_data(cfg, base_dir)
        sender.send((time.monotonic() - began, report.splits["train"].account.rows))


def by_datasets(path: Path, base_dir: Path, cache: str, sender: Any) -> None:
    """What is usually written with ``datasets``: load, map a function over batches by two processes."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    import datasets

    datasets.disable_progress_bars()
    began = time.monotonic()
    loaded = datasets.load_dataset("json", data_files=str(path), cache_dir=cache, split="train")
    tokenised = loaded.map(
        tokenise, batched=True, num_proc=CPUS, remove_columns=loaded.column_names, fn_kwargs={"base_dir": str(base_dir)}
    )
    sender.send((time.monotonic() - began, len(tokenised)))


def tokenise(batch: dict[str, list[str]], base_dir: str) -> dict[str, list[list[int]]]:
    """Token ids of rows, and labels of their answers."""
    tokenizer = tokenizer_of(base_dir)
    ids, labels = [], []
    for prompt, answer in zip(batch["prompt"], batch["completion"], strict=True):
        turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
        asked = tokenizer.apply_chat_template(turns[:1], add_generation_prompt=True, return_dict=False)
        whole = tokenizer.apply_chat_template(turns, return_dict=False)
        ids.append(whole[:MAX_LENGTH])
        labels.append(([-100] * len(asked) + whole[len(asked) :])[:MAX_LENGTH])
    return {"input_ids": ids, "labels": labels}


_TOKENIZERS: dict[str, Any] = {}


def tokenizer_of(base_dir: str) -> Any:
    """The tokenizer, read once in each process."""
    from transformers import AutoTokenizer

    if base_dir not in _TOKENIZERS:
        _TOKENIZERS[base_dir] = AutoTokenizer.from_pretrained(base_dir)
    return _TOKENIZERS[base_dir]


def median_of(turns: list[Told], name: str) -> float:
    """Of one figure."""
    return statistics.median(told[name] for told in turns)


def figures(found: dict[str, list[Told]], settings: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The figures in the form of all benchmarks."""
    speeds = {name: [told["mb_per_s"] for told in turns] for name, turns in found.items()}
    peaks = {name: [told["peak_mb"] for told in turns] for name, turns in found.items()}
    values = {
        "vs_datasets": paired_ratio(speeds["luthier"], speeds["datasets"]),
        "mb_per_s": (statistics.median(speeds["luthier"]), min(speeds["luthier"]), max(speeds["luthier"])),
        "peak_memory_mb": (statistics.median(peaks["luthier"]), min(peaks["luthier"]), max(peaks["luthier"])),
        "memory_growth": paired_ratio(peaks["luthier"], peaks["half"]),
    }
    for name, (ratio, low, high) in values.items():
        spread = {"ratio": round(ratio, 3), "low": round(low, 3), "high": round(high, 3)}
        yield {"name": name, **spread, "target": TARGETS[name], "settings": settings}


if __name__ == "__main__":
    main()
