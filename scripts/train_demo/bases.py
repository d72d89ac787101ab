"""Load a base model as Repertoire does: the GGUF's dequantised weights in f32, the Hugging Face folder as it is."""
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

ROOT = Path(__file__).resolve().parents[2]
DEFAULT = {"smollm2": ROOT / "models/smollm2-135m/SmolLM2-135M-Instruct.Q4_1.gguf", "minilm": ROOT / "models/minilm"}


def plain(model):
    """The same model without the mark of its GGUF origin: PEFT treats marked models as quantised ones."""
    config = model.config
    if not hasattr(config, "quantization_config"):
        return model
    del config.quantization_config
    fresh = type(model)(config)
    fresh.load_state_dict(model.state_dict())
    fresh.generation_config = model.generation_config
    return fresh


def load_decoder(path):
    path = Path(path)
    model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    # transformers forgets that the "smollm" pre-tokeniser splits digits.
    from tokenizers import pre_tokenizers as pre
    tokenizer.backend_tokenizer.pre_tokenizer = pre.Sequence([pre.Digits(individual_digits=True), pre.ByteLevel(add_prefix_space=False)])
    tokenizer.eos_token = tokenizer.pad_token = tokenizer.convert_ids_to_tokens(model.config.eos_token_id)
    tokenizer.padding_side = "left"
    return plain(model), tokenizer


def load_encoder(path, labels, problem_type):
    model = AutoModelForSequenceClassification.from_pretrained(path, num_labels=len(labels), problem_type=problem_type, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(path)
    tokenizer.backend_tokenizer.no_padding()
    return model, tokenizer
