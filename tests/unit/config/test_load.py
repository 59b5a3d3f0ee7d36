"""Configuration: what loads, what is refused and how the refusal reads."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from luthier.config import (
    RunConfig,
    apply_overrides,
    config_hash,
    dump_yaml,
    json_schema,
    load_config,
    with_absolute_paths,
)
from luthier.errors import ConfigError

ROOT = Path(__file__).parents[3]
SHIPPED = sorted((ROOT / "configs").rglob("*.yaml"))
MINIMAL = "name: demo\nmodel:\n  model_name_or_path: some/model\ndatasets:\n  - train: train.jsonl\n"


def write(directory: Path, text: str) -> Path:
    path = directory / "run.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def refusal(directory: Path, text: str, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(write(directory, text), overrides)
    return str(caught.value)


def test_there_are_shipped_configs() -> None:
    assert [path.name for path in SHIPPED]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: str(path.stem))
def test_shipped_config_loads_and_survives_a_round_trip(path: Path, tmp_path: Path) -> None:
    cfg = load_config(path)
    again = load_config(write(tmp_path, dump_yaml(cfg)))
    assert again == cfg
    assert config_hash(again) == config_hash(cfg)


def test_every_setting_survives_a_round_trip(tmp_path: Path) -> None:
    text = MINIMAL + (
        "train: {strategy: deepspeed, deepspeed: z3, lora_target_modules: [q_proj, v_proj], max_steps: 7}\n"
        "tune:\n  metric: loss\n  search_space:\n"
        "    train.learning_rate: {type: loguniform, low: 1e-5, high: 1e-3}\n"
        "    train.lora_r: {type: choice, values: [4, 8]}\n"
        "    train.lora_dropout: {type: quniform, low: 0, high: 0.5, q: 0.1}\n"
        "    seed: {type: randint, low: 0, high: 9}\n"
        "  overrides: {train.num_workers: 1}\n"
    )
    cfg = load_config(write(tmp_path, text))
    assert cfg.tune is not None
    assert [domain.type for domain in cfg.tune.search_space.values()] == ["loguniform", "choice", "quniform", "randint"]
    again = load_config(write(tmp_path, dump_yaml(cfg)))
    assert again == cfg
    assert config_hash(again) == config_hash(cfg)


def test_hash_tells_configs_apart_and_ignores_the_order_of_keys(tmp_path: Path) -> None:
    cfg = load_config(write(tmp_path, MINIMAL))
    turned = yaml.safe_dump(dict(reversed(yaml.safe_load(MINIMAL).items())), sort_keys=False)
    assert turned != MINIMAL
    assert config_hash(load_config(write(tmp_path, turned))) == config_hash(cfg)
    assert config_hash(apply_overrides(cfg, {"seed": 7})) != config_hash(cfg)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("train:\n  lerning_rate: 1\n", "run.yaml:7: unknown key 'train.lerning_rate'; did you mean 'learning_rate'?"),
        ("datasets2: []\n", "run.yaml:6: unknown key 'datasets2'; did you mean 'datasets'?"),
        ("train:\n  xyzzy: 1\n", "run.yaml:7: unknown key 'train.xyzzy'; valid keys are objective, method,"),
        ("train:\n  num_workers: many\n", "run.yaml:7: train.num_workers is 'many':"),
        ("train:\n  num_workers: 0\n", "run.yaml:7: train.num_workers is 0: Input should be greater than or equal"),
        ("train:\n  learning_rate: .nan\n", "run.yaml:7: train.learning_rate is nan:"),
        ("train:\n  bf16: sometimes\n", "run.yaml:7: train.bf16 is 'sometimes':"),
        ("train: [1]\n", "run.yaml:6: train is [1]:"),
        ("seed: 1\nseed: 2\n", "run.yaml:7: key 'seed' stands at line 6 already; keep one."),
        (
            "tune:\n  metric: loss\n  search_space:\n    train.seed: {type: uniform, low: 2, high: 1}\n",
            "run.yaml:9: tune.search_space.train.seed: low 2.0 must be below high 1.0.",
        ),
        (
            "tune:\n  metric: loss\n  search_space:\n    train.seed: {type: uniform, low: 1, hihg: 2, high: 3}\n",
            "run.yaml:9: unknown key 'tune.search_space.train.seed.hihg'; did you mean 'high'?",
        ),
    ],
)
def test_a_bad_key_or_value_is_named_with_its_line(text: str, expected: str, tmp_path: Path) -> None:
    message = refusal(tmp_path, MINIMAL + text)
    assert message.startswith(f"{tmp_path}/{expected}")
    assert "\n" not in message


def test_every_problem_is_told_at_once(tmp_path: Path) -> None:
    message = refusal(tmp_path, MINIMAL + "seed: -1\ntrain:\n  lora_r: 0\n  bf17: true\n")
    assert [line.partition(": ")[0] for line in sorted(message.splitlines())] == [
        f"{tmp_path}/run.yaml:{line}" for line in (6, 8, 9)
    ]


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    message = refusal(tmp_path, "name: demo\nmodel:\n  model_name_or_path: x\n")
    assert message == f"{tmp_path}/run.yaml: 'datasets' is missing; add it."


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (["train.strategy=deepspeed"], "strategy: deepspeed needs train.deepspeed"),
        (["train.deepspeed=z2"], "train.deepspeed=z2 is set but strategy is ddp"),
        (["train.method=full", "train.use_dora=true"], "use_dora needs method: lora"),
        (["train.resources_per_worker={GPU: 0}"], "a worker needs some CPU or GPU"),
        (["train.resources_per_worker={CPU: -1}"], "CPU: -1.0 is negative"),
        (["train.lora_r=128"], "train.lora_r=128 is above serve.max_lora_rank=64"),
        (["evaluate.max_new_tokens=1024"], "leaves no room for a prompt in serve.max_model_len=1024"),
        (["tune={search_space: {seed: {type: randint, low: 1, high: 3}}}"], "no dataset has a validation file"),
        (["datasets.0.test=train.jsonl"], "train, validation and test must be different files"),
        (["datasets=[{train: a.jsonl}, {train: b.jsonl}]"], "datasets[].name must be distinct; got ['data', 'data']"),
        (["datasets.0.prompt=Which?"], "prompt 'Which?' has no {text}"),
        (["datasets.0.labels=[a, a]"], "must be at least two, each once"),
        (["datasets=[]"], "datasets is []"),
        (["name=Not a slug"], "name is 'Not a slug'"),
    ],
)
def test_rules_between_settings(settings: list[str], expected: str, tmp_path: Path) -> None:
    assert expected in refusal(tmp_path, MINIMAL, *settings)


def test_overrides_win_in_their_order_and_are_read_as_yaml(tmp_path: Path) -> None:
    cfg = load_config(
        write(tmp_path, MINIMAL + "seed: 1\n"),
        ["seed=2", "seed=3", "train.learning_rate=1e-4", "train.bf16=false", "datasets.0.system=a=b", "tune=null"],
    )
    assert (cfg.seed, cfg.train.learning_rate, cfg.train.bf16, cfg.datasets[0].system) == (3, 1e-4, False, "a=b")


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("seed", "override 'seed' is not of the form key=value"),
        ("=1", "override '=1' is not of the form key=value"),
        ("seed=[", "override 'seed=[': the value is not valid YAML"),
        ("sead=1", "override 'sead=1': unknown key 'sead'; did you mean 'seed'?"),
        ("seed=one", "override 'seed=one': seed is 'one':"),
        ("train.lora_rank=4", "override 'train.lora_rank=4': unknown key 'train.lora_rank'; did you mean 'lora_r'?"),
        ("datasets.4.train=x", "override 'datasets.4.train=x': datasets.4 does not exist"),
        ("name.first=x", "override 'name.first=x': name.first does not exist"),
    ],
)
def test_a_bad_override_is_quoted(override: str, expected: str, tmp_path: Path) -> None:
    assert refusal(tmp_path, MINIMAL, override).startswith(expected)


def test_apply_overrides_checks_and_leaves_the_original_alone(tmp_path: Path) -> None:
    cfg = load_config(write(tmp_path, MINIMAL))
    changed = apply_overrides(cfg, {"train.lora_r": 8, "model.revision": "main"})
    assert (changed.train.lora_r, changed.model.revision) == (8, "main")
    assert (cfg.train.lora_r, cfg.model.revision) == (16, None)
    with pytest.raises(ConfigError, match=r"override train\.lora_r=0: train\.lora_r is 0"):
        apply_overrides(cfg, {"train.lora_r": 0})
    with pytest.raises(ConfigError, match=r"unknown key 'train\.lora_q'"):
        apply_overrides(cfg, {"train.lora_q": 1})


def test_a_config_is_frozen(tmp_path: Path) -> None:
    cfg: Any = load_config(write(tmp_path, MINIMAL))
    with pytest.raises(ValidationError, match="frozen"):
        cfg.seed = 1
    with pytest.raises(ValidationError, match="frozen"):
        cfg.train.lora_r = 1


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", ":1: the file holds NoneType; it must be a mapping of config keys."),
        (b"- a\n", ":1: the file holds list"),
        (b"name: [\n", ": not valid YAML: line 2, column 1:"),
        (b"name: !!python/object/apply:os.getcwd []\n", ": not valid YAML: line 1, column 7:"),
        (b"name: \xff\n", "can't be read"),
    ],
)
def test_a_file_that_is_no_config_is_refused(content: bytes, expected: str, tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert expected in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "no.yaml", tmp_path):
        with pytest.raises(ConfigError, match="does not exist; give the path of a YAML file"):
            load_config(path)


def test_base_model_is_another_name_of_the_model(tmp_path: Path) -> None:
    cfg = load_config(write(tmp_path, MINIMAL.replace("model_name_or_path", "base_model")))
    assert cfg.model.model_name_or_path == "some/model"


def test_schema_describes_every_field() -> None:
    schema = json_schema()
    assert set(schema["properties"]) == set(RunConfig.model_fields)
    undocumented = [
        f"{name}.{field}"
        for name, model in {**schema["$defs"], "RunConfig": schema}.items()
        for field, described in model["properties"].items()
        if not {"description", "$ref"} & described.keys() and field != "type"
    ]
    assert undocumented == []


def test_importing_the_config_imports_neither_torch_nor_ray() -> None:
    probe = "import sys, luthier.config; print(sorted({'torch', 'ray', 'transformers'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", probe], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


SWEEP = MINIMAL + (
    "    validation: v.jsonl\n"
    "train: {learning_rate: 3e-4, max_steps: 9}\n"
    "tune:\n  search_space:\n    train.learning_rate: {type: loguniform, low: 1e-6, high: 1e-3}\n"
)


def test_nested_overrides_of_a_sweep_leave_the_rest_of_the_section(tmp_path: Path) -> None:
    text = SWEEP + "  overrides: {train: {max_steps: 4, resources_per_worker: {GPU: 1}}, seed: 7}\n"
    cfg = load_config(write(tmp_path, text))
    assert cfg.tune is not None
    assert cfg.tune.overrides == {"train.max_steps": 4, "train.resources_per_worker": {"GPU": 1}, "seed": 7}
    trial = apply_overrides(cfg, cfg.tune.overrides)
    assert (trial.train.max_steps, trial.train.learning_rate) == (4, 3e-4)
    twice = SWEEP + "  overrides: {train: {max_steps: 4}, train.max_steps: 5}\n"
    assert "train.max_steps is set twice" in refusal(tmp_path, twice)


def test_an_override_reaches_into_a_sweeps_dotted_keys(tmp_path: Path) -> None:
    overrides = [
        "tune.search_space.train.learning_rate.low=1e-5",
        "tune.search_space.train.lora_r={type: choice, values: [4, 8]}",
        "tune.overrides.train.max_steps=4",
    ]
    cfg = load_config(write(tmp_path, SWEEP), overrides)
    assert cfg.tune is not None
    space = {path: domain.model_dump(exclude={"when"}) for path, domain in cfg.tune.search_space.items()}
    assert space["train.learning_rate"] == {"type": "loguniform", "low": 1e-5, "high": 1e-3}
    assert space["train.lora_r"]["values"] == (4, 8)
    assert cfg.tune.overrides == {"train.max_steps": 4}
    nested = SWEEP + "  overrides: {train: {max_steps: 4}}\n"
    cfg = load_config(write(tmp_path, nested), ["tune.overrides.train.max_steps=5"])
    assert cfg.tune is not None
    assert cfg.tune.overrides == {"train.max_steps": 5}


@pytest.mark.parametrize("names", [("model_name_or_path", "base_model"), ("base_model", "model_name_or_path")])
def test_either_name_of_the_model_overrides_the_other(names: tuple[str, str], tmp_path: Path) -> None:
    text = MINIMAL.replace("model_name_or_path", names[0])
    assert load_config(write(tmp_path, text), [f"model.{names[1]}=other"]).model.model_name_or_path == "other"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("storage_path: 2024-13-45\n", "line 6, column 15: '2024-13-45' is not a valid timestamp"),
        ("seed: !!int foo\n", "line 6, column 7: 'foo' is not a valid int"),
        ("offline: !!bool foo\n", "'foo' is not a valid bool"),
        ("train: &again {max_steps: *again}\n", "an anchor holds itself"),
        ("datasets2: &again [*again]\n", "an anchor holds itself"),
    ],
)
def test_yaml_values_that_can_not_be_are_refused(text: str, expected: str, tmp_path: Path) -> None:
    message = refusal(tmp_path, MINIMAL + text)
    assert expected in message
    assert "\n" not in message


@pytest.mark.parametrize("override", ["train.²=1", "seed=2024-13-45", "datasets.²=1", "datasets.1.train=x"])
def test_overrides_that_can_not_be_are_refused(override: str, tmp_path: Path) -> None:
    assert f"override '{override}'" in refusal(tmp_path, MINIMAL, override)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("evaluate: {few_shot_k: 0}\n", "gate.against names few_shot"),
        ("evaluate: {limit: 5}\n", "evaluate.limit=5 is too few"),
        ("gate: {min_value: 1.5}\n", "less than or equal to 1"),
        ("gate: {min_delta: 2}\n", "less than or equal to 1"),
    ],
)
def test_a_gate_that_nothing_can_pass_is_refused(text: str, expected: str, tmp_path: Path) -> None:
    assert expected in refusal(tmp_path, MINIMAL + text)
    load_config(write(tmp_path, MINIMAL + "evaluate: {few_shot_k: 0, limit: 5}\ngate: {against: []}\n"))
    load_config(write(tmp_path, MINIMAL + "evaluate: {limit: 6}\n"))


def test_absolute_paths_mean_the_same_from_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    cfg = load_config(write(tmp_path, MINIMAL + "registry: {uri: s3://bucket/registry}\n"))
    resolved = with_absolute_paths(apply_overrides(cfg, {"model.model_name_or_path": "model"}))
    assert resolved.datasets[0].train == str(tmp_path / "train.jsonl")
    assert (resolved.datasets[0].test, resolved.storage_path) == (None, str(tmp_path / "runs"))
    assert resolved.model.model_name_or_path == str(tmp_path / "model")
    assert resolved.registry.uri == "s3://bucket/registry"
    monkeypatch.chdir("/")
    assert with_absolute_paths(resolved) == resolved
    assert with_absolute_paths(cfg).model.model_name_or_path == "some/model"
