"""Fields hidden at random, and pretrained sentence encoders, which read the same captions."""

import io
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.poster import POSTER
from helpers.tiny_networks import tiny_settings
from helpers.toy_shards import write_toy_shards
from helpers.training_runs import TINY
from rich.console import Console

from satmip_data.metadata.captions import STYLES, caption
from satmip_data.metadata.fields import FIELDS
from satmip_data.metadata.serialize import metadata_to_json
from satmip_data.records import Metadata
from satmip_train.config import Settings
from satmip_train.data.captions import CaptionReader, caption_reader, caption_statistics
from satmip_train.data.dataset import open_dataset
from satmip_train.data.loader import TrainingStream
from satmip_train.data.metadata_mask import MetadataMask
from satmip_train.data.order import Order
from satmip_train.data.tar import Readers
from satmip_train.distributed import Job
from satmip_train.errors import UsageError
from satmip_train.models.metadata_encoders import PretrainedTextEncoder, create_metadata_encoder
from satmip_train.objectives.base import MetadataShape
from satmip_train.training.batches import choose
from satmip_train.training.plan import RunPlan, plan_run
from satmip_train.training.train import train

ALL = tuple(field.name for field in FIELDS)
STORED = ("gsd", "timestamp", "location", "cloud_cover")
JOB = Job(torch.device("cpu"))


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy_shards(tmp_path_factory.mktemp("toy") / "shards", {"train": 40}, shards=2, size=(24, 24), fields=STORED)


def plan_of(toy: Path, ranks: int = 1, rank: int = 0, **changes: Any) -> RunPlan:
    plan = plan_run(Settings(**{**TINY, **changes}), open_dataset(toy), JOB)
    return replace(plan, order=replace(plan.order, rank=rank, ranks=ranks))


def batch_of(plan: RunPlan, keys: set[str], step: int) -> dict[str, Any]:
    stream = TrainingStream(Readers(plan.dataset, "train"), plan.order, replace(plan.decoder, keys=frozenset(keys)))
    return stream[step]


def sample(metadata: Metadata, stored: str = "") -> Callable[[str], bytes]:
    """What gives the members of a sample."""
    return {"txt": stored.encode(), "json": json.dumps({"metadata": metadata_to_json(metadata)}).encode()}.__getitem__


@pytest.mark.parametrize("style", STYLES)
def test_captions_are_written_without_what_is_hidden(style: str) -> None:
    known = replace(POSTER, platform="St. Lucia. Mk. II, gsd: 3", country_code="e.g. U.S. Virgin", cloud_cover=None)
    reader = CaptionReader(ALL, True, 999, style)
    for hidden in (*((i,) for i in range(len(ALL))), (0, 3, 14), tuple(range(len(ALL)))):
        kept = [name for i, name in enumerate(ALL) if i not in hidden]
        assert reader.text(sample(known), [i in hidden for i in range(len(ALL))]) == caption(known, kept, style)


def test_captions_that_are_stored_are_read_and_others_are_written() -> None:
    assert CaptionReader(STORED, True, 99).text(sample(POSTER, "stored"), [False] * 4) == "stored"
    assert CaptionReader(STORED, False, 99).text(sample(POSTER, "stored")) == caption(POSTER, STORED)


def test_the_columns_of_a_hidden_field_are_missing_together() -> None:
    mask = MetadataMask(0.5, ("gsd", "location", "country_code"), ("gsd", "gsd", "location", "location"), ("country_code",))
    batch = {"mask": torch.tensor([[True, True, True, False]] * 3), "categorical": torch.tensor([[4], [5], [6]]), "numeric": "kept"}
    hidden = mask.hidden(np.array([[0.9, 0.9, 0.9], [0.49, 0.9, 0.1], [0.5, 0.0, 0.9]]))
    assert hidden.tolist() == [[False] * 3, [True, False, True], [False, True, False]]
    found = mask.hide(batch, hidden)
    assert found["mask"].tolist() == [[True, True, True, False], [False, False, True, False], [True, True, False, False]]
    assert found["categorical"].tolist() == [[4], [0], [6]]
    assert found["numeric"] == "kept"
    assert batch["categorical"].tolist() == [[4], [5], [6]]


@pytest.mark.parametrize(
    ("encoder", "keys"), [("text", {"tokens"}), ("tabular", {"mask", "categorical", "numeric"})], ids=["text", "tabular"]
)
def test_what_is_hidden_follows_from_seed_and_step_whatever_the_ranks(toy: Path, encoder: str, keys: set[str]) -> None:
    changes: dict[str, Any] = {"metadata_encoder": encoder, "metadata_mask": 0.5}
    if encoder == "tabular":
        changes["fields"] = ("gsd", "time", "loc", "country")
    plain = plan_of(toy, **{**changes, "metadata_mask": 0.0})
    assert plain.decoder.hiding is None
    (one, again), two = (plan_of(toy, **changes) for _ in range(2)), [plan_of(toy, 2, rank, **changes) for rank in range(2)]
    other = plan_of(toy, **changes, seed=1)
    for key in sorted(keys):
        found = [batch_of(one, keys, step)[key] for step in (0, 5)]  # the same samples in another epoch
        assert torch.equal(found[1], batch_of(again, keys, 5)[key])
        assert torch.equal(found[1], torch.cat([batch_of(part, keys, 5)[key] for part in two]))
        if key != "numeric":
            assert not torch.equal(found[0], batch_of(plain, keys, 0)[key])
            assert not torch.equal(found[0], batch_of(other, keys, 0)[key])


def test_the_share_of_hidden_fields_is_the_setting() -> None:
    order = Order((4096,), 1024, 3, 16)
    draws = np.concatenate([order.draws(step, 4, 3) for step in range(4)])
    assert MetadataMask(0.3, ("a", "b", "c")).hidden(draws).mean(axis=0) == pytest.approx([0.3] * 3, abs=0.03)
    assert abs(np.corrcoef(draws.T)[0, 1]) < 0.05
    assert not np.allclose(order.draws(0, 3, 3), order.draws(0, 4, 3))


@pytest.mark.parametrize("data", ["auto", "resident"])
def test_a_run_that_hides_fields_reads_them_anew_each_time(toy: Path, data: str) -> None:
    assert not choose(plan_of(toy, metadata_mask=0.4, epochs=9, data=data), 0).resident
    assert choose(plan_of(toy, epochs=9, data="resident"), 0).resident


# Pretrained sentence encoders


@pytest.fixture(scope="module", params=["bert", "roberta"])
def sentence_encoder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model and a tokenizer of a few characters, with random weights; padding is 0 in one and 1 in the other."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed (extra hf)")
    tokenizers = pytest.importorskip("tokenizers")
    folder = tmp_path_factory.mktemp(request.param)
    special = ["[PAD]", "[CLS]", "[SEP]", "[UNK]"] if request.param == "bert" else ["[CLS]", "[PAD]", "[SEP]", "[UNK]"]
    words = [*special, *"abcdefghijklmnopqrstuvwxyz0123456789_:,.[]-", *(f"##{c}" for c in "abcdefghijklmnopqrstuvwxyz0123456789_")]
    vocabulary = {word: number for number, word in enumerate(words)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = tokenizers.normalizers.Lowercase()
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    ends = [("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])]
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    names = {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]", "unk_token": "[UNK]"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)
    torch.manual_seed(0)
    kinds = {
        "bert": (transformers.BertConfig, transformers.BertModel),
        "roberta": (transformers.RobertaConfig, transformers.RobertaModel),
    }
    config, model = kinds[request.param]
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    padding = {"pad_token_id": vocabulary["[PAD]"], "max_position_embeddings": 200, "vocab_size": len(words)}
    model(config(**sizes, **padding), add_pooling_layer=False).save_pretrained(folder)
    return folder


def pretrained(folder: Path, context: int = 40, **changes: Any) -> PretrainedTextEncoder:
    settings = tiny_settings(metadata_encoder="pretrained", text_model=str(folder), **changes)
    encoder = create_metadata_encoder(settings, MetadataShape(context, 0, ()))
    assert isinstance(encoder, PretrainedTextEncoder)
    return encoder


def test_a_pretrained_encoder_gives_the_mean_of_its_last_states(sentence_encoder: Path) -> None:
    transformers = pytest.importorskip("transformers")
    model = transformers.AutoModel.from_pretrained(sentence_encoder, add_pooling_layer=False).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(sentence_encoder)
    encoder, reader = pretrained(sentence_encoder).eval(), CaptionReader(("gsd",), True, 40, model=str(sentence_encoder))
    texts = ["gsd: [1.5, 2.5]", "gsd: 7", ""]
    tokens = torch.from_numpy(np.stack([reader.tokens(text) for text in texts]))
    found = encoder({"tokens": tokens})
    for row, text in zip(found, texts, strict=True):
        inputs = tokenizer(text, return_tensors="pt")
        expected = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).last_hidden_state[0].mean(dim=0)
        torch.testing.assert_close(row, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(encoder({"tokens": tokens[:1, : int((tokens[0] != 0).sum())]}), found[:1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("tune", [False, True])
def test_a_pretrained_encoder_is_frozen_or_tuned(sentence_encoder: Path, tune: bool) -> None:
    encoder = pretrained(sentence_encoder, text_tune=tune).train()
    assert {parameter.requires_grad for parameter in encoder.parameters()} == {tune}
    assert encoder.tower.training == tune
    found = encoder({"tokens": torch.tensor([[3, 6, 7, 4, 0]])})
    assert found.shape == (1, encoder.width) == (1, 16)
    assert found.requires_grad == tune
    if tune:
        found.sum().backward()
        assert [name for name, parameter in encoder.named_parameters() if parameter.grad is None] == []


def test_a_run_reads_captions_with_the_encoders_own_tokens_and_cuts_nothing(
    toy: Path, tmp_path: Path, sentence_encoder: Path
) -> None:
    dataset = open_dataset(toy)
    changes = {"metadata_encoder": "pretrained", "text_model": str(sentence_encoder), "objective": "satmip"}
    plan = plan_of(toy, **changes)
    clip = plan_of(toy)
    assert plan.shape.context is not None
    assert clip.shape.context is not None
    # The tiny tokenizer splits into characters, CLIP's does not.
    assert plan.shape.context > clip.shape.context
    tokens = batch_of(plan, {"tokens"}, 0)["tokens"]
    assert tokens.shape == (8, plan.shape.context)
    assert caption_statistics(dataset, "train", caption_reader(dataset, None, str(sentence_encoder))).longest == plan.shape.context
    settings = Settings(**{**TINY, **changes, "max_steps": 2})
    assert train(settings, dataset, tmp_path, JOB, Console(file=io.StringIO())) == 0
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert all(math.isfinite(line["loss"]) for line in lines if "loss" in line)


def test_captions_longer_than_the_model_takes_are_refused(sentence_encoder: Path) -> None:
    limit = 200 if "roberta" not in sentence_encoder.name else 198
    assert pretrained(sentence_encoder, limit).context == limit
    with pytest.raises(ValueError, match=rf"longest caption has {limit + 1} tokens, and .* takes {limit}\."):
        pretrained(sentence_encoder, limit + 1)


def test_wrong_sentence_encoders_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="transformers is not installed (extra hf)")
    with pytest.raises(ValueError, match="--metadata-encoder pretrained needs a sentence encoder"):
        tiny_settings(metadata_encoder="pretrained")
    with pytest.raises(ValueError, match="--text-model bert"):
        tiny_settings(text_model="bert")
    for content in ({}, {"model_type": "gpt2"}):
        (tmp_path / "config.json").write_text(json.dumps(content))
        with pytest.raises(ValueError, match="--text-model"):
            pretrained(tmp_path)
    with pytest.raises(UsageError, match="--text-model"):
        CaptionReader(("gsd",), True, 9, model=str(tmp_path / "none")).tokens("gsd: 1")
