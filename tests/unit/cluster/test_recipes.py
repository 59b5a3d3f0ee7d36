"""Recipes are valid by the schemas and linters of those who read them, which refuse broken ones."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from typer.testing import CliRunner

from luthier.cli.app import app
from luthier.cluster.environment import ALWAYS
from luthier.cluster.recipes.render import FILES, make_recipe, render
from luthier.errors import ConfigError

BIN = Path(sys.executable).parent
KUBERAY = json.loads((Path(__file__).parent / "schemas" / "kuberay.json").read_text(encoding="utf-8"))
KUBERNETES = "1.34"
LAUNCHER = ("aws", "gcp", "onprem")
KUBE = ("rayjob", "rayservice")

VARIANTS: tuple[tuple[str, ...], ...] = (
    (),
    (
        "worker.gpus=0",
        "min_workers=1",
        "models=[demo@1, demo@champion]",
        "shared.mount=/mnt/all",
        "config=/mnt/all/r.yaml",
    ),
)


def launcher_problem(text: str) -> str | None:
    """What Ray's own cluster launcher has against a file."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    try:
        validate_config(prepare_config(yaml.safe_load(text)))
    except (jsonschema.ValidationError, ValueError, KeyError) as error:
        return str(error)
    return None


def kube_problem(text: str) -> str | None:
    """What KubeRay and Kubernetes have against a manifest."""
    try:
        manifest = yaml.safe_load(text)
        jsonschema.validate(manifest, KUBERAY)
        for template in pod_templates(manifest):
            pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, **template}
            kubernetes_validate.validate(pod, KUBERNETES, strict=True)
    except (jsonschema.ValidationError, yaml.YAMLError) as error:
        return str(error)
    return None


def pod_templates(manifest: dict[str, Any]) -> Iterator[dict[str, Any]]:
    spec = manifest["spec"]
    cluster = spec.get("rayClusterSpec") or spec["rayClusterConfig"]
    yield cluster["headGroupSpec"]["template"]
    yield from (group["template"] for group in cluster["workerGroupSpecs"])


def linted(*command: str) -> Callable[[str], str | None]:
    def problem(text: str) -> str | None:
        done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
        return (done.stdout + done.stderr) or "refused" if done.returncode else None

    return problem


shell_problem = linted(str(BIN / "shellcheck"), "--shell=bash", "-")
container_problem = linted(str(BIN / "hadolint"), "--failure-threshold=info", "-")
PROBLEM: dict[str, Callable[[str], str | None]] = {
    **dict.fromkeys(LAUNCHER, launcher_problem),
    **dict.fromkeys(KUBE, kube_problem),
    "slurm": shell_problem,
    "container": container_problem,
}


@pytest.mark.parametrize("assignments", VARIANTS, ids=["default", "changed"])
@pytest.mark.parametrize("name", FILES)
def test_every_recipe_is_valid(name: str, assignments: tuple[str, ...]) -> None:
    assert PROBLEM[name](render(make_recipe(assignments), name)) is None


@pytest.mark.parametrize(
    ("name", "sound", "broken"),
    [
        *((name, "max_workers: ", "max_worker: ") for name in LAUNCHER),
        ("aws", "head_node_type: head", "head_node_type: boss"),
        ("gcp", "provider:", "providers:"),
        ("onprem", "ssh_user:", "ssh_name:"),
        *((name, "gcsFaultToleranceOptions:", "gcsFaultTolerance:") for name in KUBE),
        *((name, "backend: rocksdb", "backend: rocks") for name in KUBE),
        *((name, "volumeMounts:", "volumeMount:") for name in KUBE),
        *((name, "runAsUser: 1000", "runAsUser: luthier") for name in KUBE),
        ("rayjob", "entrypoint:", "entryPoint:"),
        ("rayservice", "serveConfigV2:", "serveConfig:"),
        ("slurm", "done", "don"),
        ("slurm", 'mkdir -p "$state"', "mkdir -p $state"),
        ("container", "FROM python:", "FRON python:"),
        ("container", "USER 1000", "USER root"),
    ],
)
def test_a_broken_recipe_is_refused(name: str, sound: str, broken: str) -> None:
    text = render(make_recipe(), name)
    assert sound in text
    assert PROBLEM[name](text.replace(sound, broken)) is not None


@pytest.mark.parametrize("name", FILES)
def test_every_recipe_has_luthiers_environment_and_no_secret(name: str) -> None:
    text = render(make_recipe(), name)
    environment = dict(re.findall(r"(\w+)=(\S+)", text.replace("--env=", ""))) | dict(
        re.findall(r'- name: (\w+)\n +value: "(.*)"', text)
    )
    assert {key: environment.get(key) for key in ALWAYS} == ALWAYS
    assert "RAY_AUTH_TOKEN=" not in text
    assert not re.search(r"\b[0-9a-f]{32,}\b", text.replace("0" * 17, ""))
    if name != "container":
        assert environment.get("RAY_AUTH_MODE") == "token" or "mode: token" in text
        assert "rocksdb" in text
        assert "usage-stats" in text


def test_slurm_script_is_one_for_bash() -> None:
    done = subprocess.run(
        ["bash", "-n"], input=render(make_recipe(), "slurm"), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_container_holds_what_is_installed_here() -> None:
    from importlib.metadata import version

    assert f'torch=={version("torch").partition("+")[0]}"' in render(make_recipe(), "container")
    assert f'rayVersion: "{version("ray")}"' in render(make_recipe(), "rayjob")


@pytest.mark.parametrize(
    ("assignment", "told"),
    [
        ("worker.gpu=4", "unknown key 'worker.gpu'; did you mean 'gpus'?"),
        ("max_workers=0", "max_workers is 0"),
        ("min_workers=9", "min_workers=9 must not be more than max_workers=8"),
        ("config=/elsewhere/run.yaml", "must lie below shared.mount='/shared'"),
        ("name=Up_Per", "name is 'Up_Per'"),
        ("image='x; rm -rf /'", "image is 'x; rm -rf /'"),
        ("nothing", "not of the form key=value"),
    ],
)
def test_a_wrong_setting_is_told_with_its_key(assignment: str, told: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(told)):
        make_recipe([assignment])


def test_the_command_prints_writes_once_and_knows_near_names(tmp_path: Path) -> None:
    run = CliRunner()
    shown = run.invoke(app, ["cluster", "recipe", "rayjob", "--set", "worker.gpus=4"])
    assert (shown.exit_code, yaml.safe_load(shown.stdout)["kind"]) == (0, "RayJob")
    arguments = ["cluster", "recipe", "all", "--output", str(tmp_path / "out"), "--json"]
    assert run.invoke(app, [*arguments, "--dry-run"]).exit_code == 0
    assert list(tmp_path.iterdir()) == []
    written = json.loads(run.invoke(app, arguments).stdout)["files"]
    assert sorted(written) == sorted(str(path) for path in (tmp_path / "out").iterdir())
    again = run.invoke(app, arguments)
    assert isinstance(again.exception, ConfigError)
    assert "exists already" in str(again.exception)
    assert "did you mean 'rayjob'" in str(run.invoke(app, ["cluster", "recipe", "rayjobs"]).exception)
