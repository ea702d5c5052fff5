"""Metadata encoders: padding, order, missing values, starts, and the FT-Transformer against its formulas."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers.tiny_networks import END, SHAPE, START, tiny_settings, tiny_tokens
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.tokenizer import SimpleTokenizer
from torch import Tensor, nn
from torch.nn import functional as F

from satmip_train.config import Settings
from satmip_train.models.metadata_encoders import (
    MetadataShape,
    TabularEncoder,
    TextEncoder,
    _longest_input,
    create_metadata_encoder,
)

POSTER_CAPTION = (
    "gsd: [11.4546, 9.1344], multispectral_gsd: 41.1896, pixel_size: [1.03e-04, 8.23e-05], timestamp: 2015-09-21T15:30:08Z, "
    "location: [-73.310776, -3.785814], utm_zone: 18M, country_code: PER, cloud_cover: 14, scan_direction: Reverse, "
    "wavelengths: [661, 545, 477], target_azimuth_angle: 39.12, sun_azimuth_angle: 77.28, sun_elevation_angle: 70.44, "
    "off_nadir_angle: 27.70, sensor_platform: GEOEYE01"
)
DEFAULT_CAPTION = "gsd: [11.4546, 9.1344], timestamp: 2015-09-21T15:30:08Z, location: [-73.310776, -3.785814]"


def text_encoder(shape: MetadataShape = SHAPE, **changes: Any) -> TextEncoder:
    torch.manual_seed(0)
    return TextEncoder(tiny_settings(**changes), shape).eval()


def tabular_encoder(numeric: int, cardinalities: tuple[int, ...], **changes: float) -> TabularEncoder:
    torch.manual_seed(0)
    return TabularEncoder(tiny_settings(**changes), MetadataShape(None, numeric, cardinalities)).eval()


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(("caption", "words"), [(POSTER_CAPTION, 207), (DEFAULT_CAPTION, 67)])
def test_the_posters_caption_needs_207_tokens_and_the_default_one_67(caption: str, words: int) -> None:
    tokenizer = SimpleTokenizer()
    assert len(tokenizer.encode(caption)) == words
    tokens = tokenizer([caption], context_length=words + 2)
    assert tokens[0, 0] == START
    assert tokens[0, -1] == END
    encoder = text_encoder(MetadataShape(words + 2, 0, ()))
    assert encoder({"tokens": tokens}).shape == (1, encoder.width)


@settings(deadline=None, max_examples=15)
@given(words=st.integers(0, SHAPE.context - 2), padding=st.integers(0, SHAPE.context), seed=st.integers(0, 100))
def test_features_of_a_caption_do_not_depend_on_its_padding(words: int, padding: int, seed: int) -> None:
    encoder = text_encoder()
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.tensor([[START, *torch.randint(1, 400, (words,), generator=generator).tolist(), END]])
    padded = F.pad(tokens, (0, min(padding, encoder.context - tokens.shape[1])))
    torch.testing.assert_close(encoder({"tokens": padded}), encoder({"tokens": tokens}), rtol=1e-4, atol=1e-5)


def test_every_token_of_a_caption_counts_as_does_their_order() -> None:
    encoder = text_encoder()
    tokens = torch.tensor([[START, 11, 12, 13, 14, END, 0, 0]])
    expected = encoder({"tokens": tokens})
    for position in range(1, 6):
        changed = tokens.clone()
        changed[0, position] = 99
        assert not torch.allclose(encoder({"tokens": changed}), expected, atol=1e-4), position
    swapped = tokens[:, [0, 2, 1, 3, 4, 5, 6, 7]]
    assert not torch.allclose(encoder({"tokens": swapped}), expected, atol=1e-4)


def test_captions_of_a_batch_do_not_see_each_other() -> None:
    encoder = text_encoder()
    tokens = tiny_tokens(6, torch.Generator().manual_seed(0))
    apart = torch.cat([encoder({"tokens": row[None]}) for row in tokens])
    torch.testing.assert_close(encoder({"tokens": tokens}), apart, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("attend", [False, True])
@pytest.mark.parametrize("pool", ["start", "end"])
def test_features_and_gradients_are_those_of_the_whole_tower(pool: str, attend: bool) -> None:
    encoder = text_encoder(text_pool=pool, text_attend_padding=attend).train().double()
    tokens = tiny_tokens(6, torch.Generator().manual_seed(0))
    weights = torch.randn(6, encoder.width, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found, gradients = [], []
    for features in (encoder({"tokens": tokens}), encoder.transformer(tokens)):
        found.append(features)
        gradients.append(torch.autograd.grad((features * weights).sum(), list(encoder.parameters())))
    torch.testing.assert_close(*found)
    for ours, whole in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, whole)


@pytest.mark.parametrize("attend", [False, True])
def test_the_end_token_is_read_where_it_stands(attend: bool) -> None:
    encoder = text_encoder(text_pool="end", text_attend_padding=attend)
    tokens = tiny_tokens(6, torch.Generator().manual_seed(0))
    tower = encoder.transformer
    for row, found in zip(tokens, encoder({"tokens": tokens}), strict=True):
        # A caption alone, without its padding where that must not be seen, block by block as plain as can be.
        end = row.tolist().index(END)
        x = tower._embeds(row[None] if attend else row[None, : end + 1])[0]
        for block in tower.transformer.resblocks:
            x = block(x)
        torch.testing.assert_close(found, tower.ln_final(x[0, end]), rtol=1e-4, atol=1e-5)
    started = text_encoder(text_attend_padding=attend)
    assert not torch.allclose(started({"tokens": tokens}), encoder({"tokens": tokens}), atol=1e-2)


@pytest.mark.parametrize("pool", ["start", "end"])
def test_captions_attend_to_their_padding_on_demand_and_then_to_that_of_the_whole_context(pool: str) -> None:
    masked, attending = (text_encoder(text_pool=pool, text_attend_padding=attend) for attend in (False, True))
    tokens = torch.tensor([[START, 11, 12, END]])
    for encoder, depends in ((masked, False), (attending, True)):
        before = encoder({"tokens": tokens})
        for width in range(4, SHAPE.context + 1):
            padded = F.pad(tokens, (0, width - 4))
            torch.testing.assert_close(encoder({"tokens": padded}), before, rtol=1e-4, atol=1e-5)
        with torch.no_grad():
            encoder.transformer.token_embedding.weight[0] += torch.linspace(-1, 1, encoder.width)
        assert torch.allclose(encoder({"tokens": F.pad(tokens, (0, 3))}), before, atol=1e-4) != depends


def test_heads_that_do_not_divide_the_width_are_refused() -> None:
    with pytest.raises(ValueError, match=r"--text-width 32 .*--text-heads 5"):
        text_encoder(text_heads=5)
    with pytest.raises(ValueError, match="--tabular-heads 5"):
        tabular_encoder(2, (3,), tabular_heads=5)


def test_captions_longer_than_the_context_are_refused_not_cut() -> None:
    encoder = text_encoder()
    with pytest.raises(ValueError, match=r"13 tokens .*12"):
        encoder({"tokens": torch.ones(2, 13, dtype=torch.int64)})
    with pytest.raises(ValueError, match="longest caption"):
        TextEncoder(tiny_settings(), MetadataShape(None, 3, ()))


def test_the_papers_text_encoder_starts_as_slip_does() -> None:
    torch.manual_seed(0)
    encoder = TextEncoder(Settings(), MetadataShape(77, 0, ()))
    tower, width, layers = encoder.transformer, 512, 3
    assert len(tower.transformer.resblocks) == layers
    assert parameters(tower.token_embedding) == 49408 * width
    assert parameters(tower.transformer) == 9_457_152
    expected = {"token_embedding.weight": 0.02, "positional_embedding": 0.01}
    for i in range(layers):
        block = f"transformer.resblocks.{i}."
        expected[block + "attn.in_proj_weight"] = width**-0.5
        expected[block + "attn.out_proj.weight"] = expected[block + "mlp.c_proj.weight"] = width**-0.5 * (2 * layers) ** -0.5
        expected[block + "mlp.c_fc.weight"] = (2 * width) ** -0.5
    found = dict(tower.named_parameters())
    assert {name for name, parameter in found.items() if parameter.ndim > 1} == set(expected)
    for name, std in expected.items():
        assert found[name].std().item() == pytest.approx(std, rel=0.02), name
    block = tower.transformer.resblocks[0]
    assert block.mlp.c_fc.out_features == 4 * width
    assert block.attn.num_heads == 8
    assert isinstance(block.mlp.gelu, nn.GELU)
    assert tower.text_projection is None


def layer_norm(x: Tensor, weights: dict[str, Tensor], name: str) -> Tensor:
    centred = x - x.mean(dim=-1, keepdim=True)
    return centred / (centred.pow(2).mean(dim=-1, keepdim=True) + 1e-5).sqrt() * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def attention(x: Tensor, weights: dict[str, Tensor], name: str, heads: int) -> Tensor:
    """Multi-head self-attention of one sample, (T, D) -> (T, D), head by head and token by token."""
    q, k, v = (x @ weights[f"{name}.W_{i}.weight"].T + weights[f"{name}.W_{i}.bias"] for i in "qkv")
    size = x.shape[1] // heads
    out = torch.zeros_like(x)
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        for token in range(len(x)):
            scores = torch.stack([q[token, part] @ k[other, part] / math.sqrt(size) for other in range(len(x))])
            shares = scores.exp() / scores.exp().sum()
            out[token, part] = sum(share * v[other, part] for other, share in enumerate(shares))
    return out @ weights[f"{name}.W_out.weight"].T + weights[f"{name}.W_out.bias"]


def ft_transformer(weights: dict[str, Tensor], numeric: Tensor, categories: Tensor, layers: int, heads: int) -> Tensor:
    """The FT-Transformer's paper, section 3.3, for one sample: CLS, a token per feature, pre-norm blocks but the first norm."""
    tokens = [weights["cls_embedding.weight"]]
    for i, value in enumerate(numeric):
        tokens.append(value * weights["cont_embeddings.weight"][i] + weights["cont_embeddings.bias"][i])
    for i, code in enumerate(categories):
        tokens.append(weights[f"cat_embeddings.embeddings.{i}.weight"][code] + weights["cat_embeddings.bias"][i])
    x = torch.stack(tokens)
    for layer in range(layers):
        block = f"backbone.blocks.{layer}"
        x = x + attention(
            x if layer == 0 else layer_norm(x, weights, f"{block}.attention_normalization"), weights, f"{block}.attention", heads
        )
        hidden = layer_norm(x, weights, f"{block}.ffn_normalization") @ weights[f"{block}.ffn.linear1.weight"].T
        a, b = (hidden + weights[f"{block}.ffn.linear1.bias"]).split(weights[f"{block}.ffn.linear2.weight"].shape[1], dim=1)
        x = x + (a * b.clamp(min=0)) @ weights[f"{block}.ffn.linear2.weight"].T + weights[f"{block}.ffn.linear2.bias"]
    return x[0]


def test_tabular_encoder_is_the_ft_transformer_of_its_paper() -> None:
    encoder = tabular_encoder(3, (4, 5))
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    generator = torch.Generator().manual_seed(1)
    numeric, categories = torch.randn(3, 3, generator=generator), torch.tensor([[0, 4], [3, 0], [1, 1]])
    found = encoder({"numeric": numeric, "mask": torch.ones(3, 3, dtype=torch.bool), "categorical": categories})
    weights = encoder.transformer.state_dict()
    expected = [ft_transformer(weights, n, c, layers=2, heads=4) for n, c in zip(numeric, categories, strict=True)]
    torch.testing.assert_close(found.detach(), torch.stack(expected), rtol=1e-3, atol=1e-4)


def test_the_papers_tabular_encoder_has_the_papers_sizes() -> None:
    encoder = TabularEncoder(Settings(), MetadataShape(None, 9, ()))
    block = encoder.transformer.backbone.blocks[1]
    assert (len(encoder.transformer.backbone.blocks), encoder.width) == (3, 192)
    assert block["ffn"].linear2.in_features == 256  # 4/3 of the width, after ReGLU
    assert (block["attention"].dropout.p, block["ffn"].dropout.p) == (0.2, 0.1)
    assert parameters(encoder) == 894_720


def test_numbers_alone_and_categories_alone_are_enough() -> None:
    numbers, categories = tabular_encoder(3, ()), tabular_encoder(0, (4,))
    assert numbers.batch_keys == {"numeric", "mask"}
    assert categories.batch_keys == {"categorical"}
    known = torch.ones(2, 3, dtype=torch.bool)
    assert numbers({"numeric": torch.randn(2, 3), "mask": known}).shape == (2, numbers.width)
    assert categories({"categorical": torch.tensor([[0], [3]])}).shape == (2, categories.width)
    # Columns that were not chosen may be there, empty or not.
    assert numbers({"numeric": torch.randn(2, 3), "mask": known, "categorical": torch.zeros(2, 0)}).shape == (2, numbers.width)
    with pytest.raises(ValueError, match="At least one type of features"):
        tabular_encoder(0, ())


def test_a_missing_number_is_the_mean_of_its_column_whatever_stands_in_its_place() -> None:
    encoder = tabular_encoder(3, ())
    mask = torch.tensor([[True, False, True]])
    expected = encoder({"numeric": torch.tensor([[1.0, 0.0, -2.0]]), "mask": torch.ones_like(mask)})
    for value in (0.0, 7.0, math.nan):
        torch.testing.assert_close(encoder({"numeric": torch.tensor([[1.0, value, -2.0]]), "mask": mask}), expected)


def test_an_unknown_category_has_an_embedding_of_its_own() -> None:
    encoder = tabular_encoder(0, (4,))
    features = encoder({"categorical": torch.arange(4)[:, None]})
    assert torch.cdist(features, features).add(torch.eye(4)).min() > 1e-3


def test_dropout_is_for_training_only() -> None:
    encoder = tabular_encoder(3, (), tabular_attention_dropout=0.5, tabular_ffn_dropout=0.5)
    batch = {"numeric": torch.randn(4, 3), "mask": torch.ones(4, 3, dtype=torch.bool)}
    torch.testing.assert_close(encoder(batch), encoder(batch))
    encoder.train()
    assert not torch.equal(encoder(batch), encoder(batch))


def test_the_settings_choose_the_encoder() -> None:
    text = create_metadata_encoder(tiny_settings(metadata_encoder="text"), SHAPE)
    tabular = create_metadata_encoder(tiny_settings(metadata_encoder="tabular"), SHAPE)
    assert (type(text), type(tabular)) == (TextEncoder, TabularEncoder)
    assert text.batch_keys == {"tokens"}


def test_the_ft_transformer_ends_with_a_norm_on_demand() -> None:
    torch.manual_seed(0)
    plain = TabularEncoder(tiny_settings(metadata_encoder="tabular"), SHAPE).eval()
    normed = TabularEncoder(tiny_settings(metadata_encoder="tabular", tabular_final_norm=True), SHAPE).eval()
    normed.transformer.load_state_dict(plain.transformer.state_dict())
    batch = {
        "numeric": torch.randn(5, SHAPE.numeric), "mask": torch.ones(5, SHAPE.numeric, dtype=torch.bool),
        "categorical": torch.zeros(5, len(SHAPE.cardinalities), dtype=torch.int64),
    }  # fmt: skip
    torch.testing.assert_close(normed(batch), torch.nn.functional.layer_norm(plain(batch), (plain.width,)))


@pytest.mark.parametrize(("kind", "longest"), [("bert", 514), ("roberta", 512), ("xlm-roberta", 512)])
def test_a_roberta_takes_fewer_tokens_than_it_has_positions(kind: str, longest: int) -> None:
    """It numbers them from behind the id of padding."""
    config = SimpleNamespace(model_type=kind, max_position_embeddings=514, pad_token_id=1)
    assert _longest_input(config) == longest
