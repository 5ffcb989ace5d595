"""Architectures of the transformers library, small and random: what coverage is measured on.

    python -m benchmarks.architectures [NAME ...]

Each entry is data: a configuration with small sizes but the real structure, the class of the model, and the
kind of its inputs. Nothing is downloaded. ``build(name)`` gives the module, in eval mode and from tensors to
tensors, with an example of batch 2.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from graph.adapter import adapt

VOCABULARY = 120
LENGTH = 12
BATCH = 2

Settings = Mapping[str, Any]

# Sizes under the names that most text models share.
TEXT: Settings = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
# Four heads that share two pairs of keys and values.
GROUPED: Settings = {**TEXT, "num_key_value_heads": 2}
EXPERTS: Settings = {**GROUPED, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
# GPT-2 and its relatives.
GPT: Settings = {
    "vocab_size": VOCABULARY,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
# BART and its relatives.
SEQ2SEQ: Settings = {
    "vocab_size": VOCABULARY,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
    "forced_eos_token_id": 2,
}
T5: Settings = {
    "vocab_size": VOCABULARY,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 64,
    "num_layers": 2,
    "num_heads": 4,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "decoder_start_token_id": 0,
}
# ViT and its relatives on images of 32 x 32.
VIT: Settings = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 8,
    "num_labels": 10,
}
# Wav2Vec2 and its relatives.
SPEECH: Settings = {
    "vocab_size": 32,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "conv_dim": (32, 32, 32),
    "conv_stride": (5, 2, 2),
    "conv_kernel": (10, 3, 2),
    "num_feat_extract_layers": 3,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}
CLIP_TEXT: Settings = {**TEXT, "max_position_embeddings": 16}
CLIP_VISION: Settings = {k: v for k, v in VIT.items() if k != "num_labels"}


@dataclass(frozen=True)
class Architecture:
    """One architecture.

    Attributes:
        name: as on the command line.
        kind: what sort of model it is.
        config: class of the configuration.
        model: class of the model.
        inputs: the kind of its inputs, a key of ``INPUTS``.
        settings: of the configuration; a mapping with the key ``config`` stands for a nested one.
    """

    name: str
    kind: str
    config: str
    model: str
    inputs: str
    settings: Settings = field(default_factory=dict)


def _ids(*shape: int) -> Tensor:
    # Neither padding nor the ends of a sentence: these switch attention off.
    return torch.randint(3, VOCABULARY, (BATCH, *shape))


def _ones(*shape: int) -> Tensor:
    return torch.ones(BATCH, *shape, dtype=torch.long)


def _floats(*shape: int) -> Tensor:
    return torch.randn(BATCH, *shape)


# The example of each kind of input: keyword -> tensor.
INPUTS: Mapping[str, Any] = {
    "text": lambda: {"input_ids": _ids(LENGTH)},
    "masked-text": lambda: {"input_ids": _ids(LENGTH), "attention_mask": _ones(LENGTH)},
    "bytes": lambda: {"input_ids": _ids(32)},
    "text-64": lambda: {"input_ids": _ids(64)},
    "layout": lambda: {
        "input_ids": _ids(LENGTH),
        "bbox": torch.tensor([1, 2, 30, 40]).expand(BATCH, LENGTH, 4).clone(),
    },
    "pair": lambda: {"input_ids": _ids(LENGTH), "decoder_input_ids": _ids(LENGTH - 2)},
    "masked-pair": lambda: {
        "input_ids": _ids(LENGTH),
        "attention_mask": _ones(LENGTH),
        "decoder_input_ids": _ids(LENGTH - 2),
        "decoder_attention_mask": _ones(LENGTH - 2),
    },
    "image-32": lambda: {"pixel_values": _floats(3, 32, 32)},
    "image-noise": lambda: {"pixel_values": _floats(3, 32, 32), "noise": torch.rand(BATCH, 16)},
    "image-64": lambda: {"pixel_values": _floats(3, 64, 64)},
    "image-96": lambda: {"pixel_values": _floats(3, 96, 96)},
    "image-alpha": lambda: {"pixel_values": _floats(4, 32, 32)},
    "video": lambda: {"pixel_values": _floats(4, 3, 32, 32)},
    "wave": lambda: {"input_values": _floats(800)},
    "wave-text": lambda: {"input_values": _floats(2400), "decoder_input_ids": _ids(LENGTH)},
    "mel": lambda: {"input_features": _floats(16, 40)},
    "mel-text": lambda: {"input_features": _floats(16, 40), "decoder_input_ids": _ids(LENGTH)},
    "mel-frames-text": lambda: {"input_features": _floats(40, 16), "decoder_input_ids": _ids(LENGTH)},
    "spectrogram": lambda: {"input_values": _floats(32, 16)},
    "image-text": lambda: {"input_ids": _ids(LENGTH), "pixel_values": _floats(3, 32, 32)},
    "image-64-text": lambda: {"input_ids": _ids(LENGTH), "pixel_values": _floats(3, 64, 64)},
    "image-decoder": lambda: {"pixel_values": _floats(3, 32, 32), "decoder_input_ids": _ids(LENGTH)},
    "series": lambda: {"past_values": _floats(32, 3)},
}

_A = Architecture
ARCHITECTURES: tuple[Architecture, ...] = (
    # Text encoders
    _A("bert", "text-encoder", "BertConfig", "BertForMaskedLM", "masked-text", TEXT),
    _A("bert-classifier", "text-encoder", "BertConfig", "BertForSequenceClassification", "text", TEXT),
    _A("roberta", "text-encoder", "RobertaConfig", "RobertaForMaskedLM", "text", TEXT),
    _A("albert", "text-encoder", "AlbertConfig", "AlbertForMaskedLM", "text", {**TEXT, "embedding_size": 16}),
    _A("distilbert", "text-encoder", "DistilBertConfig", "DistilBertForMaskedLM", "text",
       {**TEXT, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64}),
    _A("electra", "text-encoder", "ElectraConfig", "ElectraForPreTraining", "text",
       {**TEXT, "embedding_size": 16}),
    _A("deberta", "text-encoder", "DebertaConfig", "DebertaForMaskedLM", "text",
       {**TEXT, "relative_attention": True, "pos_att_type": ["c2p", "p2c"], "max_relative_positions": 16}),
    _A("deberta-v2", "text-encoder", "DebertaV2Config", "DebertaV2ForSequenceClassification", "text",
       {**TEXT, "relative_attention": True, "pos_att_type": ["c2p", "p2c"], "position_buckets": 8,
        "share_att_key": True, "norm_rel_ebd": "layer_norm"}),
    _A("camembert", "text-encoder", "CamembertConfig", "CamembertForTokenClassification", "text", TEXT),
    _A("xlm-roberta", "text-encoder", "XLMRobertaConfig", "XLMRobertaForMaskedLM", "text", TEXT),
    _A("xmod", "text-encoder", "XmodConfig", "XmodModel", "text",
       {**TEXT, "languages": ("en_XX",), "default_language": "en_XX"}),
    _A("mpnet", "text-encoder", "MPNetConfig", "MPNetForMaskedLM", "text", TEXT),
    _A("mobilebert", "text-encoder", "MobileBertConfig", "MobileBertForMaskedLM", "text",
       {**TEXT, "embedding_size": 16, "intra_bottleneck_size": 16, "true_hidden_size": 16}),
    _A("squeezebert", "text-encoder", "SqueezeBertConfig", "SqueezeBertForMaskedLM", "text",
       {**TEXT, "embedding_size": 32}),
    _A("convbert", "text-encoder", "ConvBertConfig", "ConvBertForMaskedLM", "text",
       {**TEXT, "embedding_size": 32}),
    _A("funnel", "text-encoder", "FunnelConfig", "FunnelForMaskedLM", "text",
       {"vocab_size": VOCABULARY, "block_sizes": [1, 1], "d_model": 32, "n_head": 4, "d_head": 8,
        "d_inner": 64, "num_decoder_layers": 1}),
    _A("fnet", "text-encoder", "FNetConfig", "FNetForMaskedLM", "text", TEXT),
    _A("nystromformer", "text-encoder", "NystromformerConfig", "NystromformerForMaskedLM", "text",
       {**TEXT, "num_landmarks": 12, "segment_means_seq_len": 12, "conv_kernel_size": 5}),
    _A("roformer", "text-encoder", "RoFormerConfig", "RoFormerForMaskedLM", "text",
       {**TEXT, "embedding_size": 32}),
    _A("rembert", "text-encoder", "RemBertConfig", "RemBertForMaskedLM", "text",
       {**TEXT, "input_embedding_size": 16, "output_embedding_size": 24}),
    _A("ernie", "text-encoder", "ErnieConfig", "ErnieForMaskedLM", "text", TEXT),
    _A("ibert", "text-encoder", "IBertConfig", "IBertForMaskedLM", "text", TEXT),
    _A("megatron-bert", "text-encoder", "MegatronBertConfig", "MegatronBertForMaskedLM", "text", TEXT),
    _A("modernbert", "text-encoder", "ModernBertConfig", "ModernBertForMaskedLM", "text",
       {**TEXT, "cls_token_id": 1, "sep_token_id": 2}),
    _A("nomic-bert", "text-encoder", "NomicBertConfig", "NomicBertModel", "text", TEXT),
    _A("eurobert", "text-encoder", "EuroBertConfig", "EuroBertForMaskedLM", "text", GROUPED),
    _A("esm", "text-encoder", "EsmConfig", "EsmForMaskedLM", "text",
       {**TEXT, "mask_token_id": 3, "position_embedding_type": "rotary"}),
    _A("longformer", "text-encoder", "LongformerConfig", "LongformerForMaskedLM", "bytes",
       {**TEXT, "attention_window": 8}),
    _A("big-bird", "text-encoder", "BigBirdConfig", "BigBirdForMaskedLM", "text",
       {**TEXT, "attention_type": "original_full"}),
    _A("big-bird-sparse", "text-encoder", "BigBirdConfig", "BigBirdForMaskedLM", "text-64",
       {**TEXT, "block_size": 4, "num_random_blocks": 1}),
    _A("canine", "text-encoder", "CanineConfig", "CanineModel", "bytes",
       {**TEXT, "num_hash_buckets": 64, "local_transformer_stride": 16}),
    _A("layoutlm", "text-encoder", "LayoutLMConfig", "LayoutLMForMaskedLM", "layout",
       {**TEXT, "max_2d_position_embeddings": 64}),
    _A("xlm", "text-encoder", "XLMConfig", "XLMModel", "text",
       {"vocab_size": VOCABULARY, "emb_dim": 32, "n_layers": 2, "n_heads": 4, "max_position_embeddings": 64}),
    _A("perceiver", "text-encoder", "PerceiverConfig", "PerceiverForMaskedLM", "text",
       {"vocab_size": VOCABULARY, "max_position_embeddings": LENGTH, "d_model": 32, "d_latents": 32,
        "num_latents": 8, "num_blocks": 1, "num_self_attends_per_block": 2, "num_self_attention_heads": 4,
        "num_cross_attention_heads": 4, "qk_channels": 32, "v_channels": 32}),
    # Decoders
    _A("gpt2", "decoder", "GPT2Config", "GPT2LMHeadModel", "masked-text", GPT),
    _A("gpt-neo", "decoder", "GPTNeoConfig", "GPTNeoForCausalLM", "text",
       {"vocab_size": VOCABULARY, "hidden_size": 32, "num_layers": 2, "num_heads": 4, "window_size": 8,
        "attention_types": [[["global", "local"], 1]], "max_position_embeddings": 64, "intermediate_size": 64,
        "bos_token_id": 1, "eos_token_id": 2}),
    _A("gpt-neox", "decoder", "GPTNeoXConfig", "GPTNeoXForCausalLM", "text", TEXT),
    _A("gptj", "decoder", "GPTJConfig", "GPTJForCausalLM", "text", {**GPT, "rotary_dim": 4}),
    _A("gpt-bigcode", "decoder", "GPTBigCodeConfig", "GPTBigCodeForCausalLM", "text", GPT),
    _A("codegen", "decoder", "CodeGenConfig", "CodeGenForCausalLM", "text",
       {**GPT, "rotary_dim": 4, "n_ctx": 64}),
    _A("ctrl", "decoder", "CTRLConfig", "CTRLLMHeadModel", "text", {**GPT, "dff": 64}),
    _A("openai-gpt", "decoder", "OpenAIGPTConfig", "OpenAIGPTLMHeadModel", "text", GPT),
    _A("imagegpt", "decoder", "ImageGPTConfig", "ImageGPTForCausalImageModeling", "text", GPT),
    _A("bloom", "decoder", "BloomConfig", "BloomForCausalLM", "text",
       {"vocab_size": VOCABULARY, "hidden_size": 32, "n_layer": 2, "n_head": 4, "bos_token_id": 1,
        "eos_token_id": 2}),
    _A("opt", "decoder", "OPTConfig", "OPTForCausalLM", "text",
       {**TEXT, "ffn_dim": 64, "word_embed_proj_dim": 16}),
    _A("xglm", "decoder", "XGLMConfig", "XGLMForCausalLM", "text",
       {**TEXT, "d_model": 32, "ffn_dim": 64, "num_layers": 2, "attention_heads": 4}),
    _A("biogpt", "decoder", "BioGptConfig", "BioGptForCausalLM", "text", TEXT),
    _A("llama", "decoder", "LlamaConfig", "LlamaForCausalLM", "masked-text", GROUPED),
    _A("mistral", "decoder", "MistralConfig", "MistralForCausalLM", "text", {**GROUPED, "sliding_window": 8}),
    _A("qwen2", "decoder", "Qwen2Config", "Qwen2ForCausalLM", "text", GROUPED),
    _A("qwen3", "decoder", "Qwen3Config", "Qwen3ForCausalLM", "text", {**GROUPED, "head_dim": 16}),
    _A("gemma", "decoder", "GemmaConfig", "GemmaForCausalLM", "text", {**GROUPED, "head_dim": 16}),
    _A("gemma2", "decoder", "Gemma2Config", "Gemma2ForCausalLM", "text",
       {**GROUPED, "head_dim": 16, "sliding_window": 8}),
    _A("gemma3", "decoder", "Gemma3TextConfig", "Gemma3ForCausalLM", "text",
       {**GROUPED, "head_dim": 16, "sliding_window": 8}),
    _A("phi", "decoder", "PhiConfig", "PhiForCausalLM", "text", GROUPED),
    _A("phi3", "decoder", "Phi3Config", "Phi3ForCausalLM", "text", GROUPED),
    _A("falcon", "decoder", "FalconConfig", "FalconForCausalLM", "text", TEXT),
    _A("falcon-new", "decoder", "FalconConfig", "FalconForCausalLM", "text",
       {**TEXT, "new_decoder_architecture": True, "num_kv_heads": 2}),
    _A("mpt", "decoder", "MptConfig", "MptForCausalLM", "text",
       {"vocab_size": VOCABULARY, "d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 64,
        "expansion_ratio": 2}),
    _A("stablelm", "decoder", "StableLmConfig", "StableLmForCausalLM", "text", GROUPED),
    _A("starcoder2", "decoder", "Starcoder2Config", "Starcoder2ForCausalLM", "text", GROUPED),
    _A("cohere", "decoder", "CohereConfig", "CohereForCausalLM", "text", {**GROUPED, "use_qk_norm": True}),
    _A("olmo", "decoder", "OlmoConfig", "OlmoForCausalLM", "text", GROUPED),
    _A("olmo2", "decoder", "Olmo2Config", "Olmo2ForCausalLM", "text", GROUPED),
    _A("granite", "decoder", "GraniteConfig", "GraniteForCausalLM", "text", GROUPED),
    _A("nemotron", "decoder", "NemotronConfig", "NemotronForCausalLM", "text", GROUPED),
    _A("persimmon", "decoder", "PersimmonConfig", "PersimmonForCausalLM", "text", TEXT),
    _A("glm", "decoder", "GlmConfig", "GlmForCausalLM", "text", {**GROUPED, "head_dim": 8}),
    _A("smollm3", "decoder", "SmolLM3Config", "SmolLM3ForCausalLM", "text", GROUPED),
    _A("exaone4", "decoder", "Exaone4Config", "Exaone4ForCausalLM", "text", GROUPED),
    _A("diffllama", "decoder", "DiffLlamaConfig", "DiffLlamaForCausalLM", "text", GROUPED),
    _A("apertus", "decoder", "ApertusConfig", "ApertusForCausalLM", "text", GROUPED),
    _A("arcee", "decoder", "ArceeConfig", "ArceeForCausalLM", "text", GROUPED),
    _A("helium", "decoder", "HeliumConfig", "HeliumForCausalLM", "text", {**GROUPED, "head_dim": 8}),
    _A("xlnet", "decoder", "XLNetConfig", "XLNetLMHeadModel", "text",
       {"vocab_size": VOCABULARY, "d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 64}),
    # Mixtures of experts
    _A("mixtral", "moe", "MixtralConfig", "MixtralForCausalLM", "text", {**EXPERTS, "num_local_experts": 4}),
    _A("qwen2-moe", "moe", "Qwen2MoeConfig", "Qwen2MoeForCausalLM", "text",
       {**EXPERTS, "num_experts": 4, "shared_expert_intermediate_size": 48}),
    _A("qwen3-moe", "moe", "Qwen3MoeConfig", "Qwen3MoeForCausalLM", "text", {**EXPERTS, "num_experts": 4}),
    _A("olmoe", "moe", "OlmoeConfig", "OlmoeForCausalLM", "text", {**EXPERTS, "num_experts": 4}),
    _A("granitemoe", "moe", "GraniteMoeConfig", "GraniteMoeForCausalLM", "text",
       {**EXPERTS, "num_local_experts": 4}),
    _A("phimoe", "moe", "PhimoeConfig", "PhimoeForCausalLM", "text", {**EXPERTS, "num_local_experts": 4}),
    _A("deepseek-v3", "moe", "DeepseekV3Config", "DeepseekV3ForCausalLM", "text",
       {**EXPERTS, "n_routed_experts": 4, "n_group": 2, "topk_group": 1, "first_k_dense_replace": 1,
        "kv_lora_rank": 16, "q_lora_rank": 24, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8,
        "v_head_dim": 8, "num_key_value_heads": 4}),
    _A("gpt-oss", "moe", "GptOssConfig", "GptOssForCausalLM", "text",
       {**EXPERTS, "num_local_experts": 4, "head_dim": 8, "sliding_window": 8}),
    _A("switch-transformers", "moe", "SwitchTransformersConfig", "SwitchTransformersForConditionalGeneration",
       "masked-pair", {**T5, "num_experts": 4, "num_sparse_encoder_layers": 1, "num_sparse_decoder_layers": 1,
                "expert_capacity": 16}),
    # State-space and recurrent
    _A("mamba", "state-space", "MambaConfig", "MambaForCausalLM", "text",
       {"vocab_size": VOCABULARY, "hidden_size": 32, "state_size": 8, "num_hidden_layers": 2,
        "time_step_rank": 4}),
    _A("mamba2", "state-space", "Mamba2Config", "Mamba2ForCausalLM", "text",
       {"vocab_size": VOCABULARY, "hidden_size": 32, "state_size": 8, "num_hidden_layers": 2, "num_heads": 8,
        "head_dim": 8, "n_groups": 2, "chunk_size": 8}),
    _A("falcon-mamba", "state-space", "FalconMambaConfig", "FalconMambaForCausalLM", "text",
       {"vocab_size": VOCABULARY, "hidden_size": 32, "state_size": 8, "num_hidden_layers": 2,
        "time_step_rank": 4}),
    _A("jamba", "state-space", "JambaConfig", "JambaForCausalLM", "text",
       {**GROUPED, "num_hidden_layers": 4, "attn_layer_period": 2, "attn_layer_offset": 1,
        "expert_layer_period": 2, "num_experts": 2, "num_experts_per_tok": 1, "mamba_d_state": 8,
        "mamba_dt_rank": 4, "use_mamba_kernels": False}),
    _A("zamba", "state-space", "ZambaConfig", "ZambaForCausalLM", "text",
       {**TEXT, "num_key_value_heads": 4, "attention_head_dim": 16, "mamba_d_state": 8, "mamba_dt_rank": 4,
        "n_mamba_heads": 2, "num_hidden_layers": 4,
        "layers_block_type": ["mamba", "hybrid", "mamba", "hybrid"], "use_mamba_kernels": False}),
    _A("bamba", "state-space", "BambaConfig", "BambaForCausalLM", "text",
       {**GROUPED, "attn_layer_indices": [1], "mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8,
        "mamba_n_groups": 1, "mamba_chunk_size": 8, "mamba_expand": 2}),
    _A("rwkv", "state-space", "RwkvConfig", "RwkvForCausalLM", "text",
       {"vocab_size": VOCABULARY, "hidden_size": 32, "attention_hidden_size": 32, "num_hidden_layers": 2,
        "intermediate_size": 64, "context_length": 64, "rescale_every": 0, "bos_token_id": 1,
        "eos_token_id": 2}),
    _A("recurrent-gemma", "state-space", "RecurrentGemmaConfig", "RecurrentGemmaForCausalLM", "text",
       {**TEXT, "num_hidden_layers": 3, "num_key_value_heads": 1, "attention_window_size": 8,
        "lru_width": 32}),
    _A("lfm2", "state-space", "Lfm2Config", "Lfm2ForCausalLM", "text",
       {**GROUPED, "layer_types": ["conv", "full_attention"]}),
    # Encoder-decoders
    _A("bart", "encoder-decoder", "BartConfig", "BartForConditionalGeneration", "pair", SEQ2SEQ),
    _A("mbart", "encoder-decoder", "MBartConfig", "MBartForConditionalGeneration", "pair", SEQ2SEQ),
    _A("pegasus", "encoder-decoder", "PegasusConfig", "PegasusForConditionalGeneration", "pair", SEQ2SEQ),
    _A("marian", "encoder-decoder", "MarianConfig", "MarianMTModel", "pair", SEQ2SEQ),
    _A("blenderbot", "encoder-decoder", "BlenderbotConfig", "BlenderbotForConditionalGeneration", "pair",
       SEQ2SEQ),
    _A("m2m-100", "encoder-decoder", "M2M100Config", "M2M100ForConditionalGeneration", "pair", SEQ2SEQ),
    _A("led", "encoder-decoder", "LEDConfig", "LEDForConditionalGeneration", "pair",
       {**SEQ2SEQ, "attention_window": 4, "max_encoder_position_embeddings": 64,
        "max_decoder_position_embeddings": 64}),
    _A("t5", "encoder-decoder", "T5Config", "T5ForConditionalGeneration", "pair", T5),
    _A("mt5", "encoder-decoder", "MT5Config", "MT5ForConditionalGeneration", "pair",
       {**T5, "feed_forward_proj": "gated-gelu"}),
    _A("umt5", "encoder-decoder", "UMT5Config", "UMT5ForConditionalGeneration", "pair", T5),
    _A("longt5", "encoder-decoder", "LongT5Config", "LongT5ForConditionalGeneration", "masked-pair",
       {**T5, "local_radius": 3}),
    _A("prophetnet", "encoder-decoder", "ProphetNetConfig", "ProphetNetForConditionalGeneration", "pair",
       {"vocab_size": VOCABULARY, "hidden_size": 32, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64,
        "num_encoder_layers": 2, "num_decoder_layers": 2, "num_encoder_attention_heads": 4,
        "num_decoder_attention_heads": 4, "max_position_embeddings": 64}),
    # Vision: transformers
    _A("vit", "vision", "ViTConfig", "ViTForImageClassification", "image-32", VIT),
    _A("deit", "vision", "DeiTConfig", "DeiTForImageClassification", "image-32", VIT),
    _A("beit", "vision", "BeitConfig", "BeitForImageClassification", "image-32",
       {**VIT, "use_relative_position_bias": True}),
    _A("data2vec-vision", "vision", "Data2VecVisionConfig", "Data2VecVisionForImageClassification",
       "image-32", {**VIT, "use_shared_relative_position_bias": True}),
    _A("dinov2", "vision", "Dinov2Config", "Dinov2ForImageClassification", "image-32", VIT),
    _A("dinov2-swiglu", "vision", "Dinov2WithRegistersConfig", "Dinov2WithRegistersForImageClassification",
       "image-32", {**VIT, "use_swiglu_ffn": True, "num_register_tokens": 2}),
    _A("dinov3-vit", "vision", "DINOv3ViTConfig", "DINOv3ViTModel", "image-32", VIT),
    _A("vit-mae", "vision", "ViTMAEConfig", "ViTMAEModel", "image-noise", {**VIT, "mask_ratio": 0.25}),
    _A("vit-msn", "vision", "ViTMSNConfig", "ViTMSNForImageClassification", "image-32", VIT),
    _A("ijepa", "vision", "IJepaConfig", "IJepaForImageClassification", "image-32", VIT),
    _A("swin", "vision", "SwinConfig", "SwinForImageClassification", "image-32",
       {"image_size": 32, "patch_size": 2, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4],
        "window_size": 4, "num_labels": 10}),
    _A("swinv2", "vision", "Swinv2Config", "Swinv2ForImageClassification", "image-32",
       {"image_size": 32, "patch_size": 2, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4],
        "window_size": 4, "num_labels": 10}),
    _A("donut-swin", "vision", "DonutSwinConfig", "DonutSwinModel", "image-32",
       {"image_size": 32, "patch_size": 2, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4],
        "window_size": 4}),
    _A("pvt", "vision", "PvtConfig", "PvtForImageClassification", "image-64",
       {"image_size": 64, "hidden_sizes": [16, 32, 32, 32], "depths": [1, 1, 1, 1],
        "num_attention_heads": [1, 2, 4, 4], "mlp_ratios": [2, 2, 2, 2], "num_labels": 10}),
    _A("pvt-v2", "vision", "PvtV2Config", "PvtV2ForImageClassification", "image-64",
       {"image_size": 64, "hidden_sizes": [16, 32, 32, 32], "depths": [1, 1, 1, 1],
        "num_attention_heads": [1, 2, 4, 4], "mlp_ratios": [2, 2, 2, 2], "num_labels": 10}),
    _A("cvt", "vision", "CvtConfig", "CvtForImageClassification", "image-64",
       {"embed_dim": [16, 32, 32], "num_heads": [1, 2, 4], "depth": [1, 2, 3], "num_labels": 10}),
    _A("levit", "vision", "LevitConfig", "LevitForImageClassification", "image-64",
       {"image_size": 64, "hidden_sizes": [16, 32, 48], "num_attention_heads": [2, 4, 4],
        "depths": [1, 1, 1], "key_dim": [8, 8, 8], "num_labels": 10}),
    _A("mobilevit", "vision", "MobileViTConfig", "MobileViTForImageClassification", "image-64",
       {"image_size": 64, "hidden_sizes": [32, 32, 48], "neck_hidden_sizes": [8, 16, 16, 24, 24, 32, 64],
        "num_labels": 10}),
    _A("mobilevitv2", "vision", "MobileViTV2Config", "MobileViTV2ForImageClassification", "image-64",
       {"image_size": 64, "width_multiplier": 0.25, "base_attn_unit_dims": [64, 96, 128],
        "n_attn_blocks": [1, 1, 1], "num_labels": 10}),
    _A("swiftformer", "vision", "SwiftFormerConfig", "SwiftFormerForImageClassification", "image-64",
       {"image_size": 64, "depths": [1, 1, 1, 1], "embed_dims": [16, 16, 32, 32], "num_labels": 10}),
    _A("poolformer", "vision", "PoolFormerConfig", "PoolFormerForImageClassification", "image-64",
       {"depths": [1, 1, 1, 1], "hidden_sizes": [16, 16, 32, 32], "num_labels": 10}),
    _A("focalnet", "vision", "FocalNetConfig", "FocalNetForImageClassification", "image-32",
       {"image_size": 32, "patch_size": 4, "embed_dim": 16, "hidden_sizes": [16, 32], "depths": [1, 1],
        "focal_levels": [2, 2], "focal_windows": [3, 3], "num_labels": 10}),
    _A("hiera", "vision", "HieraConfig", "HieraForImageClassification", "image-64",
       {"image_size": [64, 64], "embed_dim": 16, "depths": [1, 1], "num_heads": [1, 2],
        "num_query_pool": 1, "masked_unit_size": [4, 4], "query_stride": [2, 2], "num_labels": 10}),
    _A("vivit", "vision", "VivitConfig", "VivitForVideoClassification", "video",
       {**VIT, "num_frames": 4, "tubelet_size": [2, 8, 8]}),
    _A("videomae", "vision", "VideoMAEConfig", "VideoMAEForVideoClassification", "video",
       {**VIT, "num_frames": 4}),
    _A("timesformer", "vision", "TimesformerConfig", "TimesformerForVideoClassification", "video",
       {**VIT, "num_frames": 4}),
    # Vision: convolutional
    _A("convnext", "convolutional", "ConvNextConfig", "ConvNextForImageClassification", "image-64",
       {"depths": [1, 1, 2, 1], "hidden_sizes": [16, 16, 32, 32], "num_labels": 10}),
    _A("convnextv2", "convolutional", "ConvNextV2Config", "ConvNextV2ForImageClassification", "image-64",
       {"depths": [1, 1, 2, 1], "hidden_sizes": [16, 16, 32, 32], "num_labels": 10}),
    _A("resnet", "convolutional", "ResNetConfig", "ResNetForImageClassification", "image-64",
       {"embedding_size": 16, "hidden_sizes": [32, 32, 64, 64], "depths": [1, 1, 2, 1], "num_labels": 10}),
    _A("regnet", "convolutional", "RegNetConfig", "RegNetForImageClassification", "image-64",
       {"embedding_size": 16, "hidden_sizes": [16, 32, 32, 64], "depths": [1, 1, 2, 1], "groups_width": 8,
        "num_labels": 10}),
    _A("bit", "convolutional", "BitConfig", "BitForImageClassification", "image-64",
       {"embedding_size": 16, "hidden_sizes": [32, 32, 64, 64], "depths": [1, 1, 1, 1], "num_groups": 4,
        "num_labels": 10}),
    _A("mobilenet-v1", "convolutional", "MobileNetV1Config", "MobileNetV1ForImageClassification", "image-64",
       {"image_size": 64, "depth_multiplier": 0.25, "num_labels": 10}),
    _A("mobilenet-v2", "convolutional", "MobileNetV2Config", "MobileNetV2ForImageClassification", "image-64",
       {"image_size": 64, "depth_multiplier": 0.25, "num_labels": 10}),
    _A("efficientnet", "convolutional", "EfficientNetConfig", "EfficientNetForImageClassification",
       "image-64", {"image_size": 64, "width_coefficient": 0.25, "depth_coefficient": 0.3, "hidden_dim": 320,
        "num_labels": 10}),
    _A("hgnet-v2", "convolutional", "HGNetV2Config", "HGNetV2ForImageClassification", "image-64",
       {"embedding_size": 16, "stem_channels": [3, 8, 16], "stage_in_channels": [16, 32, 32, 32],
        "stage_mid_channels": [8, 8, 16, 16], "stage_out_channels": [32, 32, 32, 64],
        "stage_num_blocks": [1, 1, 1, 1], "stage_numb_of_layers": [2, 2, 2, 2],
        "hidden_sizes": [32, 32, 32, 64], "depths": [1, 1, 1, 1], "num_labels": 10}),
    _A("textnet", "convolutional", "TextNetConfig", "TextNetForImageClassification", "image-64",
       {"stem_out_channels": 16, "hidden_sizes": [16, 16, 32, 32, 64], "num_labels": 10}),
    _A("dinov3-convnext", "convolutional", "DINOv3ConvNextConfig", "DINOv3ConvNextModel", "image-64",
       {"depths": [1, 1, 1, 1], "hidden_sizes": [16, 16, 32, 32]}),
    # Dense prediction: segmentation, depth, detection, super-resolution, U-shaped
    _A("segformer", "segmentation", "SegformerConfig", "SegformerForSemanticSegmentation", "image-64",
       {"hidden_sizes": [16, 16, 32, 32], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 2, 4, 4],
        "decoder_hidden_size": 32, "num_labels": 10}),
    _A("upernet", "segmentation", "UperNetConfig", "UperNetForSemanticSegmentation", "image-64",
       {"backbone_config": {"config": "ConvNextConfig", "depths": [1, 1, 1, 1],
                            "hidden_sizes": [16, 16, 32, 32],
                            "out_features": ["stage1", "stage2", "stage3", "stage4"]},
        "hidden_size": 32, "pool_scales": [1, 2], "auxiliary_in_channels": 32, "auxiliary_channels": 16,
        "num_labels": 10}),
    _A("beit-segmentation", "segmentation", "BeitConfig", "BeitForSemanticSegmentation", "image-64",
       {**VIT, "image_size": 64, "num_hidden_layers": 4, "out_indices": [1, 2, 3, 4],
        "use_auxiliary_head": True, "pool_scales": [1, 2]}),
    _A("mobilenet-v2-deeplab", "segmentation", "MobileNetV2Config", "MobileNetV2ForSemanticSegmentation",
       "image-64", {"image_size": 64, "depth_multiplier": 0.25, "num_labels": 10}),
    _A("mobilevit-deeplab", "segmentation", "MobileViTConfig", "MobileViTForSemanticSegmentation",
       "image-64",
       {"image_size": 64, "hidden_sizes": [32, 32, 48], "neck_hidden_sizes": [8, 16, 16, 24, 24, 32, 64],
        "aspp_out_channels": 32, "num_labels": 10}),
    _A("maskformer", "segmentation", "MaskFormerConfig", "MaskFormerForInstanceSegmentation", "image-64",
       {"fpn_feature_size": 32, "mask_feature_size": 32, "num_labels": 10,
        "backbone_config": {"config": "SwinConfig", "image_size": 64, "patch_size": 4, "embed_dim": 16,
                            "depths": [1, 1, 1, 1], "num_heads": [2, 2, 4, 4], "window_size": 4,
                            "out_features": ["stage1", "stage2", "stage3", "stage4"]},
        "decoder_config": {"config": "DetrConfig", "d_model": 32, "encoder_layers": 1, "decoder_layers": 2,
                           "encoder_attention_heads": 4, "decoder_attention_heads": 4,
                           "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "num_queries": 8,
                           "use_timm_backbone": False, "use_pretrained_backbone": False,
                           "backbone": None,
                           "backbone_config": {"config": "ResNetConfig", "out_features": ["stage4"]}}}),
    _A("mask2former", "segmentation", "Mask2FormerConfig", "Mask2FormerForUniversalSegmentation", "image-64",
       {"feature_size": 32, "mask_feature_size": 32, "hidden_dim": 32, "encoder_feedforward_dim": 64,
        "dim_feedforward": 64, "encoder_layers": 1, "decoder_layers": 2, "num_attention_heads": 4,
        "num_queries": 8, "num_labels": 10,
        "backbone_config": {"config": "SwinConfig", "image_size": 64, "patch_size": 4, "embed_dim": 16,
                            "depths": [1, 1, 1, 1], "num_heads": [2, 2, 4, 4], "window_size": 4,
                            "out_features": ["stage1", "stage2", "stage3", "stage4"]}}),
    _A("dpt", "depth", "DPTConfig", "DPTForDepthEstimation", "image-32",
       {**VIT, "num_hidden_layers": 4, "backbone_out_indices": [0, 1, 2, 3],
        "neck_hidden_sizes": [16, 16, 32, 32], "fusion_hidden_size": 32}),
    _A("depth-anything", "depth", "DepthAnythingConfig", "DepthAnythingForDepthEstimation", "image-32",
       {"backbone_config": {"config": "Dinov2Config", **VIT, "num_hidden_layers": 4,
                            "out_indices": [1, 2, 3, 4], "reshape_hidden_states": False},
        "reassemble_hidden_size": 32, "patch_size": 8, "neck_hidden_sizes": [16, 16, 32, 32],
        "fusion_hidden_size": 32}),
    _A("glpn", "depth", "GLPNConfig", "GLPNForDepthEstimation", "image-64",
       {"hidden_sizes": [16, 16, 32, 32], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 2, 4, 4],
        "decoder_hidden_size": 32}),
    _A("yolos", "detection", "YolosConfig", "YolosForObjectDetection", "image-32",
       {**VIT, "image_size": [32, 32], "num_detection_tokens": 8}),
    _A("detr", "detection", "DetrConfig", "DetrForObjectDetection", "image-64",
       {"d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
        "decoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "num_queries": 8,
        "num_labels": 10, "use_timm_backbone": False, "use_pretrained_backbone": False, "backbone": None,
        "backbone_config": {"config": "ResNetConfig", "embedding_size": 16,
                            "hidden_sizes": [16, 16, 32, 32], "depths": [1, 1, 1, 1],
                            "out_features": ["stage4"]}}),
    _A("conditional-detr", "detection", "ConditionalDetrConfig", "ConditionalDetrForObjectDetection",
       "image-64",
       {"d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
        "decoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "num_queries": 8,
        "num_labels": 10, "use_timm_backbone": False, "use_pretrained_backbone": False, "backbone": None,
        "backbone_config": {"config": "ResNetConfig", "embedding_size": 16,
                            "hidden_sizes": [16, 16, 32, 32], "depths": [1, 1, 1, 1],
                            "out_features": ["stage4"]}}),
    _A("deformable-detr", "detection", "DeformableDetrConfig", "DeformableDetrForObjectDetection",
       "image-64",
       {"d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
        "decoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "num_queries": 8,
        "num_feature_levels": 2,
        "num_labels": 10, "use_timm_backbone": False, "use_pretrained_backbone": False, "backbone": None,
        "backbone_config": {"config": "ResNetConfig", "embedding_size": 16,
                            "hidden_sizes": [16, 16, 32, 32], "depths": [1, 1, 1, 1],
                            "out_features": ["stage3", "stage4"]}}),
    _A("rt-detr", "detection", "RTDetrConfig", "RTDetrForObjectDetection", "image-64",
       {"d_model": 32, "encoder_hidden_dim": 32, "encoder_layers": 1, "decoder_layers": 2,
        "encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 64,
        "decoder_ffn_dim": 64, "num_queries": 8, "num_labels": 10, "feat_strides": [8, 16, 32],
        "encoder_in_channels": [32, 32, 64], "decoder_in_channels": [32, 32, 32], "hidden_expansion": 1.0,
        "num_denoising": 0,
        "backbone_config": {"config": "RTDetrResNetConfig", "embedding_size": 16,
                            "hidden_sizes": [16, 32, 32, 64], "depths": [1, 1, 1, 1],
                            "out_features": ["stage2", "stage3", "stage4"]}}),
    _A("swin2sr", "super-resolution", "Swin2SRConfig", "Swin2SRForImageSuperResolution", "image-32",
       {"image_size": 32, "embed_dim": 32, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4}),
    _A("vitmatte", "u-net", "VitMatteConfig", "VitMatteForImageMatting", "image-alpha",
       {"backbone_config": {"config": "VitDetConfig", "hidden_size": 32, "num_hidden_layers": 2,
                            "num_attention_heads": 4, "image_size": 32, "patch_size": 16,
                            "num_channels": 4, "out_features": ["stage2"]},
        "hidden_size": 32, "convstream_hidden_sizes": [8, 16, 32], "fusion_hidden_sizes": [32, 16, 8, 8]}),
    _A("superpoint", "keypoints", "SuperPointConfig", "SuperPointForKeypointDetection", "image-64",
       {"encoder_hidden_sizes": [8, 16, 16, 32], "decoder_hidden_size": 32, "descriptor_decoder_dim": 32}),
    _A("vitpose", "keypoints", "VitPoseConfig", "VitPoseForPoseEstimation", "image-32",
       {"backbone_config": {"config": "VitPoseBackboneConfig", **VIT, "image_size": [32, 32],
                            "patch_size": [8, 8], "out_features": ["stage2"]},
        "use_simple_decoder": False}),
    _A("sam-vision", "segmentation", "SamVisionConfig", "SamVisionModel", "image-64",
       {"hidden_size": 32, "output_channels": 16, "num_hidden_layers": 2, "num_attention_heads": 4,
        "image_size": 64, "patch_size": 8, "mlp_dim": 64, "window_size": 3, "global_attn_indexes": [1]}),
    _A("sam2-vision", "segmentation", "Sam2VisionConfig", "Sam2VisionModel", "image-64",
       {"backbone_config": {"config": "Sam2HieraDetConfig", "hidden_size": 16, "image_size": [64, 64],
                            "num_attention_heads": 1, "blocks_per_stage": [1, 1, 2, 1],
                            "embed_dim_per_stage": [16, 32, 48, 64],
                            "num_attention_heads_per_stage": [1, 2, 4, 4],
                            "window_size_per_stage": [8, 4, 4, 2], "global_attention_blocks": [3]},
        "backbone_channel_list": [64, 48, 32, 16], "fpn_hidden_size": 32,
        "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]]}),
    # Audio
    _A("wav2vec2", "audio", "Wav2Vec2Config", "Wav2Vec2ForCTC", "wave", SPEECH),
    _A("hubert", "audio", "HubertConfig", "HubertForCTC", "wave", SPEECH),
    _A("wavlm", "audio", "WavLMConfig", "WavLMForCTC", "wave", {**SPEECH, "num_buckets": 8}),
    _A("unispeech", "audio", "UniSpeechConfig", "UniSpeechForCTC", "wave", SPEECH),
    _A("unispeech-sat", "audio", "UniSpeechSatConfig", "UniSpeechSatForCTC", "wave", SPEECH),
    _A("data2vec-audio", "audio", "Data2VecAudioConfig", "Data2VecAudioForCTC", "wave",
       {**SPEECH, "conv_pos_kernel_size": 5, "num_conv_pos_embeddings": 2}),
    _A("wav2vec2-conformer", "audio", "Wav2Vec2ConformerConfig", "Wav2Vec2ConformerForCTC", "wave", SPEECH),
    _A("sew", "audio", "SEWConfig", "SEWForCTC", "wave", {**SPEECH, "squeeze_factor": 2}),
    _A("whisper", "audio", "WhisperConfig", "WhisperForConditionalGeneration", "mel-text",
       {**SEQ2SEQ, "num_mel_bins": 16, "max_source_positions": 20, "max_target_positions": 64}),
    _A("whisper-classifier", "audio", "WhisperConfig", "WhisperForAudioClassification", "mel",
       {**SEQ2SEQ, "num_mel_bins": 16, "max_source_positions": 20, "max_target_positions": 64,
        "classifier_proj_size": 16}),
    _A("speech-to-text", "audio", "Speech2TextConfig", "Speech2TextForConditionalGeneration",
       "mel-frames-text",
       {**SEQ2SEQ, "input_feat_per_channel": 16, "conv_channels": 32, "max_source_positions": 64,
        "max_target_positions": 64}),
    _A("ast", "audio", "ASTConfig", "ASTForAudioClassification", "spectrogram",
       {**VIT, "max_length": 32, "num_mel_bins": 16, "patch_size": 8, "frequency_stride": 4,
        "time_stride": 4}),
    _A("moonshine", "audio", "MoonshineConfig", "MoonshineForConditionalGeneration", "wave-text",
       {"vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 64, "encoder_num_hidden_layers": 2,
        "decoder_num_hidden_layers": 2, "encoder_num_attention_heads": 4, "decoder_num_attention_heads": 4,
        "max_position_embeddings": 64}),
    # Images and text
    _A("clip", "multimodal", "CLIPConfig", "CLIPModel", "image-text",
       {"text_config": {**CLIP_TEXT}, "vision_config": {**CLIP_VISION}, "projection_dim": 24}),
    _A("siglip", "multimodal", "SiglipConfig", "SiglipModel", "image-text",
       {"text_config": {**CLIP_TEXT, "projection_size": 32}, "vision_config": {**CLIP_VISION}}),
    _A("chinese-clip", "multimodal", "ChineseCLIPConfig", "ChineseCLIPModel", "image-text",
       {"text_config": {**TEXT}, "vision_config": {**CLIP_VISION}, "projection_dim": 24}),
    _A("clipseg", "multimodal", "CLIPSegConfig", "CLIPSegForImageSegmentation", "image-text",
       {"text_config": {**CLIP_TEXT}, "vision_config": {**CLIP_VISION, "num_hidden_layers": 4},
        "projection_dim": 24, "extract_layers": [1, 2, 3], "reduce_dim": 16, "decoder_num_attention_heads": 4,
        "decoder_intermediate_size": 32}),
    _A("align", "multimodal", "AlignConfig", "AlignModel", "image-64-text",
       {"text_config": {**TEXT},
        "vision_config": {"image_size": 64, "width_coefficient": 0.25, "depth_coefficient": 0.3,
                          "hidden_dim": 80}, "projection_dim": 80}),
    _A("owlvit", "multimodal", "OwlViTConfig", "OwlViTModel", "image-text",
       {"text_config": {**CLIP_TEXT}, "vision_config": {**CLIP_VISION}, "projection_dim": 24}),
    _A("blip", "multimodal", "BlipConfig", "BlipForImageTextRetrieval", "image-text",
       {"text_config": {**TEXT, "encoder_hidden_size": 32}, "vision_config": {**CLIP_VISION},
        "projection_dim": 24, "image_text_hidden_size": 16}),
    _A("blip-vision", "multimodal", "BlipVisionConfig", "BlipVisionModel", "image-32", CLIP_VISION),
    _A("git", "multimodal", "GitConfig", "GitForCausalLM", "image-text",
       {**TEXT, "vision_config": {**CLIP_VISION}}),
    _A("vilt", "multimodal", "ViltConfig", "ViltModel", "image-text",
       {**TEXT, **VIT, "max_image_length": -1}),
    _A("flava", "multimodal", "FlavaImageConfig", "FlavaImageModel", "image-32", CLIP_VISION),
    _A("groupvit", "multimodal", "GroupViTConfig", "GroupViTModel", "image-text",
       {"text_config": {**CLIP_TEXT},
        "vision_config": {**CLIP_VISION, "depths": [1, 1], "num_group_tokens": [4, 0],
                          "num_output_groups": [4, 2]},
        "projection_dim": 24, "projection_intermediate_dim": 32}),
    _A("x-clip-text", "multimodal", "XCLIPTextConfig", "XCLIPTextModel", "text", CLIP_TEXT),
    _A("trocr", "multimodal", "VisionEncoderDecoderConfig", "VisionEncoderDecoderModel", "image-decoder",
       {"encoder": {"model_type": "vit", **CLIP_VISION},
        "decoder": {"model_type": "gpt2", **GPT, "is_decoder": True, "add_cross_attention": True}}),
    # Series
    _A("patchtst", "series", "PatchTSTConfig", "PatchTSTForPrediction", "series",
       {"num_input_channels": 3, "context_length": 32, "prediction_length": 8, "patch_length": 8,
        "patch_stride": 8, "d_model": 32, "num_attention_heads": 4, "num_hidden_layers": 2, "ffn_dim": 64}),
    _A("patchtsmixer", "series", "PatchTSMixerConfig", "PatchTSMixerForPrediction", "series",
       {"num_input_channels": 3, "context_length": 32, "prediction_length": 8, "patch_length": 8,
        "patch_stride": 8, "d_model": 16, "num_layers": 2}),
)  # fmt: skip

BY_NAME: Mapping[str, Architecture] = {a.name: a for a in ARCHITECTURES}


def build(name: str, seed: int = 0) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """The module in eval mode, from tensors to tensors, and an example of batch 2."""
    import transformers

    entry = BY_NAME[name]
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        model = getattr(transformers, entry.model)(_config(transformers, entry.config, entry.settings)).eval()
        _enliven(model)
        example = INPUTS[entry.inputs]()
    return adapt(model, tuple(example)).eval(), tuple(example.values())


@torch.no_grad()
def _enliven(model: nn.Module) -> None:
    """Values as after training: scales that differ by channel, and signals that do not die on their way.

    At initialisation, norms scale by one, layer scales by a millionth, and small weights let the signal fade
    to nothing in a deep network. What is wrong with a pruned network would then not show.
    """
    for tensor in model.parameters():
        if tensor.numel() < 2 or not tensor.is_floating_point():
            continue
        value = float(tensor.flatten()[0])
        constant = bool((tensor == value).all())
        if constant and abs(value) > 1e-2:
            tensor.mul_(torch.rand_like(tensor) + 0.5)
        elif constant:
            tensor.normal_(0.0, 0.2)
        elif tensor.dim() > 1 and float(tensor.std()) < 0.3:
            tensor.normal_(0.0, (tensor.numel() / tensor.shape[0]) ** -0.5)
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(0.0, 0.1)
        elif name.endswith("running_var"):
            buffer.uniform_(0.5, 1.5)


def _config(library: Any, name: str, settings: Settings) -> Any:
    nested = {
        k: _config(library, v["config"], {n: s for n, s in v.items() if n != "config"})
        if isinstance(v, Mapping) and "config" in v
        else v
        for k, v in settings.items()
    }
    return getattr(library, name)(**nested)


def main(names: list[str]) -> None:
    """Build each architecture, run it once and print its size and the shapes of its outputs."""
    for name in names or list(BY_NAME):
        module, example = build(name)
        with torch.no_grad():
            output = module(*example)
        shapes = [tuple(t.shape) for t in ([output] if isinstance(output, Tensor) else output)]
        parameters = sum(p.numel() for p in module.parameters())
        print(f"{name:28} {BY_NAME[name].kind:16} {parameters:>9,} {shapes}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
