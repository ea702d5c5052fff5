"""Metadata encoders: captions or tabular features of a batch -> features (supplement B)."""

import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from open_clip.hf_configs import arch_dict
from open_clip.hf_model import HFTextEncoder
from open_clip.transformer import TextTransformer
from rtdl_revisiting_models import FTTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from satmip_data.errors import cause, install
from satmip_data.names import MOST_LISTED
from satmip_train.config import Settings

VOCABULARY = 49408
"""Number of CLIP BPE tokens; the last two are the start and the end of a caption."""
POOLING = {"start": "first", "end": "argmax"}
"""open_clip's names of the tokens that `text_pool` names."""


@dataclass(frozen=True, slots=True)
class MetadataShape:
    """What the metadata of a shard directory ask of an encoder."""

    context: int | None
    """Tokens of the longest caption, start and end included; None where captions are not used."""
    numeric: int
    """Number of chosen numeric columns."""
    cardinalities: tuple[int, ...]
    """For each chosen categorical column the number of its codes, 0 = unknown included."""


class CaptionEncoder(nn.Module, ABC):
    """What reads the token ids of captions."""

    batch_keys = frozenset({"tokens"})
    width: int
    """Of the features."""

    def __init__(self, shape: MetadataShape) -> None:
        """Raise ValueError where the shards' captions were not measured."""
        super().__init__()
        if shape.context is None:
            raise ValueError("The textual metadata encoder needs the length of the longest caption, which was not measured.")
        self.context = shape.context

    def forward(self, batch: Mapping[str, Any]) -> Tensor:
        """Return the features of the captions of a batch.

        Shape:
            batch["tokens"]: (B, L) int64, L <= context, padded with 0
            returns: (B, width)

        Raises:
            ValueError: the tokens are longer than the context. Nothing is cut: it would lose fields in silence.
        """
        tokens = batch["tokens"]
        if tokens.shape[1] > self.context:
            raise ValueError(f"Captions of {tokens.shape[1]} tokens are longer than the context of {self.context}.")
        return self.features(tokens)

    @abstractmethod
    def features(self, tokens: Tensor) -> Tensor:
        """Return the features of token rows that fit. Shape: (B, L) int64 -> (B, width)."""


class TextEncoder(CaptionEncoder):
    """BERT-style Transformer over the tokens of a caption: pre-norm, bidirectional, learned positions, output at one token.

    It is open_clip's text tower without the causal mask, which starts its weights as SLIP does.

    NOTE[DIFF] the paper takes "the CLS token" of a sequence that has none in CLIP's BPE; the start token stands for it, or the
    end token (`text_pool`). It does not say whether attention sees padding either; here it does not, so that features do not
    depend on the padding, unless `text_attend_padding` is set: then all captions are padded to the context.
    """

    def __init__(self, settings: Settings, shape: MetadataShape) -> None:
        """Raise ValueError where the shards' captions were not measured or the width is no multiple of the heads."""
        super().__init__(shape)
        if settings.text_width % settings.text_heads:
            raise ValueError(
                f"--text-width {settings.text_width} is no multiple of --text-heads {settings.text_heads}. Use another "
                "--text-heads."
            )
        self.width = settings.text_width
        self.at_end = settings.text_pool == "end"
        self.transformer = TextTransformer(
            context_length=self.context,
            vocab_size=VOCABULARY,
            width=settings.text_width,
            heads=settings.text_heads,
            layers=settings.text_layers,
            mlp_ratio=4.0,
            no_causal_mask=True,
            use_pad_mask=not settings.text_attend_padding,
            pad_id=0,
            pool_type=POOLING[settings.text_pool],
            proj_type="none",
        )

    def features(self, tokens: Tensor) -> Tensor:
        """See `CaptionEncoder.features`.

        Only one token is read of the last layer, so only it is computed there: features and gradients are those of the whole
        tower, for 72% of its work.
        """
        tower = self.transformer
        if not tower.use_pad_mask:
            # What is attended to must not follow from the longest caption of a batch.
            tokens = F.pad(tokens, (0, self.context - tokens.shape[1]))
        states, mask = tower._embeds(tokens)
        *blocks, last = tower.transformer.resblocks
        for block in blocks:
            states = block(states, attn_mask=mask)
        known = last.ln_1(states)
        one = self._read(states, tokens)
        # The mask is that of the keys, the same for each query.
        one = one + last.attention(self._read(known, tokens), known, known, None if mask is None else mask[:, :1])
        one = one + last.mlp(last.ln_2(one))
        features: Tensor = tower.ln_final(one[:, 0])
        return features

    def _read(self, states: Tensor, tokens: Tensor) -> Tensor:
        """Return the state of the token that stands for the caption. Shape: (B, L, D), (B, L) -> (B, 1, D)."""
        if not self.at_end:
            return states[:, :1]
        # The end token has the largest of all ids.
        return states.gather(1, tokens.argmax(1)[:, None, None].expand(-1, 1, states.shape[2]))


class PretrainedTextEncoder(CaptionEncoder):
    """A BERT-like sentence encoder of the Hugging Face hub in open_clip's text tower: the mean of its last states over the tokens.

    NOTE[DIFF] The paper trains its encoders from scratch; a pretrained one is that of the work on which its captions are
    modelled (Zheng et al. 2023, "EXIF as Language"). Frozen, it also keeps its dropout off.
    """

    caption_length: Tensor

    def __init__(self, settings: Settings, shape: MetadataShape) -> None:
        """Raise ValueError where there is no such model, open_clip cannot hold it, or captions are longer than it takes."""
        super().__init__(shape)
        name, self.frozen = str(settings.text_model), not settings.text_tune
        config = _pretrained_config(name)
        self.width = int(config.hidden_size if hasattr(config, "hidden_size") else config.d_model)
        self.padding = int(config.pad_token_id)
        if self.context > (limit := _longest_input(config)):
            raise ValueError(
                f"The longest caption has {self.context} tokens, and {name} takes {limit}. "
                "Train on fewer --fields, or use --metadata-encoder text."
            )
        # An evaluation learns from the weights alone what the encoder was built for.
        self.register_buffer("caption_length", torch.tensor(self.context))
        self.tower = HFTextEncoder(name, output_dim=self.width, pooler_type="mean_pooler")
        self.tower.requires_grad_(settings.text_tune)

    def train(self, mode: bool = True) -> "PretrainedTextEncoder":
        """Switch to training mode; a frozen encoder stays in evaluation mode."""
        super().train(mode and not self.frozen)
        return self

    def features(self, tokens: Tensor) -> Tensor:
        """See `CaptionEncoder.features`; ids count from 1 here, 0 is padding."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            features: Tensor = self.tower(torch.where(tokens == 0, self.padding, tokens - 1))
        return features


def _pretrained_config(name: str) -> Any:
    try:
        from transformers import AutoConfig
    except ImportError as error:
        raise ValueError(f"--text-model needs transformers: {cause(error)}. Run: {install('transformers')}") from error
    try:
        config = AutoConfig.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise ValueError(
            f'Cannot load --text-model "{name}", which is no model of the hub and no folder with one: {cause(error)}'
        ) from error
    if config.model_type not in arch_dict or config.pad_token_id is None:
        known = ", ".join(sorted(arch_dict)[:MOST_LISTED])
        raise ValueError(f'--text-model "{name}" is of the type {config.model_type}. Types with padding are read, such as {known}.')
    return config


def _longest_input(config: Any) -> int:
    positions = getattr(config, "max_position_embeddings", None) or sys.maxsize
    # RoBERTa numbers its positions from behind the id of padding.
    return int(positions - config.pad_token_id - 1 if "roberta" in config.model_type else positions)


class TabularEncoder(nn.Module):
    """FT-Transformer over tabular features, output at its CLS token; its authors' own implementation.

    The paper's numbers (3 layers, width 192, 8 heads, a feed-forward factor of 4/3) are that implementation's defaults, so
    ReGLU, the dropouts and the lack of a final norm, on which the paper is silent, are its defaults too.

    NOTE[DIFF] the paper is silent on missing values. Here a missing number enters as 0, the mean of its column, so its token
    is the column's bias; a missing or unknown category has an embedding of its own.
    """

    def __init__(self, settings: Settings, shape: MetadataShape) -> None:
        """Raise ValueError where no column is chosen or the width is no multiple of the heads."""
        super().__init__()
        self.batch_keys = frozenset(
            [*(["numeric", "mask"] if shape.numeric else []), *(["categorical"] if shape.cardinalities else [])]
        )
        if settings.tabular_width % settings.tabular_heads:
            raise ValueError(
                f"--tabular-width {settings.tabular_width} is no multiple of --tabular-heads {settings.tabular_heads}. "
                "Use another --tabular-heads."
            )
        self.width = settings.tabular_width
        self.transformer = FTTransformer(
            n_cont_features=shape.numeric,
            cat_cardinalities=list(shape.cardinalities),
            d_out=None,
            n_blocks=settings.tabular_layers,
            d_block=settings.tabular_width,
            attention_n_heads=settings.tabular_heads,
            attention_dropout=settings.tabular_attention_dropout,
            ffn_d_hidden_multiplier=4 / 3,
            ffn_dropout=settings.tabular_ffn_dropout,
            residual_dropout=0.0,
        )
        self.norm = nn.LayerNorm(self.width) if settings.tabular_final_norm else nn.Identity()

    def forward(self, batch: Mapping[str, Any]) -> Tensor:
        """Return the features of the metadata of a batch. Keys without a chosen column are not read.

        Shape:
            batch["numeric"]: (B, F) float32
            batch["mask"]: (B, F) bool, True where the number is known
            batch["categorical"]: (B, C) int64
            returns: (B, width)
        """
        numeric = torch.where(batch["mask"], batch["numeric"], 0.0) if "numeric" in self.batch_keys else None
        categorical = batch["categorical"] if "categorical" in self.batch_keys else None
        features: Tensor = self.norm(self.transformer(numeric, categorical))
        return features

    def no_weight_decay(self) -> set[str]:
        """Return the names of the tokenizer's parameters, which the authors of FT-Transformer do not decay."""
        tokenizer = ("transformer.cls_embedding.", "transformer.cont_embeddings.", "transformer.cat_embeddings.")
        return {name for name, _ in self.named_parameters() if name.startswith(tokenizer)}


def create_metadata_encoder(settings: Settings, shape: MetadataShape) -> CaptionEncoder | TabularEncoder:
    """Return the metadata encoder that the settings ask for."""
    if settings.metadata_encoder == "tabular":
        return TabularEncoder(settings, shape)
    return (TextEncoder if settings.metadata_encoder == "text" else PretrainedTextEncoder)(settings, shape)
