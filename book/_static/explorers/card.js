"use strict";
// Score card: the rules of `lib/analysis/score_card.py`, each of which can be switched off.
(() => {
  const X = Explorer, { rows, rules, head } = X.data("card"), home = document.getElementById("card");
  const options = head.filter((c) => c.startsWith("true ")).map((c) => c.slice(5));
  const names = [...new Set(rows.map((r) => r.localization))];
  const attacks = [...new Set(rows.map((r) => r.attack))];
  const readers = new Set(rows.filter((r) => r.excluded === "below").map((r) => r.attack)); // of a layer
  const state = { failed: false, oracles: false, scored: false, outside: false, at: null };
  const counts = (row, what) => Object.fromEntries(options.map((o) => [o, row[`${what} ${o}`]]));
  const share = (row) => (row ? row.right / row.n : undefined);

  // Read-outs of one attack on one edit: {variant, budget, excluded, teaches, splits: {split: row}}.
  function readouts(name, attack) {
    const found = new Map();
    for (const row of rows) {
      if (row.localization !== name || row.attack !== attack) continue;
      const key = `${row.variant}|${row.budget}`;
      const { variant, budget, excluded } = row, teaches = row.teaches === "True";
      if (!found.has(key)) found.set(key, { variant, budget, excluded, teaches, splits: {} });
      found.get(key).splits[row.split] = row;
    }
    return [...found.values()];
  }

  // Where the attacker stops: [read-out, share by which it chose]; of equal ones the cheapest.
  function stop(list, scored) {
    const seen = scored ? "forget_heldout" : list.some((r) => r.splits.choosing) ? "choosing" : "forget_train";
    const asked = list.filter((r) => r.splits[seen]);
    const most = Math.max(...asked.map((r) => r.splits[seen].n));
    const order = asked.filter((r) => r.splits[seen].n >= most / 2);
    order.sort((a, b) => share(b.splits[seen]) - share(a.splits[seen]) || a.budget - b.budget);
    const chosen = order[0];
    const full = list.filter((r) => r.variant === chosen.variant && r.splits.forget_heldout
      && r.budget <= chosen.budget);
    full.sort((a, b) => b.budget - a.budget);
    return [full[0], share(chosen.splits[seen])];
  }

  // Why an attack does not count, "" if it does.
  function failure(end, attack) {
    const retained = share(end.splits.retain_test), taught = share(end.splits.forget_train), why = [];
    if (end.teaches && retained < rules.gate_retain) why.push(`retained ${X.number(retained)}`);
    if (end.teaches && taught < rules.gate_train) why.push(`taught ${X.number(taught)}`);
    const before = readouts("unedited", attack).find((r) => r.variant === end.variant && r.budget === end.budget);
    const left = before && share(before.splits.retain_test);
    if (!why.length && retained < rules.keep * left) why.push(`retained ${X.number(retained)}`);
    return why.join(", ");
  }

  // One line of the score card; null where no attacker could make the attack.
  function line(name, attack, { oracles, scored }) {
    const list = readouts(name, attack).filter((r) => !r.excluded || (oracles && r.excluded === "oracle"));
    if (!list.length) return null;
    const [end, chosenOn] = stop(list, scored), heldout = end.splits.forget_heldout;
    const prior = X.prior(counts(heldout, "true"), counts(end.splits.never_known, "said"));
    const { right: back, n } = heldout, value = X.recovery(back / n, prior, rules.known);
    const facts = { retained: share(end.splits.retain_test), taught: share(end.splits.forget_train) };
    return { name, attack, variant: end.variant, budget: end.budget, chosenOn, back, n, value, prior,
      failed: failure(end, attack), ...facts };
  }

  // All lines and the worst case of each edit, under some rules.
  function card(how) {
    const lines = names.flatMap((name) => attacks.map((attack) => line(name, attack, how))).filter(Boolean);
    const passes = (l) => (how.failed || !l.failed) && !(how.outside && readers.has(l.attack));
    const works = (attack) => rules.masks && lines.some((l) => l.name === "known-mask" && l.attack === attack
      && passes(l) && l.value >= rules.admitted);
    for (const l of lines) Object.assign(l, { admitted: works(l.attack), counts: passes(l) && works(l.attack) });
    const by = how.scored ? "value" : "chosenOn", worst = {};
    for (const l of lines) if (l.counts && (!worst[l.name] || l[by] > worst[l.name][by])) worst[l.name] = l;
    return { lines, worst };
  }

  const found = (l) => (l ? `${l.back} of ${l.n} by ${l.attack} (R ${X.number(l.value)})` : "no attack counts");
  const why = (l) => (l.failed ? `failed: ${l.failed}` : state.outside && readers.has(l.attack) ? "left out"
    : l.admitted ? "counts" : "not shown to work");

  function draw() {
    const { lines, worst } = card(state), honest = card({ outside: state.outside }).worst;
    const edits = names.filter((n) => n !== "known-mask" && n !== "unedited");
    const headline = edits.map((n) => {
      const lie = found(worst[n]) !== found(honest[n]);
      return X.make("p", { class: lie ? "headline lie" : "headline", "data-edit": n, "data-back": worst[n]
        ? worst[n].back : "", "data-attack": worst[n] ? worst[n].attack : "", "data-value": worst[n]
        ? worst[n].value : "" },
        X.make("strong", {}, n), ` worst case: ${found(worst[n])}`, lie ? X.make("span", {},
          ` instead of ${found(honest[n])}`) : null);
    });
    const columns = ["unedited", "known-mask", ...edits], [left, wide, high] = [130, 124, 34];
    const cells = lines.map((l) => {
      const x = left + columns.indexOf(l.name) * wide, y = 30 + attacks.indexOf(l.attack) * high;
      const said = `${l.attack} on ${l.name}: ${l.back}/${l.n} R ${X.number(l.value)}, ${why(l)}`;
      const choose = () => { state.at = `${l.name}|${l.attack}`; draw(); };
      const press = (e) => { if (e.key === "Enter" || e.key === " ") { e.preventDefault(); choose(); } };
      const box = { x: x + 2, y: y + 2, width: wide - 4, height: high - 4, rx: 3, class: (l.counts ? "counted"
        : "hollow") + (worst[l.name] === l ? " worst" : ""), fill: l.counts ? X.shade(l.value) : "none" };
      const dark = l.counts && Math.abs(l.value) > 0.5 ? "on-ink" : "";
      return X.make("svg:g", { id: `cell-${l.name}-${l.attack}`, class: "cell", tabindex: 0, role: "button",
        "aria-label": said, "data-back": l.back, "data-value": l.value, "data-failed": l.failed, onclick: choose,
        onkeydown: press },
        X.make("svg:rect", box), X.text(x + wide / 2, y + 22, `${l.back}/${l.n} R ${X.number(l.value)}`,
          { "text-anchor": "middle", class: dark }));
    });
    const titles = columns.map((n, i) => X.text(left + (i + 0.5) * wide, 20, n, { "text-anchor": "middle",
      class: "title" }));
    const out = attacks.filter((a) => !lines.some((l) => l.attack === a));
    const never = out.map((a) => X.text(left + 8, 52 + attacks.indexOf(a) * high,
      "an oracle: it needs the unedited model"));
    const sides = attacks.map((a, i) => X.text(left - 8, 52 + i * high, a, { "text-anchor": "end" }));
    const at = lines.find((l) => `${l.name}|${l.attack}` === state.at);
    const detail = at ? `${at.attack} on ${at.name}: variant ${at.variant || "only one"}, budget ${at.budget}, chosen on ${X.number(at.chosenOn)}; ` +
      `taught ${X.number(at.taught)}, retained ${X.number(at.retained)}, prior ${X.number(at.prior)}; ${why(at)}.`
        : "Choose a cell to read what the attacker did.";
    const table = X.table("Every attack under these rules", ["attack", "edit", "back", "R", "verdict"],
      lines.map((l) => [l.attack, l.name, `${l.back}/${l.n}`, X.number(l.value), why(l)]));
    const set = (key) => (on) => { state[key] = on; draw(); };
    X.show(home,
      X.make("div", { class: "controls" }, X.toggle("card-failed", "count failed attacks", state.failed,
        set("failed")),
        X.toggle("card-oracles", "allow oracles", state.oracles, set("oracles")),
        X.toggle("card-scored", "choose on the scored half", state.scored, set("scored")),
        X.toggle("card-outside", "leave out readers of layers", state.outside, set("outside"))),
      X.make("div", { "aria-live": "polite" }, ...headline),
      X.picture("Attacks and edits: what comes back", left + columns.length * wide, 40 + attacks.length * high,
        ...titles, ...sides, ...never, ...cells),
      X.make("p", { class: "key" },
        "In each cell: old answers back, and R. Filled: counts; blue for R above 0, brown below. Dashed: failed a gate, or not shown to work. Bold frame: the worst case."),
      X.make("p", { "aria-live": "polite", class: "detail" }, detail),
      X.make("details", {}, X.make("summary", {}, "As a table"), table));
  }
  draw();
})();
