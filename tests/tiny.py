"""Tiny random models for tests: the real architectures, a real byte-level tokenizer, a second to build."""

from __future__ import annotations

import json
from pathlib import Path

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
CORPUS = [
    "The answer is 42. Let me think step by step about the question.",
    "<Thought>\nFirst we add the numbers, then we check.\n</Thought>\n<Output>\nIt is 18 dollars.\n</Output>",
    "system user assistant",
    "思考一下这个问题。答案是十八。",
]
VOCABULARY = 384
ARCHITECTURES = ("qwen2", "llama")


def build(folder: Path, architecture: str = "qwen2", *, seed: int = 0) -> Path:
    """Save a random float32 model of `architecture` and its tokenizer into `folder` and return it."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config

    tokenizer = build_tokenizer()
    ids = {name: tokenizer.convert_tokens_to_ids(name) for name in ("<|endoftext|>", "<|im_end|>")}
    shape = {
        "vocab_size": VOCABULARY,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "bos_token_id": ids["<|endoftext|>"],
        "eos_token_id": ids["<|im_end|>"],
        # Far from uniform, so that a wrong position or a wrong mask shows in the logits.
        "initializer_range": 0.2,
        "tie_word_embeddings": False,
    }
    config = {"qwen2": Qwen2Config, "llama": LlamaConfig}[architecture](**shape)
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def build_tokenizer():  # type: ignore[no-untyped-def]
    """A byte-level BPE tokenizer with a ChatML template that closes turns with `<|im_end|>`."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def write_gguf(folder: Path, path: Path, *, tokenizer: bool = False) -> Path:
    """Write the Qwen2 model in `folder` as a GGUF file of float32 tensors, head and embedding apart.

    With its `tokenizer` the file is all that llama.cpp needs.
    """
    import gguf
    import numpy as np
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder)
    config = model.config
    writer = gguf.GGUFWriter(path, "qwen2")
    writer.add_name("tiny")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    if tokenizer:
        _add_tokenizer(writer)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN2, config.num_hidden_layers)
    if tokenizer:
        _keep_to_ascii(model)
    for name, tensor in model.state_dict().items():
        writer.add_tensor(names.get_name(name, (".weight", ".bias")), tensor.numpy().astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _keep_to_ascii(model) -> None:  # type: ignore[no-untyped-def]
    """Let it write plain characters only: random bytes are no text, and servers stumble over them."""
    import torch

    head = model.get_output_embeddings().weight
    plain = [
        name.isascii() and name.isprintable() and not name.startswith("<|")
        for name, _ in sorted(build_tokenizer().get_vocab().items(), key=lambda item: item[1])
    ]
    plain += [False] * (len(head) - len(plain))
    with torch.no_grad():
        head *= torch.tensor(plain, dtype=head.dtype)[:, None] * 4


def _add_tokenizer(writer) -> None:  # type: ignore[no-untyped-def]
    import gguf

    tokenizer = build_tokenizer()
    told = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    names = [name for name, _ in sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])]
    names += [f"[unused{number}]" for number in range(len(names), VOCABULARY)]
    special = {"<|endoftext|>", "<|im_start|>", "<|im_end|>"}
    kinds = [
        gguf.TokenType.CONTROL
        if name in special
        else gguf.TokenType.UNUSED
        if name.startswith("[unused")
        else gguf.TokenType.NORMAL
        for name in names
    ]
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in told["merges"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(names)
    writer.add_token_types(kinds)
    writer.add_token_merges(merges)
    writer.add_bos_token_id(names.index("<|endoftext|>"))
    writer.add_eos_token_id(names.index("<|im_end|>"))
    writer.add_chat_template(CHAT_TEMPLATE)
