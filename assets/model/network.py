"""The network: a text encoder, the mean of its token vectors, and one linear layer on top.

```
ids, mask [B, T] -> encoder -> [B, T, D] -> mean over the real tokens -> [B, D] -> linear -> [B, labels]
```

The mean, not the first token: pre-trained encoders of this size give better sentence vectors that way
(Reimers and Gurevych 2019, Sentence-BERT, table 6), and it is how the default encoder itself was trained.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class HeadConfig:
    """The part that is new; everything else about the network is the encoder's own config."""

    labels: int
    init_std: float = 0.02  # BERT's own: first logits near zero, so the first loss is near ln(labels)


def masked_mean(hidden: Tensor, mask: Tensor) -> Tensor:
    """Mean of the real tokens' vectors.

    Args:
        hidden: [B, T, D] token vectors.
        mask: [B, T], 1 for a token, 0 for padding.

    Returns:
        [B, D]; zeros where a row has no token.
    """
    weight = mask.unsqueeze(-1).to(hidden.dtype)
    return (hidden * weight).sum(1) / weight.sum(1).clamp(min=1)


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 in hardware: GPUs from Ampere on, and CPUs with AVX512-BF16."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported()


def precision(device: torch.device) -> torch.autocast:
    """bfloat16 arithmetic where the device has it."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=has_bfloat16(device))


def head_dropout(encoder: PreTrainedModel) -> float:
    """What the encoder's own config says of classification heads, else BERT's 0.1 (Devlin et al. 2019)."""
    names = ("classifier_dropout", "hidden_dropout_prob")
    rates = (getattr(encoder.config, name, None) for name in names)
    return next((float(rate) for rate in rates if rate is not None), 0.1)


def drops_attention(encoder: PreTrainedModel) -> bool:
    """Whether weights of attention are dropped out in training."""
    names = ("attention_probs_dropout_prob", "attention_dropout")
    return any(getattr(encoder.config, name, 0) for name in names)


class TextClassifier(nn.Module):
    """Labels for a text."""

    def __init__(self, encoder: PreTrainedModel, config: HeadConfig) -> None:
        """
        Args:
            encoder: a Hugging Face encoder, `last_hidden_state` [B, T, D] from `input_ids`, `attention_mask`.
        """
        super().__init__()
        self.encoder = encoder
        self._attention = encoder.config._attn_implementation
        self.dropout = nn.Dropout(head_dropout(encoder))
        self.head = nn.Linear(encoder.config.hidden_size, config.labels)
        nn.init.normal_(self.head.weight, std=config.init_std)
        nn.init.zeros_(self.head.bias)

    def train(self, mode: bool = True) -> Self:
        """As ever, but on a CPU attention that drops weights out is transformers' own: SDPA has no kernel
        for that, and what it does instead takes 2 % of a training, 8 % where others are at work.
        """
        on_cpu = self.head.weight.device.type == "cpu"
        slow = on_cpu and self._attention == "sdpa" and drops_attention(self.encoder)
        self.encoder.set_attn_implementation("eager" if mode and slow else self._attention)
        return super().train(mode)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """[B, T] token ids and mask -> [B, labels] logits."""
        return self.head(self.dropout(self._mean(ids, mask)))

    def vectors(self, ids: Tensor, mask: Tensor) -> Tensor:
        """[B, T] token ids and mask -> [B, D] vectors of length 1, as items get them."""
        return nn.functional.normalize(self._mean(ids, mask).float(), dim=1)

    def _mean(self, ids: Tensor, mask: Tensor) -> Tensor:
        return masked_mean(self.encoder(input_ids=ids, attention_mask=mask).last_hidden_state, mask)
