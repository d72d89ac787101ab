"""Held-out quality: the adapter against the plain base, greedy decoding in f32."""
import math
from contextlib import contextmanager

import torch

from data import rude_words, words
from metrics import chrf, f1_table, rouge_l


def answers(model, tokenizer, prompts, generation, batch=100):
    out = []
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    for start in range(0, len(order), batch):
        chosen = order[start:start + batch]
        inputs = tokenizer([prompts[i] for i in chosen], return_tensors="pt", padding=True).to(model.device)
        with torch.no_grad():
            tokens = model.generate(input_ids=inputs.input_ids, attention_mask=inputs.attention_mask, do_sample=False, **generation)
        new = tokens[:, inputs.input_ids.shape[1]:]
        out += zip(chosen, tokenizer.batch_decode(new, skip_special_tokens=True))
    return [text.strip() for _, text in sorted(out)]


def perplexity(model, tokenizer, task, rows):
    """Of the first reference (and its end of text) after the prompt, per token."""
    loss = count = 0
    for row in rows:
        prompt = tokenizer(task["prompt_format"].replace("{text}", row["text"])).input_ids
        answer = tokenizer(" " + row["references"][0]).input_ids + [tokenizer.eos_token_id]
        ids = torch.tensor([prompt + answer], device=model.device)
        labels = torch.tensor([[-100] * len(prompt) + answer], device=model.device)
        with torch.no_grad():
            loss += model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=labels).loss.item() * len(answer)
        count += len(answer)
    return math.exp(loss / count)


@contextmanager
def plain_base(model):
    with model.disable_adapter():
        yield model


def score_generator(model, tokenizer, task, rows, test, name):
    rude = rude_words([{"text": row["text"], "references": row["references"]} for row in rows]) if name == "detox" else set()

    def measure(texts):
        length = sum(len(words(text)) for text in texts) / len(texts)
        found = {"chrf": sum(chrf(text, row["references"]) for text, row in zip(texts, test)) / len(test),
                 "rouge_l": sum(rouge_l(text, row["references"]) for text, row in zip(texts, test)) / len(test),
                 "mean_words": length}
        if rude:
            found["with_rude_word_percent"] = 100 * sum(bool(rude & set(words(text))) for text in texts) / len(texts)
        return {key: round(value, 2) for key, value in found.items()}

    prompts = [task["prompt_format"].replace("{text}", row["text"]) for row in test]
    chats = [tokenizer.apply_chat_template([{"role": "user", "content": task["instruction"].replace("{text}", row["text"])}],
                                           tokenize=False, add_generation_prompt=True) for row in test]
    with_adapter = answers(model, tokenizer, prompts, task["generation"])
    report = {"test_rows": len(test), "adapter": measure(with_adapter)}
    report["adapter"]["perplexity"] = round(perplexity(model, tokenizer, task, test), 2)
    with plain_base(model) as base:
        same = answers(base, tokenizer, prompts, task["generation"])
        chat = answers(base, tokenizer, chats, task["generation"])
        report["base_same_prompt"] = measure(same) | {"perplexity": round(perplexity(base, tokenizer, task, test), 2)}
        report["base_chat_instruction"] = measure(chat)
    if name == "detox":
        report["input_copied"] = measure([row["text"] for row in test])
    report["examples"] = [{"text": row["text"], "adapter": a, "base": b, "base_chat": c, "reference": row["references"][0]}
                          for row, a, b, c in list(zip(test, with_adapter, same, chat))[:40]]
    return report


def scores(model, tokenizer, texts, batch=64):
    out = []
    for start in range(0, len(texts), batch):
        inputs = tokenizer(texts[start:start + batch], return_tensors="pt", padding=True, truncation=True, max_length=512).to(model.device)
        with torch.no_grad():
            out.append(model(**inputs).logits.cpu())
    return torch.cat(out)


def score_classifier(model, tokenizer, task, rows, test, name):
    """Against the best constant answer, since a base without a head cannot answer at all."""
    labels, multi = task["labels"], task["problem_type"].startswith("multi")
    one_hot = lambda index: [int(i == index) for i in range(len(labels))]
    targets = [row["target"] if multi else one_hot(row["target"]) for row in test]
    logits = scores(model, tokenizer, [row["text"] for row in test])
    predictions = (logits > 0).int().tolist() if multi else [one_hot(int(i)) for i in logits.argmax(1)]
    always = [0] * len(labels)
    if not multi:
        always[max(range(len(labels)), key=lambda i: sum(row["target"] == i for row in rows))] = 1
    round3 = lambda table: {key: {k: round(v, 3) for k, v in value.items()} if isinstance(value, dict) else round(value, 3) for key, value in table.items()}
    tidy = lambda table: round3(table["labels"]) | {"macro_f1": round(table["macro_f1"], 3), "micro_f1": round(table["micro_f1"], 3)}
    report = {"test_rows": len(test), "adapter": tidy(f1_table(targets, predictions, labels)),
              "always_the_most_frequent": tidy(f1_table(targets, [always] * len(test), labels))}
    report["adapter"]["exact_match"] = round(sum(t == p for t, p in zip(targets, predictions)) / len(test), 3)
    report["examples"] = [{"text": row["text"][:200], "target": t, "predicted": p} for row, t, p in list(zip(test, targets, predictions))[:60] if any(p) or any(t)]
    return report
