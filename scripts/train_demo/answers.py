#!/usr/bin/env python3
"""What PEFT answers to scripts/demo/cases.json: greedy, f32, one at a time, as JSON. Repertoire must say the same.

  python scripts/train_demo/answers.py > /tmp/reference.json
"""
import json
import sys

import peft
import torch

from bases import DEFAULT, ROOT, load_decoder, load_encoder


def generate(model, tokenizer, prompt, settings):
    """The answer, its token ids, and how far the best token led the second at the closest call."""
    inputs = tokenizer(prompt, return_tensors="pt")
    with torch.no_grad():
        out = model.generate(input_ids=inputs.input_ids, attention_mask=inputs.attention_mask, do_sample=False,
                             output_logits=True, return_dict_in_generate=True, **settings)
    tokens = out.sequences[0, inputs.input_ids.shape[1]:].tolist()
    margins = [float(-torch.diff(one[0].float().topk(2).values)) for one in out.logits]
    return {"text": tokenizer.decode(tokens, skip_special_tokens=True), "tokens": tokens, "least_margin": round(min(margins), 4)}


def main():
    cases = json.loads((ROOT / "scripts/demo/cases.json").read_text())
    decoder, words = load_decoder(DEFAULT["smollm2"])
    for name in dict.fromkeys(case["id"] for case in cases):
        folder = ROOT / "adapters" / name
        about = json.loads((folder / "repertoire.json").read_text())
        if about["task"] == "generate":
            model, tokenizer = peft.PeftModel.from_pretrained(decoder, folder).eval(), words
        else:
            model, tokenizer = load_encoder(DEFAULT["minilm"], about["labels"], about["problem_type"])
            model = peft.PeftModel.from_pretrained(model, folder).eval()
        for case in cases:
            if case["id"] != name:
                continue
            if about["task"] == "generate":
                prompt = about["prompt_format"].replace("{text}", case["input"])
                case["adapter"] = generate(model, tokenizer, prompt, about["generation"])
                with model.disable_adapter():
                    case["base"] = generate(model, tokenizer, prompt, about["generation"])
            else:
                with torch.no_grad():
                    logits = model(**tokenizer(case["input"], return_tensors="pt")).logits[0]
                scores = logits.sigmoid() if about["problem_type"].startswith("multi") else logits.softmax(0)
                case["scores"] = {label: round(float(score), 5) for label, score in zip(about["labels"], scores)}
            print(json.dumps(case, ensure_ascii=False)[:400], file=sys.stderr, flush=True)
        if about["task"] == "generate":
            decoder = model.unload() if not model.active_peft_config.is_prompt_learning else model.get_base_model()
    json.dump(cases, sys.stdout, indent=1, ensure_ascii=False)


if __name__ == "__main__":
    main()
