"""The few measures the adapters' READMEs quote, small enough to read."""
import re
from collections import Counter


def chrf(answer, references, order=6, beta=2.0):
    """chrF2 (character n-grams up to 6, blanks ignored), 0..100, against the best reference."""
    def one(reference):
        a, b = re.sub(r"\s", "", answer), re.sub(r"\s", "", reference)
        precision = recall = used = 0
        for n in range(1, order + 1):
            x = Counter(a[i:i + n] for i in range(len(a) - n + 1))
            y = Counter(b[i:i + n] for i in range(len(b) - n + 1))
            if not x or not y:
                continue
            hits = sum((x & y).values())
            precision, recall, used = precision + hits / sum(x.values()), recall + hits / sum(y.values()), used + 1
        if not used or precision + recall == 0:
            return 0.0
        precision, recall = precision / used, recall / used
        return 100 * (1 + beta**2) * precision * recall / (beta**2 * precision + recall)
    return max(map(one, references))


def rouge_l(answer, references):
    """ROUGE-L F1 over lower-case words, 0..100, against the best reference."""
    def one(reference):
        a, b = re.findall(r"\w+", answer.lower()), re.findall(r"\w+", reference.lower())
        row = [0] * (len(b) + 1)
        for word in a:
            previous = 0
            for j, other in enumerate(b, 1):
                previous, row[j] = row[j], previous + 1 if word == other else max(row[j], row[j - 1])
        common = row[-1]
        return 200 * common / (len(a) + len(b)) if common else 0.0
    return max(map(one, references))


def f1_table(targets, predictions, labels):
    """Per label: precision, recall, F1 and support; then macro and micro F1. Both arguments are rows of 0/1."""
    table, total = {}, Counter()
    for i, label in enumerate(labels):
        hit = sum(t[i] and p[i] for t, p in zip(targets, predictions))
        said = sum(p[i] for p in predictions)
        support = sum(t[i] for t in targets)
        total.update(hit=hit, said=said, support=support)
        table[label] = {"precision": hit / said if said else 0.0, "recall": hit / support if support else 0.0,
                        "f1": 2 * hit / (said + support) if said + support else 0.0, "support": support}
    macro = sum(row["f1"] for row in table.values()) / len(labels)
    return {"labels": table, "macro_f1": macro, "micro_f1": 2 * total["hit"] / max(1, total["said"] + total["support"])}
