"""Every folder of results and every table in it, by name, with its columns.

Names and columns are checked, not computed with; where code does compute with a list of columns, it
imports that list, and only that list counts as its code (see `lib.stages.closure`).
"""

STAGES = {  # folder: (notebook that fills it, stage of the pipeline)
    "model": ("01_model_and_facts", "model"),
    "text": ("20_edit", "text"),
    "facts": ("01_model_and_facts", "facts"),
    "unedited": ("01_model_and_facts", "facts"),
    "causal_tracing": ("10_causal_tracing", "causal_tracing"),
    "attribution_patching": ("11_attribution_patching", "attribution_patching"),
    "fact_lookup": ("12_fact_lookup", "fact_lookup"),
    "choose_components": ("13_choose_components", "choose_components"),
    "engines": ("14_engines", "engines"),
    "settings": ("15_settings", "settings"),
    "edit": ("20_edit", "edit"),
    "sweep": ("24_sweep", "sweep"),
    "weight_masks": ("21_weight_masks", "weight_masks"),
    "sequential": ("22_sequential", "sequential"),
    "scaling": ("23_scaling", "scaling"),
    "attack_formats": ("30_attack_formats", "attack_formats"),
    "attack_relearn": ("31_attack_relearn", "attack_relearn"),
    "attack_prompts": ("32_attack_prompts", "attack_prompts"),
    "attack_weights": ("33_attack_weights", "attack_weights"),
    "attack_inside": ("34_inside", "attack_inside"),
    "side_effects": ("40_side_effects", "side_effects"),
    "results": ("50_results", "results"),
    "comparison": ("51_paper_comparison", "comparison"),
    "score_card": ("52_score_card", "score_card"),
}

UNEDITED = "unedited"  # the model before any edit, in columns `localization`
ANSWERS = ["id", "relation", "format", "true", "edit", "answer", "p_true", "p_edit"]
ASKED = ["id", "split", *ANSWERS[1:]]  # with the fact's role
ATTACKED = ["localization", "attack", "variant", "budget", *ASKED]
LEDGER = ["localization", "attack", "variant", "budget", "taught", "trained", "steps", "gflop"]
KEPT = ["retained", "text"]  # mean probability of retained answers, text loss in nats
NODE = ["kind", "layer", "head"]
EFFECTS = [*NODE, "effect", "low", "high", "n"]
STABILITY = ["over", "value", "low", "high", "chance"]
ESTIMATE = ["value", "low", "high", "n"]
VERSUS = [*ESTIMATE, "a_value", "a_low", "a_high", "b_value", "b_low", "b_high", "size", "p"]

TABLES = {  # folder/table: columns it has at least
    "facts/asked": ["relation", "subject", "label", "answer", "probability"],
    "facts/rejected": ["row", "reason"],
    "unedited/unedited": ASKED,
    "unedited/known_by_format": ["format", "right", "invented", "chance", "counts"],
    "causal_tracing/token_map": ["node", "order", "place", "layer", "returned", "subject"],
    "causal_tracing/place_map": ["node", "order", "place", "layer", "returned", "n"],
    "causal_tracing/rows": ["id", *NODE, "p_clean", "p_corrupt", "p_restored"],
    "causal_tracing/effects": EFFECTS,
    "causal_tracing/stability": STABILITY,
    "attribution_patching/rows": ["id", *NODE, "score", "ld_clean", "ld_corrupt"],
    "attribution_patching/effects": EFFECTS,
    "attribution_patching/stability": STABILITY,
    "attribution_patching/agreement": [*NODE, "estimate", "exact"],
    "fact_lookup/probes": ["control", "kind", "layer", *ESTIMATE],
    "fact_lookup/sensitivity": ["start_fraction", "end_fraction", "layers"],
    "fact_lookup/heads": [*NODE, "effect", "error"],
    "fact_lookup/mlps": [*NODE, "effect", "error"],
    "fact_lookup/head_rows": ["id", *NODE, "change", "gap"],
    "fact_lookup/mlp_rows": ["id", *NODE, "receiver", "change", "gap"],
    "fact_lookup/how_often": ["layer", "effect", "share", "chosen"],
    "fact_lookup/path_sensitivity": ["heads", "threshold", "mlps"],
    "fact_lookup/stability": ["route", *STABILITY],
    "choose_components/overview": ["localization", "mlps", "attention", "weights", "edited"],
    "choose_components/overlap": ["localization", "mechanism", "of_mechanism", "of_trained"],
    "engines/agreement": ["engine", "what", "difference"],
    "engines/curves": ["curve", "case", "layer", "probability"],
    "edit/log": ["step", "edit", "retain", "text", "strength"],
    "edit/way": ["at", "step", "strength", *ASKED],
    "settings/trials": ["localization", "lr", "weight_edit", "step", "strength", *KEPT],
    "sweep/edits": ["localization", "trained_on", "steps", "strength", "reached", *KEPT],
    "sweep/asked": ["localization", "trained_on", *ASKED],
    "sweep/relearned": ["trained_on", *ATTACKED],
    "weight_masks/rows": [*ANSWERS, "localization", "count", "split", "kind"],
    "weight_masks/curve": ["localization", "count", "kind", "split", *ESTIMATE],
    "sequential/rows": [*ANSWERS, "localization", "after", "batch", "right", "kind"],
    "sequential/edits": ["localization", "batch", "layers", "steps", "strength", "reached"],
    "sequential/curve": ["localization", "kind", "batch", "after", *ESTIMATE],
    "scaling/edits": ["localization", "facts", "steps", "strength", "reached"],
    "scaling/curve": ["localization", "facts", "kind", "split", *ESTIMATE],
    **{f"attack_{g}/rows": ATTACKED for g in ("formats", "relearn", "prompts", "weights")},
    "attack_inside/rows": ATTACKED,
    **{f"attack_{g}/ledger": LEDGER for g in ("formats", "relearn", "prompts", "weights")},
    "attack_inside/ledger": LEDGER,
    "attack_inside/by_layer": ["localization", "reader", "layer", "split", "answer", *ESTIMATE],
    "side_effects/retained": ["localization", "group", *ANSWERS],
    "side_effects/text": ["localization", "text", "passage", "loss", "kl"],
    "side_effects/samples": ["localization", "prompt", "written"],
    "side_effects/benchmarks": ["localization", "benchmark", "value", "error", "note"],
    "results/edits": ["localization", "also", "mlp", "attention", "steps", "strength", "reached"],
    "results/answers": [
        "localization",
        "format",
        "kind",
        "new",
        "old",
        "other",
        "retained",
        "counts",
    ],
    "results/carried": ["localization", "kind", "says", *ESTIMATE, "all_formats", "formats"],
    "results/relearning": ["localization", "split", "step", *ESTIMATE],
    "results/back": ["localization", "back", *ESTIMATE, "step", "failed", "R_value", "R_floor"],
    "results/conditions": ["localization", "condition", "value", "limit", "met"],
    "results/fits": ["measure", "model", "n", "at", "at_error", "first", "last", "left_out"],
    "results/contrasts": ["question", "measure", "a", "b", *VERSUS, "verdict"],
    "results/pairwise": ["measure", "localization", *VERSUS, "p_corrected", "verdict"],
    "results/way": ["localization", "at", "strength", "what", "value"],
    "results/wordings": ["localization", "kind", "says", "trained_on"],
    "results/side_effects": ["localization", "measure", *ESTIMATE],
    "results/facts": ["measure", "localization", "id", "true", "edit", "value"],
    "score_card/attacks": ["localization", "attack", *ESTIMATE, "back", "failed", "admitted"],
    "score_card/worst_case": ["localization", "attack", "back", *ESTIMATE, "floor", "luck"],
    "score_card/ledger": LEDGER,
    "comparison/expectations": ["number", "expectation", "task", "published", "ours", "verdict"],
    "comparison/beside": ["task", "source", "localization", "value", "low", "high"],
}
