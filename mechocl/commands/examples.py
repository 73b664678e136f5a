"""Two examples of each command, which its help shows. They begin after the command's name."""

from typing import Final

EXAMPLES: Final[dict[str, tuple[str, str]]] = {
    "demo": ("--fast --out runs/fast", "--seeds 12 --out runs/demo"),
    "train": (
        "integer-set/cpu --out runs/mine --seeds 8",
        "integer-set/cpu --out runs/order-VTE --set task.word_order=VTE task.aliases=500",
    ),
    "sweep": (
        "integer-set/cpu --over task.word_order=TVE,VTE --out runs/orders --seeds 4",
        "--table runs/orders --figure orders.html",
    ),
    "controls": (
        "integer-set/cpu --out runs/mine --seeds 8",
        "integer-set/cpu --only noise unasked --out runs/mine",
    ),
    "twins": ("runs/demo", "runs/demo --save-every 5"),
    "variants": ("runs/demo", "runs/demo --only frozen-tags tag-3-backward"),
    "pretrain biographies": (
        "--out models/small",
        "--people 500 --n-layers 2 --epochs 2 --out models/tiny",
    ),
    "pretrain miniature": ("--out runs/miniature", "--seed 1 --phrasings 3 --out models/three-phrasings"),
    "finetune": (
        "closed-book/biographies --model models/small --out runs/text",
        "closed-book/two-stage --seeds 3 --dry-run",
    ),
    "evaluate": ("runs/demo", "runs/demo --stage 1"),
    "lens": ("runs/demo --of stream mlps", "runs/demo --kind direct --aliases-per-subset 50"),
    "patch": (
        "runs/demo --site z --pairs d1-to-d2 --by role",
        "runs/demo --mode mean --metric within_alias_auc --n-pairs 50",
    ),
    "circuit": (
        "runs/demo --pairs d1-to-other-d2 --n-pairs 50",
        "runs/demo --method eap-ig --steps 16 --no-suppression",
    ),
    "graft": ("runs/demo", "runs/demo --aliases-per-subset 50 --no-steering"),
    "subspace": ("runs/demo", "runs/demo --sites resid_mid --positions alias --ks 1 2"),
    "gradients": ("runs/demo", "runs/demo --question-loss answer --aliases-per-subset 50 --no-by-alias"),
    "updates": ("runs/demo", "runs/demo --learning-rate 1e-3 --aliases-per-subset 20"),
    "probe": (
        "runs/demo --sites resid_post attn_out --checkpoints stages",
        "runs/demo runs/order-VTE --recipe recency --permutations 0",
    ),
    "sae train": (
        "runs/demo --site blocks.0.hook_resid_pre --width 1024 --k 16",
        "runs/demo --site blocks.0.hook_mlp_out --architecture transcoder --roles alias equals",
    ),
    "sae search": (
        "runs/demo blocks.0.hook_resid_pre-topk-1024-k16-s0",
        "runs/demo blocks.0.hook_resid_pre-topk-1024-k16-s0 --group tag integer",
    ),
    "sae test": (
        "runs/demo blocks.0.hook_resid_pre-topk-1024-k16-s0",
        "runs/demo blocks.0.hook_resid_pre-topk-1024-k16-s0 --features 193 --property tag --position alias",
    ),
    "sae dashboard": (
        "runs/demo blocks.0.hook_resid_pre-topk-1024-k16-s0",
        "runs/demo blocks.0.hook_resid_pre-topk-1024-k16-s0 --out features.html",
    ),
    "crosscoder": (
        "runs/demo --site blocks.0.hook_resid_post",
        "runs/demo --checkpoints all --width 1024 --k 8",
    ),
    "data cvdb": ("--check cross-verified-database.csv.gz", "--check people.csv --entities 1000"),
    "gguf": ("models/small.gguf --out models/small", "SmolLM2-135M-Instruct.Q4_1.gguf --out models/smol"),
    "model patch": (
        "models/small --pairs pairs.csv",
        "models/small --pairs pairs.csv --site z v --by all --out rows.csv",
    ),
    "model lens": ("models/small --pairs pairs.csv", "models/small --pairs pairs.csv --out lens.csv"),
    "model attribute": ("models/small --pairs pairs.csv", "models/small --pairs pairs.csv --out parts.csv"),
    "data trex": ("--check TREx_json", "--check re-nlg_0-10000.json --entities 100 --min-predicates 2"),
    "data facts": (
        "--model runs/smollm2 --out runs/facts-smollm2.json",
        "--model models/small --out facts.json --least-known 4 --min-population 1000000",
    ),
    "parity": ("models/small", "models/small --dtype bfloat16 --fold --centre"),
    "dynamics": ("runs/demo", "runs/demo --out curves.html"),
    "verdict": ("runs/mine --plan", "runs/mine runs/more --out verdict.md"),
    "report": ("runs/demo --open", "runs/demo --out demo.html --jobs 1"),
    "share": ("runs/demo --story demo", "runs/demo --seeds 0,1 --aliases 20 --out aliases.html"),
    "serve": ("runs/demo", "runs/demo --seeds 0,1 --port 0 --no-browser"),
    "runs": ("", "runs"),
    "completion": ("bash", "fish"),
}
"""Command → its examples."""
