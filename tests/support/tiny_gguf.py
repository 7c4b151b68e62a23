"""Makes GGUF models of some 600 kB that a real llama.cpp loads, and whose answers are known.

    python -m support.tiny_gguf OUTDIR

`tiny_script` says exactly SCRIPT at temperature 0, then ends its turn, whatever the prompt was.
`tiny_random` says random printable tokens and never ends by itself. `tiny_spoken` says the tokens
that it is given, `tiny_choosing` one of two scripts. `tiny_embed` and `tiny_rerank` are BERT
encoders. The same call always makes the same bytes. Nothing is downloaded.
"""

from __future__ import annotations

import itertools
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import gguf
import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Sequence

Array = npt.NDArray[np.float32]

SCRIPT = (
    "Hello there , this is a tiny test model speaking . Every word you read was scripted in the "
    "weights so streams can be compared bit for byte 0 1 2 3 4 5 6 7 8 9 end"
)

# ChatML without any trimming, so that what is sent is what is tokenized.
CHAT_TEMPLATE = (
    "{%- for m in messages -%}"
    "{{ '<|im_start|>' + m['role'] + '\n' + (m['content'] or '') + '<|im_end|>\n' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%}"
)

# What a template writes into a prompt to make `tiny_choosing` choose.
MARKER = "<|marker|>"

CONTEXT_LENGTH = 4096
_WIDTH, _LAYERS, _FEED_FORWARD, _HEADS, _SEED = 64, 2, 128, 2, 7
_BERT_CONTEXT = 512
_RANK = 4
_END_OF_TURN = 4
_WORD_START = "\u2581"

_WORD_LIST = (
    "the of and to in that it is was for on with he as you do at his by not or be are from one all "
    "had but we when your can said there use an each which she how their if will up other about "
    "out many then them these so some her would make like him into time has look two more write go "
    "see number no way could people my than first water been call who oil its now find long down "
    "day did get come made may part"
)
_WORDS = _WORD_LIST.split()


@dataclass
class Vocabulary:
    """Tokens with their scores and types, in the order of their numbers."""

    tokens: list[str] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    types: list[gguf.TokenType] = field(default_factory=list)
    chat_template: str = CHAT_TEMPLATE

    def add(self, token: str, kind: gguf.TokenType, score: float = 0.0) -> None:
        """Append a token, unless it is there."""
        if token not in self.tokens:
            self.tokens.append(token)
            self.scores.append(score)
            self.types.append(kind)


def tiny_script(path: Path) -> Path:
    """Write the model that always says SCRIPT."""
    vocabulary = _sentencepiece()
    generator = np.random.default_rng(_SEED)
    words = [_WORD_START + word for word in SCRIPT.split()]
    embedding, output = _script_weights(generator, vocabulary, words)
    tensors = _llama_tensors(generator, embedding, output, strength=0.0)
    return _write_llama(path, "tiny-script", vocabulary, tensors)


def tiny_spoken(path: Path, tokens: Sequence[str], *, chat_template: str = CHAT_TEMPLATE) -> Path:
    """Write a model that always says these tokens, each of which occurs once.

    `▁word` is a word with its space, `<0xF0>` a byte. Its own tokens have no prefixes in the
    vocabulary, so the tokenizer makes none of them out of a prompt, which would put the model in
    mid-script.
    """
    vocabulary = _sentencepiece()
    vocabulary.chat_template = chat_template
    for token in tokens:
        vocabulary.add(token, gguf.TokenType.NORMAL, -2000.0)
    generator = np.random.default_rng(_SEED)
    embedding, output = _script_weights(generator, vocabulary, tokens)
    tensors = _llama_tensors(generator, embedding, output, strength=0.0)
    return _write_llama(path, "tiny-spoken", vocabulary, tensors)


def tiny_choosing(
    path: Path, marked: Sequence[str], otherwise: Sequence[str], *, chat_template: str
) -> Path:
    """Write a model that says `marked` if MARKER is in the prompt, and `otherwise` if it is not.

    The tokens are as for `tiny_spoken`; the scripts may end alike.
    """
    vocabulary = _sentencepiece()
    vocabulary.chat_template = chat_template
    vocabulary.add(MARKER, gguf.TokenType.CONTROL)
    for token in [*marked, *otherwise]:
        vocabulary.add(token, gguf.TokenType.NORMAL, -2000.0)
    generator = np.random.default_rng(_SEED)
    embedding, output = _choosing_weights(generator, vocabulary, marked, otherwise)
    tensors = _llama_tensors(generator, embedding, output, strength=0.0)
    _look_for_marker(tensors)
    return _write_llama(path, "tiny-choosing", vocabulary, tensors)


def tiny_random(path: Path, shards: int = 0) -> Path:
    """Write the model that rambles, in one file or in shards `…-00001-of-0000N.gguf`.

    Returns:
        The file, or the first shard.
    """
    vocabulary = _sentencepiece()
    generator = np.random.default_rng(_SEED)
    embedding, output = _random_weights(generator, vocabulary)
    tensors = _llama_tensors(generator, embedding, output, strength=0.15)
    return _write_llama(path, "tiny-random", vocabulary, tensors, shards=shards)


def tiny_embed(path: Path) -> Path:
    """Write an encoder with mean pooling, for embeddings."""
    return _write_bert(path, "tiny-embed", gguf.PoolingType.MEAN)


def tiny_rerank(path: Path) -> Path:
    """Write an encoder with rank pooling, for reranking."""
    return _write_bert(path, "tiny-rerank", gguf.PoolingType.RANK)


def tiny_lora(path: Path, *, architecture: str = "llama", seed: int = _SEED) -> Path:
    """Write a LoRA adapter that turns the attention of the two llama models into noise."""
    generator = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, float(_RANK))
    tensors = {}
    for layer in range(_LAYERS):
        name = f"blk.{layer}.attn_output.weight"
        tensors[f"{name}.lora_a"] = _draw(generator, _RANK, _WIDTH)
        tensors[f"{name}.lora_b"] = _draw(generator, _WIDTH, _RANK)
        tensors[f"{name}.lora_b"][0] = 0.0  # what keeps tokens printable
    _finish(writer, tensors)
    return path


def tiny_projector(path: Path) -> Path:
    """Write what has the header of a multimodal projector, and no tensors to see with."""
    writer = gguf.GGUFWriter(path, "clip")
    writer.add_type(gguf.GGUFType.MMPROJ)
    _finish(writer, {"v.nothing": np.zeros(32, np.float32)})
    return path


def _sentencepiece() -> Vocabulary:
    """What llama.cpp insists on: <unk>, <s>, </s> first, all 256 bytes, and all prefixes of words.

    Its merging joins two symbols only where the joined piece is itself a token.
    """
    vocabulary = Vocabulary()
    vocabulary.add("<unk>", gguf.TokenType.UNKNOWN)
    for token in ("<s>", "</s>", "<|im_start|>", "<|im_end|>"):
        vocabulary.add(token, gguf.TokenType.CONTROL)
    for byte in range(256):
        vocabulary.add(f"<0x{byte:02X}>", gguf.TokenType.BYTE)
    for character in [*map(chr, range(33, 127)), _WORD_START]:
        vocabulary.add(character, gguf.TokenType.NORMAL, -1000.0)
    for word in [_WORD_START + word for word in _WORDS + SCRIPT.split()]:
        for end in range(2, len(word) + 1):
            vocabulary.add(word[:end], gguf.TokenType.NORMAL, -100.0 + end)
    return vocabulary


def _draw(generator: np.random.Generator, *shape: int, scale: float = 1.0) -> Array:
    return (generator.standard_normal(shape) * scale).astype(np.float32)


def _unit_rows(matrix: Array) -> Array:
    lengths: Array = np.linalg.norm(matrix, axis=1, keepdims=True).astype(np.float32)
    return matrix / lengths


def _script_weights(
    generator: np.random.Generator, vocabulary: Vocabulary, script: Sequence[str]
) -> tuple[Array, Array]:
    """An automaton: the output row of each word reads the direction of the word before it.

    Attention and feed-forward are silent, so the residual stream is the last token's embedding. All
    tokens outside the script share dimension 0, which the first word reads.
    """
    assert len(set(script)) == len(script), "each token of a script has one successor"
    chain = [vocabulary.tokens.index(token) for token in script]
    count = len(vocabulary.tokens)
    embedding = _unit_rows(_draw(generator, count, _WIDTH))
    output = np.zeros((count, _WIDTH), np.float32)
    for here, following in zip(chain, [*chain[1:], _END_OF_TURN], strict=True):
        output[following] += embedding[here]
    embedding[:, 0] = 0.0
    embedding = _unit_rows(embedding)
    outside = np.ones(count, bool)
    outside[chain] = False
    embedding[outside] *= 0.1
    embedding[outside, 0] = 1.0
    output[chain[0]] = 0.0
    output[chain[0], 0] = 1.0
    # The norm makes |x| = sqrt(width) = 8, so the right logit is about 48 and the others near 0.
    return embedding, output * 6.0


# Dimensions of the residual stream of `tiny_choosing`; the first one is `_script_weights`'.
_OUTSIDE, _IS_MARKER, _SHARE, _CHOSEN = range(4)


def _choosing_weights(
    generator: np.random.Generator,
    vocabulary: Vocabulary,
    marked: Sequence[str],
    otherwise: Sequence[str],
) -> tuple[Array, Array]:
    """Two automata whose first words compete for the end of the prompt."""
    chains = [
        [vocabulary.tokens.index(token) for token in script] for script in (marked, otherwise)
    ]
    count = len(vocabulary.tokens)
    embedding = _draw(generator, count, _WIDTH)
    embedding[:, : _CHOSEN + 1] = 0.0
    embedding = _unit_rows(embedding)
    output = np.zeros((count, _WIDTH), np.float32)
    followings = {pair for chain in chains for pair in itertools.pairwise([*chain, _END_OF_TURN])}
    assert len({here for here, _ in followings}) == len(followings), "one token, one successor"
    for here, following in sorted(followings):
        output[following] += embedding[here]
    outside = np.ones(count, bool)
    outside[chains[0] + chains[1]] = False
    embedding[outside] *= 0.1
    embedding[outside, _OUTSIDE] = 1.0
    marker = vocabulary.tokens.index(MARKER)
    embedding[marker] = 0.0
    embedding[marker, _IS_MARKER] = 1.0
    output[chains[1][0], _OUTSIDE] = 1.0
    output[chains[0][0], [_OUTSIDE, _CHOSEN]] = 0.8, 1.0
    return embedding, output * 6.0


def _look_for_marker(tensors: dict[str, Array]) -> None:
    """The first layer attends to all tokens alike, so one marker among n shows everywhere as 1/n.

    Its feed-forward makes that large where the last token is one of the prompt, and is silent in
    mid-script. From 20 to 4000 tokens the share is 2 to 0.01, and what is chosen 100 to 3.
    """
    for name in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"):
        tensors[f"blk.0.{name}.weight"][:] = 0.0
    tensors["blk.0.attn_v.weight"][0, _IS_MARKER] = 1.0
    tensors["blk.0.attn_output.weight"][_SHARE, 0] = 5.0
    tensors["blk.0.ffn_gate.weight"][0, _SHARE] = 50.0
    tensors["blk.0.ffn_up.weight"][0, _OUTSIDE] = 1.0
    tensors["blk.0.ffn_down.weight"][_CHOSEN, 0] = 0.1


def _random_weights(generator: np.random.Generator, vocabulary: Vocabulary) -> tuple[Array, Array]:
    """Random rows, and dimension 0 as a constant that forbids what cannot be printed."""
    count = len(vocabulary.tokens)
    embedding = _draw(generator, count, _WIDTH)
    embedding[:, 0] = 3.0
    output = _draw(generator, count, _WIDTH, scale=0.35)
    unprintable = np.array([kind != gguf.TokenType.NORMAL for kind in vocabulary.types])
    output[:, 0] = 0.0
    output[unprintable, 0] = -30.0
    return embedding, output


def _llama_tensors(
    generator: np.random.Generator, embedding: Array, output: Array, *, strength: float
) -> dict[str, Array]:
    scale = _WIDTH**-0.5
    tensors = {"token_embd.weight": embedding}
    for layer in range(_LAYERS):
        block = f"blk.{layer}."
        tensors[block + "attn_norm.weight"] = np.ones(_WIDTH, np.float32)
        for name in ("attn_q", "attn_k", "attn_v"):
            tensors[f"{block}{name}.weight"] = _draw(generator, _WIDTH, _WIDTH, scale=scale)
        attention = _draw(generator, _WIDTH, _WIDTH, scale=strength)
        down = _draw(generator, _WIDTH, _FEED_FORWARD, scale=strength)
        attention[0] = down[0] = 0.0  # dimension 0 stays as the embedding has it
        tensors[block + "attn_output.weight"] = attention
        tensors[block + "ffn_norm.weight"] = np.ones(_WIDTH, np.float32)
        for name in ("ffn_gate", "ffn_up"):
            tensors[f"{block}{name}.weight"] = _draw(generator, _FEED_FORWARD, _WIDTH, scale=scale)
        tensors[block + "ffn_down.weight"] = down
    tensors["output_norm.weight"] = np.ones(_WIDTH, np.float32)
    tensors["output.weight"] = output
    return tensors


def _write_llama(
    path: Path, name: str, vocabulary: Vocabulary, tensors: dict[str, Array], *, shards: int = 0
) -> Path:
    per_shard = -(-len(tensors) // shards) if shards else 0
    writer = gguf.GGUFWriter(path, "llama", split_max_tensors=per_shard)
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name(name)
    writer.add_description("synthetic test model")
    writer.add_size_label("150K")
    writer.add_license("cc0-1.0")
    _add_shape(writer, CONTEXT_LENGTH)
    writer.add_head_count_kv(_HEADS)
    writer.add_rope_dimension_count(_WIDTH // _HEADS)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(vocabulary.tokens))
    _add_tokens(writer, "llama", "default", vocabulary)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(_END_OF_TURN)
    writer.add_eot_token_id(_END_OF_TURN)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    writer.add_add_space_prefix(False)
    writer.add_chat_template(vocabulary.chat_template)
    _finish(writer, tensors)
    return path.with_name(f"{path.stem}-00001-of-{shards:05d}.gguf") if shards else path


def _write_bert(path: Path, name: str, pooling: gguf.PoolingType) -> Path:
    vocabulary = _wordpiece()
    writer = gguf.GGUFWriter(path, "bert")
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name(name)
    _add_shape(writer, _BERT_CONTEXT)
    writer.add_layer_norm_eps(1e-12)
    writer.add_causal_attention(False)
    writer.add_pooling_type(pooling)
    _add_tokens(writer, "bert", "jina-v2-en", vocabulary)
    writer.add_token_type_count(2)
    writer.add_pad_token_id(0)
    writer.add_unk_token_id(1)
    writer.add_bos_token_id(2)
    writer.add_eos_token_id(3)
    writer.add_sep_token_id(3)
    writer.add_mask_token_id(4)
    _finish(writer, _bert_tensors(len(vocabulary.tokens), pooling))
    return path


def _wordpiece() -> Vocabulary:
    """As converters write it: the start of a word carries U+2581, a continuation nothing."""
    vocabulary = Vocabulary()
    for token in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"):
        kind = gguf.TokenType.UNKNOWN if token == "[UNK]" else gguf.TokenType.CONTROL
        vocabulary.add(token, kind, -1000.0)
    characters = [chr(code) for code in range(33, 127) if not chr(code).isupper()]
    for token in [form for c in characters for form in (_WORD_START + c, c)] + [
        _WORD_START + word for word in _WORDS
    ]:
        vocabulary.add(token, gguf.TokenType.NORMAL, -1000.0)
    return vocabulary


def _bert_tensors(tokens: int, pooling: gguf.PoolingType) -> dict[str, Array]:
    generator = np.random.default_rng(_SEED)
    tensors = {
        "token_embd.weight": _draw(generator, tokens, _WIDTH, scale=0.5),
        "token_types.weight": _draw(generator, 2, _WIDTH, scale=0.05),
        "position_embd.weight": _draw(generator, _BERT_CONTEXT, _WIDTH, scale=0.05),
        "token_embd_norm.weight": np.ones(_WIDTH, np.float32),
        "token_embd_norm.bias": np.zeros(_WIDTH, np.float32),
    }

    def add_linear(name: str, rows: int, columns: int) -> None:
        tensors[f"{name}.weight"] = _draw(generator, rows, columns, scale=columns**-0.5)
        tensors[f"{name}.bias"] = np.zeros(rows, np.float32)

    for layer in range(_LAYERS):
        block = f"blk.{layer}."
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            add_linear(block + name, _WIDTH, _WIDTH)
        for name in ("attn_output_norm", "layer_output_norm"):
            tensors[f"{block}{name}.weight"] = np.ones(_WIDTH, np.float32)
            tensors[f"{block}{name}.bias"] = np.zeros(_WIDTH, np.float32)
        add_linear(block + "ffn_up", _FEED_FORWARD, _WIDTH)
        add_linear(block + "ffn_down", _WIDTH, _FEED_FORWARD)
    if pooling == gguf.PoolingType.RANK:
        add_linear("cls", _WIDTH, _WIDTH)
        add_linear("cls.output", 1, _WIDTH)
    return tensors


def _add_shape(writer: gguf.GGUFWriter, context_length: int) -> None:
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_context_length(context_length)
    writer.add_embedding_length(_WIDTH)
    writer.add_block_count(_LAYERS)
    writer.add_feed_forward_length(_FEED_FORWARD)
    writer.add_head_count(_HEADS)


def _add_tokens(writer: gguf.GGUFWriter, model: str, splitter: str, tokens: Vocabulary) -> None:
    writer.add_tokenizer_model(model)
    writer.add_tokenizer_pre(splitter)
    writer.add_token_list(tokens.tokens)
    writer.add_token_scores(tokens.scores)
    writer.add_token_types(tokens.types)


def _finish(writer: gguf.GGUFWriter, tensors: dict[str, Array]) -> None:
    for name, values in tensors.items():
        writer.add_tensor(name, np.ascontiguousarray(values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main(directory: Path) -> None:
    """Write one of each, and the random one in three shards too."""
    directory.mkdir(parents=True, exist_ok=True)
    tiny_script(directory / "tiny-script.gguf")
    tiny_random(directory / "tiny-random.gguf")
    tiny_random(directory / "tiny-random.gguf", shards=3)
    tiny_embed(directory / "tiny-embed.gguf")
    tiny_rerank(directory / "tiny-rerank.gguf")
    for path in sorted(directory.glob("*.gguf")):
        print(f"{path.stat().st_size:>9}  {path.name}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
