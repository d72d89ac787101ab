"""What each demonstration adapter is: base, kind, prompt format and settings. data.py holds a reader of the same name."""
from data import HATE, TOXICITY

SMOLLM2, MINILM = "HuggingFaceTB/SmolLM2-135M-Instruct", "sentence-transformers/all-MiniLM-L6-v2"

TASKS = {
    "detox": {
        "base": "smollm2", "public_base": SMOLLM2,
        "description": "Rewrites a rude sentence politely (ParaDetox).",
        "prompt_format": "Rewrite politely: {text}\nPolite:",
        "instruction": "Rewrite this sentence politely, without insults or swear words. Answer with the sentence only.\n{text}",
        "generation": {"max_new_tokens": 64},
        "method": {"type": "lora", "r": 4, "lora_alpha": 8,
                   "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]},
        "epochs": 3, "batch": 32, "learning_rate": 1e-3,
    },
    "joke": {
        "base": "smollm2", "public_base": SMOLLM2,
        "description": "Ends the one-liner you begin. Not always funny, always short.",
        "prompt_format": "{text}",
        "instruction": "Finish this joke with a short punchline. Answer with the punchline only.\n{text}",
        "generation": {"max_new_tokens": 40},
        "method": {"type": "prefix_tuning", "num_virtual_tokens": 8},
        "epochs": 15, "batch": 16, "learning_rate": 1e-2,
    },
    "summary": {
        "base": "smollm2", "public_base": SMOLLM2,
        "description": "Says in one line what a piece of software is (Debian descriptions).",
        "prompt_format": "{text}\nIn one line:",
        "instruction": "Say in one short line what this software is. Answer with the line only.\n{text}",
        "generation": {"max_new_tokens": 40},
        "method": {"type": "ia3", "target_modules": ["k_proj", "v_proj", "down_proj"], "feedforward_modules": ["down_proj"]},
        "epochs": 1, "batch": 32, "learning_rate": 1e-2,
    },
    "toxicity": {
        "base": "minilm", "public_base": MINILM,
        "description": "Six kinds of toxicity in a comment, any number at once (Jigsaw sample).",
        "labels": TOXICITY, "problem_type": "multi_label_classification",
        "method": {"type": "lora", "r": 8, "lora_alpha": 16, "target_modules": ["query", "key", "value", "attention.output.dense"]},
        "epochs": 12, "batch": 16, "learning_rate": 1e-3, "label_weights": [3, 3, 3, 3, 3, 3],
    },
    "hate": {
        "base": "minilm", "public_base": MINILM,
        "description": "Hate speech, offensive language or neither (Davidson et al.).",
        "labels": HATE, "problem_type": "single_label_classification",
        "method": {"type": "ia3", "target_modules": ["key", "value", "output.dense"], "feedforward_modules": ["output.dense"]},
        "epochs": 6, "batch": 32, "learning_rate": 1e-2, "label_weights": [2.5, 1, 1.3],
    },
}
