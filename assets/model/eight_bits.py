"""A text encoder in eight bits, for processors without a GPU: OpenVINO multiplies, a recipe asks for it.

Weights are rounded to 255 steps, symmetric about 0, for each output of a layer; what they are multiplied
with, by OpenVINO itself while it computes, for every `GROUP` inputs of a token (dynamic quantisation, as in
Dettmers et al. 2022, LLM.int8, section 2.1, with groups in place of whole vectors). Products of eight bits
are twice as quick as those of bfloat16 where the processor has VNNI.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from resources.text_encoder import EncoderError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

GROUP = 128
"""Inputs that share a scale. On product texts the least cosine with float32 was 0.9974 with it, 0.9939 with
one scale for all 384 of a token; with 32 it took half as long again."""
STEPS = 127
"""Of each sign."""

Encode = Callable[[Tensor, Tensor], NDArray[np.float32]]


def in_eight_bits(encoder: PreTrainedModel) -> Encode:
    """The encoder as a function of ids and mask [B, T] (texts of one length) to vectors [B, D] of length 1.

    Args:
        encoder: in float32; its layers are changed.

    Raises:
        EncoderError: OpenVINO is not installed.
    """
    try:
        from openvino import Core
        from openvino.frontend import FrontEndManager
        from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder
    except ImportError as error:
        raise EncoderError(
            "item_vectors: int8 needs the package openvino: run `pip install 'nightshelf[int8]'`, or leave "
            "the line out of the recipe"
        ) from error
    example = torch.ones((2, 4), dtype=torch.int64)
    network = _Vectors(_rounded(encoder)).eval()
    # The reader itself: openvino.convert_model would call home.
    reader = FrontEndManager().load_by_framework("pytorch")
    with torch.inference_mode():
        decoder = TorchScriptPythonDecoder(network, example_input=(example, example))
        model = reader.convert(reader.load(decoder))
    settings = {
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": str(GROUP),
        "INFERENCE_PRECISION_HINT": "bf16",  # of all but the products; float32 where the processor has none
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
    }
    compiled = Core().compile_model(model, "CPU", settings)
    return lambda ids, mask: compiled([ids.numpy(), mask.numpy()])[0]


class _Vectors(nn.Module):
    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        hidden = self.encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        return nn.functional.normalize(hidden.mean(1), dim=1)


class _RoundedLinear(nn.Module):
    """A layer whose weights are eight bits and a scale; OpenVINO knows the form."""

    weight: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        scale = (layer.weight.detach().abs().amax(1, keepdim=True) / STEPS).clamp(min=1e-8)
        self.register_buffer("weight", (layer.weight.detach() / scale).round().to(torch.int8))
        self.register_buffer("scale", scale)
        self.register_buffer("bias", None if layer.bias is None else layer.bias.detach())

    def forward(self, inputs: Tensor) -> Tensor:
        return nn.functional.linear(inputs, self.weight.float() * self.scale, self.bias)


def _rounded(module: nn.Module) -> nn.Module:
    for name, child in module.named_children():
        if isinstance(child, nn.Linear):
            setattr(module, name, _RoundedLinear(child))
        else:
            _rounded(child)
    return module
