#!/usr/bin/env python3
"""Train one demonstration adapter with PEFT, measure it on held-out data, write adapters/<task>/.

  python scripts/train_demo/train.py detox --data DATA_FOLDER [--base PATH] [--out adapters]

Runs on a GPU when torch sees one, else on the CPU. Fixed seeds: the same machine gives the same adapter.
README.md beside this file lists the data and what to install.
"""
import argparse
import json
import math
import random
import time
from pathlib import Path

import peft
import torch
from safetensors.torch import load_file, save_file
from transformers import set_seed

import data
from bases import DEFAULT, ROOT, load_decoder, load_encoder
from evaluate import score_classifier, score_generator
from tasks import TASKS

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
METHODS = {"lora": peft.LoraConfig, "ia3": peft.IA3Config, "prompt_tuning": peft.PromptTuningConfig, "prefix_tuning": peft.PrefixTuningConfig}


def wrap(model, tokenizer, task):
    """Put the task's untrained adapter on the model."""
    method = dict(task["method"])
    kind, init = method.pop("type"), method.pop("init", None)
    config = METHODS[kind](task_type="SEQ_CLS" if "labels" in task else "CAUSAL_LM", base_model_name_or_path=task["public_base"], **method)
    model = peft.get_peft_model(model, config)
    config.base_model_name_or_path = task["public_base"]
    if init:  # virtual tokens begin as the embeddings of a text, repeated to their number
        ids = tokenizer(init).input_ids
        ids = (ids * math.ceil(config.num_virtual_tokens / len(ids)))[:config.num_virtual_tokens]
        with torch.no_grad():
            model.prompt_encoder["default"].embedding.weight.copy_(model.get_input_embeddings().weight[ids])
    return model


def pad(rows, value):
    longest = max(map(len, rows))
    return torch.tensor([row + [value] * (longest - len(row)) for row in rows], device=DEVICE)


def generation_batch(rows, task, tokenizer, rng):
    """Prompt and answer are tokenised apart and end of text is appended; only the answer counts in the loss."""
    ids, labels = [], []
    for row in rows:
        prompt = tokenizer(task["prompt_format"].replace("{text}", row["text"])).input_ids
        answer = tokenizer(" " + rng.choice(row["references"])).input_ids + [tokenizer.eos_token_id]
        ids.append(prompt + answer)
        labels.append([-100] * len(prompt) + answer)
    mask = [[1] * len(row) for row in ids]
    return {"input_ids": pad(ids, tokenizer.pad_token_id), "attention_mask": pad(mask, 0), "labels": pad(labels, -100)}


def classification_batch(rows, task, tokenizer):
    ids = [tokenizer(row["text"], truncation=True, max_length=128).input_ids for row in rows]
    kind = torch.float if task["problem_type"].startswith("multi") else torch.long
    return {"input_ids": pad(ids, 0), "attention_mask": pad([[1] * len(row) for row in ids], 0),
            "labels": torch.tensor([row["target"] for row in rows], dtype=kind, device=DEVICE)}


def loss_of(model, task, batch):
    """The model's own loss, or one that counts rare labels more (`label_weights`)."""
    if "label_weights" not in task:
        return model(**batch).loss
    weights = torch.tensor(task["label_weights"], dtype=torch.float, device=DEVICE)
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    if task["problem_type"].startswith("multi"):
        return torch.nn.functional.binary_cross_entropy_with_logits(logits, batch["labels"], pos_weight=weights)
    return torch.nn.functional.cross_entropy(logits, batch["labels"], weight=weights)


def train(model, tokenizer, task, rows, steps):
    """AdamW, 5 % warm-up, linear decay; batches of similar length in random order."""
    rng = random.Random(1)
    per_epoch = math.ceil(len(rows) / task["batch"])
    total = steps or per_epoch * task["epochs"]
    trainable = [one for one in model.parameters() if one.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=task["learning_rate"], weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda n: min((n + 1) / (0.05 * total + 1), 1 - n / total))
    model.train()
    started, seen, done = time.time(), 0.0, 0
    while done < total:
        order = sorted(rows, key=lambda row: len(row["text"]) + rng.uniform(0, 20))
        batches = [order[i:i + task["batch"]] for i in range(0, len(order), task["batch"])]
        rng.shuffle(batches)
        for chunk in batches[:total - done]:
            batch = classification_batch(chunk, task, tokenizer) if "labels" in task else generation_batch(chunk, task, tokenizer, rng)
            loss = loss_of(model, task, batch)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trainable, 1.0)
            optimizer.step(), schedule.step(), optimizer.zero_grad()
            seen, done = seen + loss.detach(), done + 1
            if done % 50 == 0 or done == total:
                print(f"step {done}/{total}  loss {float(seen) / ((done - 1) % 50 + 1):.4f}  {time.time() - started:.0f} s", flush=True)
                seen = 0.0
    model.eval()


def save(model, folder, task):
    """PEFT's own files, weights in f16 without a machine's paths, and Repertoire's metadata beside them."""
    model.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's template; ours is written by hand
    file = folder / "adapter_model.safetensors"
    save_file({name: one.half().contiguous() for name, one in load_file(file).items()}, file, metadata={"format": "pt"})
    config = json.loads((folder / "adapter_config.json").read_text())
    config.update(base_model_name_or_path=task["public_base"])
    for key in ("target_modules", "feedforward_modules", "modules_to_save"):
        if isinstance(config.get(key), list):
            config[key].sort()
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    keys = ("labels", "problem_type", "prompt_format", "generation", "description")
    about = {"base": task["base"], "task": "classify" if "labels" in task else "generate"} | {key: task[key] for key in keys if key in task}
    (folder / "repertoire.json").write_text(json.dumps(about, indent=2, ensure_ascii=False) + "\n")


def round_weights(model):
    """What is saved in f16 is what gets measured."""
    for one in model.parameters():
        if one.requires_grad:
            one.data = one.data.half().float()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("--base", help="the base model (default: where scripts/fetch_models.py puts it)")
    parser.add_argument("--data", type=Path, default=ROOT / "data/demo", help="folder with the files that README.md lists")
    parser.add_argument("--out", type=Path, default=ROOT / "adapters")
    parser.add_argument("--steps", type=int, default=0, help="stop early, for a trial")
    parser.add_argument("--measure", type=int, default=2000, help="how many validation and test texts to measure on, at most")
    parser.add_argument("--report", type=Path, help="write the measures here, as JSON")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=JSON", help="another value, e.g. epochs=2 or method.r=4")
    options = parser.parse_args()

    task = TASKS[options.task]
    for pair in options.set:
        (*outer, key), value = pair.split("=")[0].split("."), json.loads(pair.split("=", 1)[1])
        (task[outer[0]] if outer else task)[key] = value
    set_seed(1)
    torch.set_float32_matmul_precision("high")
    base = options.base or DEFAULT[task["base"]]
    rows, validation, test = getattr(data, options.task)(options.data)
    if "labels" in task:
        model, tokenizer = load_encoder(base, task["labels"], task["problem_type"])
    else:
        model, tokenizer = load_decoder(base)
    model = wrap(model, tokenizer, task).to(DEVICE)
    print(f"{options.task}: {len(rows)} training rows, {model.get_nb_trainable_parameters()[0]} parameters, on {DEVICE}", flush=True)
    train(model, tokenizer, task, rows, options.steps)
    round_weights(model)
    folder = options.out / options.task
    folder.mkdir(parents=True, exist_ok=True)
    save(model, folder, task)
    torch.set_float32_matmul_precision("highest")
    score = score_classifier if "labels" in task else score_generator
    report = {name: score(model, tokenizer, task, rows, texts[:options.measure], options.task)
              for name, texts in (("validation", validation), ("test", test))}
    text = json.dumps(report, indent=1, ensure_ascii=False)
    print(text)
    if options.report:
        options.report.write_text(text + "\n")


if __name__ == "__main__":
    main()
