"""llama.cpp as a peer: a transformers Llama model as a float32 GGUF file, decoded greedily by token ids.

Used by `tests.speed.engine` when llama-cpp-python and gguf are installed (the extra `smollm`).
Weights only, no vocabulary: nothing is tokenized. llama.cpp's Llama rotates neighboring pairs
of a head where transformers rotates halves, so rows of q and k are put in that order.
"""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import torch

Speak = Callable[[list[list[int]], int], list[list[int]]]


def available() -> bool:
    """True when both packages are there."""
    return all(importlib.util.find_spec(name) is not None for name in ("llama_cpp", "gguf"))


def write_gguf(model: Any, path: Path) -> None:
    """All weights in float32."""
    import gguf

    config = model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("no_vocab")
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, weight in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            weight = weight.unflatten(0, (-1, 2, config.head_dim // 2)).transpose(1, 2).flatten(0, 2)
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight",)), weight.float().contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def speaker(path: Path, rows: int, capacity: int, vocab_size: int) -> Speak:
    """Greedy continuations of up to `rows` prompts at a time, one thread."""
    import llama_cpp

    llama_cpp.llama_backend_init()
    llama_cpp.llama_log_set(_SILENT, None)
    model = llama_cpp.llama_model_load_from_file(str(path).encode(), llama_cpp.llama_model_default_params())
    settings = llama_cpp.llama_context_default_params()
    settings.n_ctx, settings.n_batch, settings.n_seq_max = rows * capacity, 2048, rows
    settings.n_threads = settings.n_threads_batch = 1
    context = llama_cpp.llama_init_from_model(model, settings)
    batch = llama_cpp.llama_batch_init(2048, 0, 1)

    def run(tokens: list[tuple[int, int, int, bool]]) -> list[int]:
        """Tokens as (id, position, row, wanted); the likeliest next token of each wanted one."""
        for place, (token, position, row, wanted) in enumerate(tokens):
            batch.token[place], batch.pos[place], batch.n_seq_id[place] = token, position, 1
            batch.seq_id[place][0], batch.logits[place] = row, wanted
        batch.n_tokens = len(tokens)
        assert llama_cpp.llama_decode(context, batch) == 0, "llama.cpp could not decode"
        found = []
        for place in [place for place, (*_, wanted) in enumerate(tokens) if wanted]:
            logits = llama_cpp.llama_get_logits_ith(context, place)
            found.append(int(numpy.ctypeslib.as_array(logits, (vocab_size,)).argmax()))
        return found

    def speak(prompts: list[list[int]], new: int) -> list[list[int]]:
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), True)
        said: list[list[int]] = [[] for _ in prompts]
        for row, prompt in enumerate(prompts):
            last = len(prompt) - 1
            said[row] += run([(token, place, row, place == last) for place, token in enumerate(prompt)])
        for _ in range(new - 1):
            step = [
                (ids[-1], len(prompt) + len(ids) - 1, row, True)
                for row, (prompt, ids) in enumerate(zip(prompts, said, strict=True))
            ]
            for ids, token in zip(said, run(step), strict=True):
                ids.append(token)
        return said

    return speak


def _silent() -> Any:
    import llama_cpp

    return llama_cpp.llama_log_callback(lambda *_: None)


_SILENT = _silent() if available() else None


def same(model: Any, prompts: list[list[int]], said: list[list[int]]) -> bool:
    """Whether the model itself would have said so, one forward a row."""
    for prompt, ids in zip(prompts, said, strict=True):
        with torch.no_grad():
            logits = model(torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1]
        if logits.argmax(-1).tolist() != ids:
            return False
    return True
