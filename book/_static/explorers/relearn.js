"use strict";
// Relearning: people as dots that change step by step; accuracy and prior give R.
(() => {
  const X = Explorer, { rows, rules, edits } = X.data("relearn"), home = document.getElementById("relearn");
  const layers = Object.fromEntries(edits.map((e) => [e.localization, e.mlp]));
  const groups = { forget_heldout: "held-out half, never taught", forget_train: "taught half",
    retain_test: "retained facts", never_known: "invented people" };
  const state = { edit: "fact-lookup", step: 0, accuracy: null, prior: null };
  const of = (edit, step, split) => rows.filter((r) => r.localization === edit && r.step === step
    && r.split === split);
  const steps = (edit) => [...new Set(rows.filter((r) => r.localization === edit).map((r) => r.step))].sort((a,
    b) => a - b);
  const right = (list) => list.filter((r) => r.answer === r.true).length;
  const count = (list, column) => list.reduce((c, r) => ({ ...c, [r[column]]: (c[r[column]] || 0) + 1 }), {});
  const share = (list) => (list.length ? right(list) / list.length : NaN);

  function dots(split, step) {
    const list = of(state.edit, step, split), size = 24, across = Math.floor(X.room(home, 16 * size) / size);
    const drawn = list.map((r, i) => {
      const is = r.answer === r.true ? "old" : r.answer === r.edit ? "new" : "other";
      const x = (i % across) * size + 12, y = Math.floor(i / across) * size + 12;
      const said = `${r.subject}: ${r.answer}` + (split === "never_known" ? "" : ` (${is} answer)`);
      return X.make("svg:circle", { cx: x, cy: y, r: 9, class: split === "never_known" ? "other" : is,
        "data-answer": is }, X.make("svg:title", {}, said));
    });
    const words = split === "never_known" ? "what they are said to play is guessed"
      : `${right(list)} of ${list.length} answered correctly`;
    return X.make("figure", { "data-split": split, "data-right": right(list), "data-n": list.length },
      X.make("figcaption", {}, X.make("strong", {}, groups[split]), ": " + words),
      X.picture(`${groups[split]}, ${words}`, across * size, Math.ceil(list.length / across) * size, ...drawn));
  }

  function curve(all) {
    const [left, width, height] = [44, X.room(home, 380), 120], last = Math.max(1, all[all.length - 1]);
    const x = (s) => left + (s / last) * (width - left - 12), y = (v) => 10 + (1 - v) * (height - 34);
    const path = (split) => all.map((s,
      i) => `${i ? "L" : "M"}${x(s)} ${y(share(of(state.edit, s, split)))}`).join("");
    const lines = Object.keys(groups).slice(0, 3).map((split) => X.make("svg:path", { d: path(split),
      class: `line ${split}` }));
    const marks = [0, 0.5, 1].flatMap((v) => [X.make("svg:path", { d: `M${left} ${y(v)}H${width - 12}`,
      class: "grid" }), X.text(left - 8, y(v) + 4, v, { "text-anchor": "end" })]);
    const here = X.make("svg:path", { d: `M${x(state.step)} 8V${height - 24}`, class: "here" });
    const names = all.map((s) => X.text(x(s), height - 6, s, { "text-anchor": "middle" }));
    return X.picture("Share answered correctly by step of the attack", width, height, ...marks, ...lines, here,
      ...names);
  }

  function draw() {
    const all = steps(state.edit), step = state.step;
    const heldout = of(state.edit, step, "forget_heldout");
    const measured = { accuracy: share(heldout), prior: X.prior(count(heldout, "true"), count(of(state.edit, step,
      "never_known"), "answer")) };
    const accuracy = state.accuracy ?? measured.accuracy, prior = state.prior ?? measured.prior;
    const value = X.recovery(accuracy, prior, rules.known), moved = state.accuracy !== null || state.prior !== null;
    const retained = share(of(state.edit, step, "retain_test")), taught = share(of(state.edit, step,
      "forget_train"));
    const gates = [retained < rules.gate_retain ? `retained ${X.number(retained)}` : "", taught < rules.gate_train
      ? `taught ${X.number(taught)}` : ""].filter(Boolean).join(", ");
    const meaning = !Number.isFinite(value) ? "guessing is as good as knowing, so R has no value" : value < -0.005
      ? "fewer than by guessing: the edited answer holds" : value < 0.005 ? "as many as by guessing" : value < 0.995
      ? "more than by guessing" : "all that was known is back";
    const set = (change) => { Object.assign(state, change); draw(); };
    const options = [["unedited", "the unedited model"], ...edits.map((e) => [e.localization,
      `${X.words(e.localization)} (MLPs ${X.mlps(e)})`])].filter(([k]) => steps(k).length);
    const verdict = step < all[all.length - 1] ? "the attack goes on" : gates
      ? `failed a gate (${gates}): what it shows does not count` : "the attack passed its gates";
    X.show(home,
      X.make("div", { class: "controls" },
        X.choice("relearn-edit", "edit ", options, state.edit, (edit) => set({ edit, step: 0, accuracy: null,
          prior: null })),
        X.slider("relearn-step", `step ${step} of ${all[all.length - 1]}`, [0, all.length - 1, 1],
          all.indexOf(step), (i) => set({ step: all[i], accuracy: null, prior: null })),
        X.make("button", { id: "relearn-next", type: "button", disabled: step === all[all.length - 1],
          onclick: () => set({ step: all[all.indexOf(step) + 1], accuracy: null, prior: null }) }, "next step")),
      X.make("p", { class: "key" }, ...["old", "new", "other"].flatMap((k) => [X.make("span",
        { class: `swatch ${k}` }), ` ${k} answer `])),
      ...Object.keys(groups).filter((g) => of(state.edit, step, g).length).map((g) => dots(g, step)),
      X.make("figure", {}, X.make("figcaption", {},
        "Share answered correctly by step: held-out half (solid), taught half (dotted), retained facts (grey)"),
        curve(all)),
      X.make("div", { class: "controls" },
        X.slider("relearn-accuracy", `a = ${X.number(accuracy)}`, [0, 1, 0.01], accuracy,
          (v) => set({ accuracy: v })),
        X.slider("relearn-prior", `prior = ${X.number(prior)}`, [0, 1, 0.01], prior, (v) => set({ prior: v })),
        X.make("button", { id: "relearn-measured", type: "button", disabled: !moved,
          onclick: () => set({ accuracy: null, prior: null }) }, "measured values")),
      X.make("p", { id: "relearn-r", class: "headline", "aria-live": "polite", "data-value": value,
        "data-prior": prior, "data-failed": gates },
        `R = (${X.number(accuracy)} - ${X.number(prior)}) / (${X.number(rules.known)} - ${X.number(prior)}) = ${X.number(value)}: ${meaning}. ` + (moved ? "Values moved by hand." : `MLPs ${layers[state.edit] || "none"}; ${verdict}.`)),
      X.make("details", {}, X.make("summary", {}, "As a table"),
        X.table("Answers of the held-out half at this step", ["person", "old", "new", "answer"],
        heldout.map((r) => [r.subject, r.true, r.edit, r.answer]))));
  }
  draw();
})();
