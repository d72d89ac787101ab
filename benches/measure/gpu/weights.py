"""A base's files as they are downloaded: shards with random weights, and a tokenizer as large as real ones."""
import json
import random
from array import array
from concurrent.futures import ThreadPoolExecutor
from itertools import product

SHARDS = 4
# Numbers that repeat: what they are is nothing to a loader, but they must be numbers.
BLOCK = 1 << 20


def _block():
    """Small random numbers as bf16: the upper halves of f32."""
    rng = random.Random(1)
    floats = array("f", (rng.uniform(-0.02, 0.02) for _ in range(BLOCK))).tobytes()
    block = bytearray(2 * BLOCK)
    block[0::2], block[1::2] = floats[2::4], floats[3::4]
    return bytes(block)


ONE = b"\x80\x3f"


def _tensors(shape):
    """Names and shapes of a Llama's parameters."""
    c = shape.config
    hidden, vocab = c["hidden_size"], c["vocab_size"]
    yield "model.embed_tokens.weight", (vocab, hidden)
    for layer in range(shape.layers):
        stem = f"model.layers.{layer}"
        for name, outputs, inputs in shape.matrices():
            yield f"{stem}.{name}.weight", (outputs, inputs)
        yield f"{stem}.input_layernorm.weight", (hidden,)
        yield f"{stem}.post_attention_layernorm.weight", (hidden,)
    yield "model.norm.weight", (hidden,)
    if not shape.tied:
        yield "lm_head.weight", (vocab, hidden)


def _count(dims):
    count = 1
    for dim in dims:
        count *= dim
    return count


def _write_shard(file, tensors, block):
    header, at = {}, 0
    for name, dims in tensors:
        end = at + 2 * _count(dims)
        header[name] = {"dtype": "BF16", "shape": dims, "data_offsets": [at, end]}
        at = end
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    with file.open("wb") as out:
        out.write(len(head).to_bytes(8, "little") + head)
        for name, dims in tensors:
            left = 2 * _count(dims)
            if "norm" in name:
                out.write(ONE * (left // 2))
                continue
            while left:
                left -= out.write(memoryview(block)[:left])


def _tokenizer(vocab):
    """Bytes, all pairs of them, then longer ones: byte-level BPE of a vocabulary of so many."""
    # GPT-2's letters for bytes: printable ones stand for themselves.
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = [chr(byte) for byte in plain] + [chr(256 + n) for n in range(256 - len(plain))]
    pairs = [a + b for a, b in product(letters, letters)]
    merges = [[pair[0], pair[1]] for pair in pairs]
    merges += [[pair, letter] for pair, letter in product(pairs[:1024], letters)]
    merges = merges[:max(vocab - len(letters) - 1, 0)]
    tokens = [*letters, *(a + b for a, b in merges)]
    end = len(tokens)
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    special = {"id": end, "content": "<|endoftext|>", "single_word": False, "lstrip": False, "rstrip": False,
               "normalized": False, "special": True}
    model = {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None,
             "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
             "vocab": {token: number for number, token in enumerate([*tokens, "<|endoftext|>"])}, "merges": merges}
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [special], "normalizer": None,
            "pre_tokenizer": level, "post_processor": None, "decoder": level, "model": model}


def write(shape, folder):
    """The folder, written once."""
    last = folder / "config.json"
    if last.exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    block = _block()
    tensors = list(_tensors(shape))
    # By size: shards of about the same.
    whole = sum(_count(dims) for _, dims in tensors)
    shards, at = [[] for _ in range(SHARDS)], 0
    for name, dims in tensors:
        shards[min(at * SHARDS // whole, SHARDS - 1)].append((name, dims))
        at += _count(dims)
    files = [f"model-{n + 1:05}-of-{SHARDS:05}.safetensors" for n in range(SHARDS)]
    with ThreadPoolExecutor(SHARDS) as pool:
        for written in [pool.submit(_write_shard, folder / file, shard, block) for file, shard in zip(files, shards)]:
            written.result()
    index = {name: file for file, shard in zip(files, shards) for name, _ in shard}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {"total_size": 2 * whole}, "weight_map": index}))
    (folder / "tokenizer.json").write_text(json.dumps(_tokenizer(shape.config["vocab_size"])))
    shape.write(folder)
    return folder
