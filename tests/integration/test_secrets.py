"""Secrets of a run, planted in an environment and in a file, stand nowhere but there: not in files, logs or answers."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import EXAMPLES
from tests.integration.nodes import TOKEN, Cluster, cluster

pytestmark = pytest.mark.slow

CANARIES = ("canary-of-the-environment-4711", 'canary "of\\the file" 0815')

# Code that comes with a model, and tells all that it finds in every way that a library has.
TELLTALE = """\
import logging, os, sys, warnings
from transformers import LlamaForCausalLM

class Telltale(LlamaForCausalLM):
    def __init__(self, config):
        super().__init__(config)
        for name in ("HF_TOKEN", "WANDB_API_KEY"):
            secret = os.environ.get(name, "nothing")
            print("printed", secret, repr(secret), flush=True)
            print("told", secret, file=sys.stderr, flush=True)
            logging.getLogger("telltale").error("logged %s", secret)
            warnings.warn("warned of " + secret)
            try:
                raise KeyError(secret)
            except KeyError:
                logging.getLogger("ray.train").exception("caught")
        if config.raises:
            raise ValueError(f"refused: {os.environ['HF_TOKEN']} {os.environ['WANDB_API_KEY']}")
"""

ROUTES = (
    *("/api/jobs/", "/nodes?view=details", "/nodes?view=summary", "/api/cluster_status", "/api/snapshot"),
    *("/logical/actors", "/api/actors/kill", "/api/serve/applications/", "/api/train/v2/runs", "/api/data/datasets"),
    *(
        f"/api/v0/{kind}?detail=1&limit=10000"
        for kind in ("tasks", "actors", "workers", "nodes", "jobs", "runtime_envs", "objects", "placement_groups")
    ),
)


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    place = tmp_path_factory.mktemp("hub")
    planted = {"CANARY_SOURCE": CANARIES[0], "HF_HOME": str(place)}
    with cluster(dashboard=True, variables=planted) as started:
        yield started


@pytest.fixture
def project(tmp_path: Path, shallow_base_dir: Path) -> Path:
    """A directory with a config, data, and a model whose code tells secrets."""
    for name, raises in (("model", False), ("broken", True)):
        shutil.copytree(shallow_base_dir, tmp_path / name)
        (tmp_path / name / "telltale.py").write_text(TELLTALE)
        file = tmp_path / name / "config.json"
        told = json.loads(file.read_text()) | {"auto_map": {"AutoModelForCausalLM": "telltale.Telltale"}}
        file.write_text(json.dumps(told | {"raises": raises}))
    (tmp_path / "work").mkdir()
    for split, count in (("train", 12), ("validation", 5), ("test", 8)):
        lines = (EXAMPLES / f"{split}.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
        (tmp_path / "work" / f"{split}.jsonl").write_text("".join(lines[:count]), encoding="utf-8")
    (tmp_path / "secret.txt").write_text(f"{CANARIES[1]}\n")
    described: dict[str, Any] = {
        "name": "telltale",
        "offline": True,
        "storage_path": str(tmp_path / "runs"),
        "model": {"model_name_or_path": str(tmp_path / "model"), "trust_remote_code": True},
        "datasets": [{split: f"{split}.jsonl" for split in ("train", "validation", "test")}],
        "data": {"max_length": 96},
        "train": {"objective": "pretraining", "max_steps": 1, "bf16": False, "padding_free": False},
        "gate": {"metric": "perplexity", "against": []},
        "registry": {"uri": str(tmp_path / "registry")},
        "secrets": {"HF_TOKEN": {"env": "CANARY_SOURCE"}, "WANDB_API_KEY": {"file": str(tmp_path / "secret.txt")}},
    }
    (tmp_path / "work" / "run.yaml").write_text(json.dumps(described))
    return tmp_path


def submit(head: Cluster, project: Path, verb: str, *overrides: str) -> subprocess.CompletedProcess[str]:
    """The verb as a job, followed to its end."""
    command = [sys.executable, "-m", "luthier.cli", "submit", "run.yaml", "--verb", verb, "--wait"]
    command += ["--address", head.dashboard, *overrides]
    return subprocess.run(
        command, cwd=project / "work", env=head.environment, capture_output=True, text=True, timeout=240, check=False
    )


def traces(head: Cluster, project: Path, done: subprocess.CompletedProcess[str]) -> dict[str, str]:
    """Everything that was printed, written, logged or is answered, by its place; without the planted file."""
    found = {"stdout": done.stdout, "stderr": done.stderr}
    headers = {"Authorization": f"Bearer {TOKEN}"}
    with httpx.Client(base_url=head.dashboard, headers=headers, timeout=30) as client:
        for route in ROUTES:
            found[route] = client.get(route).text
        for job in client.get("/api/jobs/").json():
            found[f"log of {job['submission_id']}"] = client.get(f"/api/jobs/{job['submission_id']}/logs").text
    for place in (project, head.directory):
        for path in place.rglob("*"):
            if path.is_file() and path != project / "secret.txt":
                found[str(path)] = path.read_bytes().decode("utf-8", "replace")
    return found


def places_of_canaries(found: Mapping[str, str]) -> dict[str, list[str]]:
    forms = [form for canary in CANARIES for form in (canary, json.dumps(canary)[1:-1], repr(canary)[1:-1])]
    held = {
        place: [line for line in text.splitlines() if any(form in line for form in forms)]
        for place, text in found.items()
    }
    return {place: lines[:3] for place, lines in held.items() if lines}


def test_secrets_stand_nowhere_after_a_run_that_tells_them(head: Cluster, project: Path) -> None:
    done = submit(head, project, "run")
    assert done.returncode == 0, done.stdout + done.stderr
    found = traces(head, project, done)
    assert any("[secret HF_TOKEN]" in text for text in found.values())  # they were told
    assert any("[secret WANDB_API_KEY]" in text for text in found.values())
    assert any(str(project / "registry") in place for place in found)
    assert places_of_canaries(found) == {}


def test_secrets_stand_nowhere_after_an_error_that_holds_them(head: Cluster, project: Path) -> None:
    done = submit(head, project, "train", f"model.model_name_or_path={project / 'broken'}")
    assert done.returncode == 1
    found = traces(head, project, done)
    assert "refused: [secret HF_TOKEN] [secret WANDB_API_KEY]" in done.stdout
    assert places_of_canaries(found) == {}


def test_what_is_no_secret_of_the_run_is_found(project: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The search can fail: a variable that the config does not name is told, and found in each kind of place."""
    planted = {"HF_TOKEN": CANARIES[0], "WANDB_API_KEY": CANARIES[1], "HF_HOME": str(tmp_path_factory.mktemp("hub"))}
    with cluster(dashboard=True, variables=planted) as head:
        done = submit(head, project, "train", "secrets={}", f"model.model_name_or_path={project / 'broken'}")
        places = places_of_canaries(traces(head, project, done))
    assert "stdout" in places
    assert any(place.startswith("log of") for place in places)
    assert any(str(head.directory) in place for place in places)
    assert any(place.startswith("/api/") for place in places)
