#!/usr/bin/env python3
"""Turns the demonstration's GGUF of SmolLM2-135M into a Hugging Face folder in f32, for peers that read those.

  PYTHON benches/peers/convert.py FOLDER       PYTHON: the one of benches/peers/peft/setup.sh

Every weight is the Q4_1 file's, dequantised: the numbers that Repertoire and PEFT compute with.
"""
import json
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "models/smollm2-135m"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"


def main(into):
    model = AutoModelForCausalLM.from_pretrained(SOURCE, gguf_file=GGUF, dtype=torch.float32)
    config = model.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    # A model that knows nothing of GGUF: the loaded one refuses to be saved.
    plain = type(model)(config)
    plain.load_state_dict(model.state_dict())
    plain.float().save_pretrained(into)
    AutoTokenizer.from_pretrained(SOURCE, gguf_file=GGUF).save_pretrained(into)
    # Others still read this under the name that transformers gave it before version 5.
    file = into / "config.json"
    saved = json.loads(file.read_text())
    saved["rope_theta"] = saved["rope_parameters"]["rope_theta"]
    file.write_text(json.dumps(saved, indent=2))
    # The conversion forgets that this tokenizer takes digits one by one.
    file = into / "tokenizer.json"
    tokenizer = json.loads(file.read_text(encoding="utf-8"))
    tokenizer["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [
        {"type": "Digits", "individual_digits": True},
        {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}]}
    tokenizer["post_processor"] = None
    file.write_text(json.dumps(tokenizer, ensure_ascii=False), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
