"""Read the training data as it is published, and split it: (train, validation, test), the same on every machine.

Generation tasks give {"text", "references": [...]}, classification tasks {"text", "target": [0/1, ...]} or {"text", "target": index}.
"""
import csv
import hashlib
import html
import json
import lzma
import random
import re
import sys
import tarfile
import zipfile
from collections import Counter

# File name -> sha-256 of what the shipped adapters were trained on. README.md says where each comes from.
FILES = {
    "en_paradetox.tsv": "f3f9ba6d522eef9fa9efa34b42a7cd00025bbf5df5bd0431d0cf94246dbe7874",
    "davidson.csv": "e4e0e00715d08eff000e562544cc14969da04db7b7eeb5ddf26f4cceccc986bf",
    "jigsaw_sample_train.csv": "22c41516951b602ea63b14c2ee6c72a99e6a1a9e4cc24a65dc929bea4156469f",
    "jigsaw_sample_val.csv": "02c9211468043c6c0c197af5bfb028e2cd1c060087f0138040a6dc761a78d312",
    "one-liner-joke-1.2.2.tgz": "c4b63bbd223c4acfb9f68b0190d9a8f6ffcf82c2813e9f616364c1f1090f3ea4",
    "pyjokes-0.8.3-py3-none-any.whl": "12836e61bc7a2c1ff302604a040f0f63ac36c5c947c20319fcb5d1ab37bac46e",
    "Translation-en.xz": "a3d4a0bfd8e9242810b0885eda7c1a6e05dac15b333ddbaab03ba56f2dfa4bf0",
}


def find(folder, name):
    path = folder / name
    if not path.is_file():
        sys.exit(f"train: {path} is missing; scripts/train_demo/README.md says where it comes from")
    if hashlib.sha256(path.read_bytes()).hexdigest() != FILES[name]:
        print(f"note: {name} is not the file the shipped adapters were trained on", file=sys.stderr)
    return path


def split(rows, validation, test, seed=7):
    rows = sorted(rows, key=lambda row: row["text"])
    random.Random(seed).shuffle(rows)
    return rows[validation + test:], rows[:validation], rows[validation:validation + test]


def words(text):
    return re.findall(r"[a-z*@$']+", text.lower())


def rude_words(rows):
    """Words that annotators met at least eight times and left standing in at most a fifth of the sentences."""
    seen, kept = Counter(), Counter()
    for row in rows:
        after = set(words(" ".join(row["references"])))
        for word in set(words(row["text"])):
            seen[word] += 1
            kept[word] += word in after
    return {word for word, count in seen.items() if count >= 8 and kept[word] <= 0.2 * count and len(word) > 2}


def detox(folder):
    """ParaDetox: toxic sentence -> up to three neutral rewrites. References that keep a rude word or change nothing are dropped."""
    with open(find(folder, "en_paradetox.tsv"), encoding="utf8", newline="") as file:
        table = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    tidy = lambda text: re.sub(r" +([.,!?;:])", r"\1", re.sub(r"\s+", " ", text.strip(' "')))
    rows = []
    for line in table:
        text = re.sub(r"\s+", " ", line["toxic"].strip(' "'))
        references = [tidy(line[key]) for key in ("neutral1", "neutral2", "neutral3") if line[key]]
        references = [one for one in references if words(one) and words(one) != words(text)]
        if text and references:
            rows.append({"text": text, "references": references})
    rude = rude_words(rows)
    for row in rows:
        row["references"] = [one for one in row["references"] if not rude & set(words(one))]
    return split([row for row in rows if row["references"]], 200, 500)


# Left out, so that what is learnt is fit to be shown: tags of the package, and words.
UNFIT_TAGS = set("dirty sex flirty insults rude racist black blonde gay hate fat ugly women men stupid political God christian "
                 "alcohol drug death marriage love beauty".split())
UNFIT_WORDS = re.compile(r"\b(sex\w*|ass|asses|boob\w*|naked|nude|suicid\w*|kill\w*|dead|die[sd]?|rape\w*|hitler|nazi\w*|jew\w*|muslim\w*|"
                         r"gay|lesbian\w*|black|fat|ugly|stupid|whore|bitch\w*|damn|hell|shit\w*|fuck\w*|penis|hard|laid|god|wife|"
                         r"girlfriend|wom[ae]n|girls?|lad(y|ies)|husbands?|drunk\w*|bullets?|cemetery|funeral|eskimos?)\b", re.I)


def joke(folder):
    """One-liners, cut into an opening and an ending: after the question mark, or after the first sentence or comma."""
    with tarfile.open(find(folder, "one-liner-joke-1.2.2.tgz")) as archive:
        entries = json.load(archive.extractfile("package/jokes.json"))
    jokes = [entry["body"] for entry in entries if not UNFIT_TAGS & set(entry["tags"])]
    scope = {}
    with zipfile.ZipFile(find(folder, "pyjokes-0.8.3-py3-none-any.whl")) as archive:
        exec(archive.read("pyjokes/jokes_en.py").decode(), scope)  # a module of nothing but lists
    jokes += scope["neutral"]
    rows = {}
    for body in jokes:
        body = re.sub(r"\s+", " ", html.unescape(body)).strip().replace("’", "'").replace(" ?", "?").replace(" !", "!")
        cut = re.match(r"(.{12,110}?[?.,:;!])\s+(.{6,140})$", body)
        if not cut or UNFIT_WORDS.search(body) or not body.isascii():
            continue
        ending = re.sub(r"^(A: |-+ ?)", "", cut[2])
        rows.setdefault(cut[1], {"text": cut[1], "references": [ending]})
    return split(rows.values(), 60, 100)


def summary(folder):
    """Debian package descriptions: the long text -> the one-line synopsis; one package per opening paragraph."""
    text = lzma.decompress(find(folder, "Translation-en.xz").read_bytes()).decode()
    rows, openings = [], set()
    for block in text.split("\n\n"):
        found = re.search(r"^Description-en: (.*)\n((?: .*\n?)*)", block, re.M)
        if not found or re.search(r"^Package: \S+-(dev|doc|dbg|data|common|locale\S*|l10n\S*)$", block, re.M):
            continue
        paragraphs = [re.sub(r"\s+", " ", one).strip() for one in re.split(r"\n? \.\n", found[2])]
        paragraphs = [one for one in paragraphs if one and not re.match(r"This (meta)?package (contains|provides|is|includes)", one)]
        body, synopsis = " ".join(paragraphs), found[1].strip()
        if not 150 <= len(body) <= 800 or not 15 <= len(synopsis) <= 80 or body[:60] in openings:
            continue
        if re.search(r"transitional|dummy|debug|metapackage|meta-package", synopsis + body, re.I):
            continue
        openings.add(body[:60])
        rows.append({"text": body, "references": [synopsis]})
    return split(rows, 200, 500)


TOXICITY = ["toxic", "severe_toxic", "obscene", "threat", "insult", "identity_hate"]
HATE = ["hate_speech", "offensive_language", "neither"]


def toxicity(folder):
    """Wikipedia talk-page comments with six labels; the sample's own validation file is the test set."""
    def read(name):
        with open(find(folder, name), encoding="utf8", newline="") as file:
            for line in csv.DictReader(file):
                yield {"text": re.sub(r"\s+", " ", line["comment_text"]).strip(), "target": [int(line[label]) for label in TOXICITY]}
    train, validation, _ = split(read("jigsaw_sample_train.csv"), 150, 0)
    return train, validation, list(read("jigsaw_sample_val.csv"))


def hate(folder):
    """Tweets: hate speech, offensive language, neither. Names, links and retweet marks are cut."""
    with open(find(folder, "davidson.csv"), encoding="utf8", newline="") as file:
        lines = list(csv.DictReader(file))
    rows = {}
    for line in lines:
        text = re.sub(r"https?://\S+|@\w+:?|\bRT\b|&#\d+;|^[!\" ]+", " ", line["tweet"])
        text = re.sub(r"\s+", " ", html.unescape(text)).strip()
        if text:
            rows[text] = {"text": text, "target": int(line["class"])}
    return split(rows.values(), 1000, 2000)
