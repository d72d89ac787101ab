"""Shapes of bases with random weights, and the bytes that a step of theirs must touch."""
import json
from dataclasses import dataclass

LLAMA = dict(architectures=["LlamaForCausalLM"], model_type="llama", hidden_act="silu", torch_dtype="bfloat16", rms_norm_eps=1e-5,
             attention_bias=False, mlp_bias=False)
SCALED = dict(rope_type="llama3", low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=8192)
SHAPES = {
    # SmolLM2-135M
    "135m": dict(LLAMA, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
                 num_key_value_heads=3, head_dim=64, vocab_size=49152, max_position_embeddings=8192, rope_theta=1e5,
                 tie_word_embeddings=True),
    # Llama-3.2-1B
    "1b": dict(LLAMA, hidden_size=2048, intermediate_size=8192, num_hidden_layers=16, num_attention_heads=32,
               num_key_value_heads=8, head_dim=64, vocab_size=128256, max_position_embeddings=131072, rope_theta=5e5,
               tie_word_embeddings=True, rope_scaling=dict(SCALED, factor=32.0)),
    # Llama-3.1-8B
    "8b": dict(LLAMA, hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32,
               num_key_value_heads=8, head_dim=128, vocab_size=128256, max_position_embeddings=131072, rope_theta=5e5,
               tie_word_embeddings=False, rope_scaling=dict(SCALED, factor=8.0)),
    # BERT-base
    "bert": dict(architectures=["BertModel"], model_type="bert", hidden_act="gelu", hidden_size=768, intermediate_size=3072,
                 num_hidden_layers=12, num_attention_heads=12, vocab_size=30522, max_position_embeddings=512,
                 type_vocab_size=2, layer_norm_eps=1e-12, pad_token_id=0, position_embedding_type="absolute"),
}
# To see that everything runs.
TINY = dict(hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, vocab_size=512)
BF16 = 2


@dataclass(frozen=True)
class Shape:
    """A base without weights, as a folder with its configuration names it."""
    name: str
    config: dict

    @classmethod
    def of(cls, name, tiny=False):
        config = dict(SHAPES[name])
        if tiny:
            config |= TINY
        if tiny and "head_dim" in config:
            config |= dict(num_key_value_heads=2, head_dim=16)
        return cls(name, config)

    def write(self, folder):
        """The folder, with its config.json."""
        folder.mkdir(parents=True, exist_ok=True)
        file, text = folder / "config.json", json.dumps(self.config, indent=1)
        # Another process may be reading it.
        if not file.exists() or file.read_text() != text:
            file.write_text(text)
        return folder

    @property
    def layers(self):
        return self.config["num_hidden_layers"]

    @property
    def tied(self):
        return self.config["tie_word_embeddings"]

    def matrices(self):
        """The linear layers of a decoder's layer: name, outputs, inputs."""
        c = self.config
        hidden, wide = c["hidden_size"], c["intermediate_size"]
        q, kv = c["num_attention_heads"] * c["head_dim"], c["num_key_value_heads"] * c["head_dim"]
        return [("self_attn.q_proj", q, hidden), ("self_attn.k_proj", kv, hidden), ("self_attn.v_proj", kv, hidden),
                ("self_attn.o_proj", hidden, q), ("mlp.gate_proj", wide, hidden), ("mlp.up_proj", wide, hidden),
                ("mlp.down_proj", hidden, wide)]

    def step_weight_bytes(self):
        """What a decode step reads of the weights: all but the input embedding, which is also the head where it is tied."""
        linears = self.layers * sum(outputs * inputs for _, outputs, inputs in self.matrices())
        norms = (2 * self.layers + 1) * self.config["hidden_size"]
        return BF16 * (linears + norms + self.config["vocab_size"] * self.config["hidden_size"])

    def kv_bytes(self, tokens):
        """Keys and values of so many tokens."""
        return BF16 * 2 * self.layers * self.config["num_key_value_heads"] * self.config["head_dim"] * tokens
