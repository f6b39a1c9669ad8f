"use strict";
// Trace: guess a cell, then see which share of the answer each cell brings back.
(() => {
  const X = Explorer, { rows, head } = X.data("trace"), home = document.getElementById("trace");
  const layers = head.filter((c) => /^\d+$/.test(c)), people = [...new Set(rows.map((r) => r.subject))];
  const nodes = [...new Set(rows.map((r) => r.node))], least = 0.05; // of the answer, or there is nothing to trace
  const models = [["unedited", "unedited"], ["fact-lookup", "early edit (fact-lookup)"], ["mlp-window-12",
    "late edit (mlp-window-12)"]];
  const state = { person: people[0], model: "unedited", guess: null, shown: false, at: "residual stream|0|0" };
  const map = (node) => rows.filter((r) => r.subject === state.person && r.model === state.model
    && r.node === node);
  const share = (r, layer) => (r[layer] - r.p_corrupt) / (r.p_clean - r.p_corrupt);
  const hurt = (r) => r.p_clean - r.p_corrupt >= least;

  function press(event, node, token, layer, choose) {
    const move = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    if (event.key === "Enter" || event.key === " ") { event.preventDefault(); choose(); }
    if (!move) return;
    event.preventDefault();
    const next = document.getElementById(`trace-${nodes.indexOf(node)}-${token + move[0]}-${layer + move[1]}`);
    if (next) { event.target.tabIndex = -1; next.tabIndex = 0; next.focus(); }
  }

  function grid(node, hidden) {
    const list = map(node), space = X.room(home, 492), narrow = space < 492, [left, h] = [narrow ? 78 : 92, 22];
    const w = Math.floor((space - left - 4) / layers.length);
    const cells = list.flatMap((r, t) => layers.map((layer, l) => {
      const value = share(r, layer), here = `${node}|${t}|${l}`;
      const choose = () => { Object.assign(state, hidden ? { guess: [t, l], shown: true, at: here }
        : { at: here }); draw(); };
      const said = `${node}, token ${r.token.trim()}, layer ${layer}` + (hidden ? ", guess here"
        : `: ${X.number(value)}`);
      const guessed = state.guess && node === nodes[0] && state.guess[0] === t && state.guess[1] === l;
      return X.make("svg:rect", { id: `trace-${nodes.indexOf(node)}-${t}-${l}`, x: left + l * w, y: 4 + t * h,
        width: w - 1, height: h - 1, role: "button", "aria-label": said,
        tabindex: t === 0 && l === 0 ? 0 : -1, class: "tile" + (guessed ? " guessed" : "") + (state.at === here
          && !hidden ? " chosen" : ""), style: hidden ? null : `fill: ${X.shade(value)}`, "data-value": hidden
          ? null : value,
        onclick: choose, onkeydown: (e) => press(e, node, t, l, choose) }, X.make("svg:title", {}, said));
    }));
    const tokens = list.map((r, t) => X.text(left - 6, 19 + t * h, r.token, { "text-anchor": "end" }));
    const below = layers.map((layer, l) => X.text(left + (l + 0.5) * w, 20 + list.length * h,
      narrow && l % 3 ? "" : layer, { "text-anchor": "middle" }));
    return X.make("figure", { "data-node": node }, X.make("figcaption", {}, X.make("strong", {}, node),
      ", token by layer"),
      X.picture(`${node}: share of the answer that returns, token by layer`, left + layers.length * w + 4,
        28 + list.length * h, ...tokens, ...below, ...cells));
  }

  function best(node) {
    const name = map(node).slice(0, -1); // at the last token everything returns in the end
    const found = name.flatMap((r, t) => layers.map((layer, l) => ({ token: r.token.trim(), t, l, value: share(r,
      layer) })));
    return found.reduce((a, b) => (b.value > a.value ? b : a));
  }

  function draw() {
    const set = (key) => (v) => { Object.assign(state, { [key]: v, guess: null, shown: key === "model"
      && state.shown, at: "" }); draw(); };
    const first = map(nodes[0])[0], top = best(nodes[0]), mlp = best("MLP"), open = state.shown && hurt(first);
    const [node, t, l] = state.at.split("|"), row = node && map(node)[t];
    const guess = state.guess && map(nodes[0])[state.guess[0]];
    const verdict = !state.shown
      ? "Click the cell where you expect most of the answer to return. Arrow keys move, Enter chooses." :
      !hurt(first) ? "The noise takes away less than 0.05 of the answer here, so there is nothing to trace." :
      (guess ? `Your guess, ${guess.token.trim()} in layer ${state.guess[1]}, brings back ${X.number(share(guess, state.guess[1]))}. ` : "") +
      `Most before the last token: ${top.token} in layer ${top.l}, ${X.number(top.value)}. The MLP there that returns most: layer ${mlp.l} at ${mlp.token}, ${X.number(mlp.value)}.`;
    X.show(home,
      X.make("div", { class: "controls" }, X.choice("trace-person", "fact ", people.map((p) => [p, p]),
        state.person, set("person")),
        X.one("trace-model", "model", models, state.model, set("model")),
        X.make("button", { id: "trace-open", type: "button", disabled: state.shown,
          onclick: () => { state.shown = true; draw(); } }, "show without a guess")),
      X.make("p", {}, `Traced answer: ${first.answer}. Clean ${X.number(first.p_clean)}, with noise on the name ${X.number(first.p_corrupt)}.`),
      X.make("p", { id: "trace-verdict", class: "headline", "aria-live": "polite" }, verdict),
      ...(open ? nodes.map((n) => grid(n, false)) : state.shown ? [] : [grid(nodes[0], true)]),
      open ? X.make("p", { class: "key" }, "Share of the answer that returns: 0 ", ...[0, 0.25, 0.5, 0.75, 1].map((v) => X.make("span",
        { class: "swatch square", style: `background: ${X.shade(v)}` })), " 1; ", X.make("span",
          { class: "swatch square", style: `background: ${X.shade(-0.6)}` }), " below 0") : null,
      X.make("p", { class: "detail", "aria-live": "polite" }, open && row
        ? `${node}, ${row.token.trim()}, layer ${layers[l]}: ${X.number(share(row, layers[l]))}` : ""),
      open ? X.make("details", {}, X.make("summary", {}, "As a table"), X.table("Share of the answer that returns",
        ["node and token", ...layers],
        nodes.flatMap((n) => map(n).map((r) => [`${n}, ${r.token.trim()}`,
          ...layers.map((layer) => X.number(share(r, layer)))])))) : "");
  }
  draw();
})();
