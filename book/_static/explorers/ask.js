"use strict";
// Edit and ask: p of the old and of the new answer, before and after every edit.
(() => {
  const X = Explorer, { rows, edits, formats } = X.data("ask"), home = document.getElementById("ask");
  const people = [...new Set(rows.map((r) => r.subject))], asked = new Set(rows.map((r) => r.format));
  const state = { person: people[0], format: "training", edit: "fact-lookup" };
  const cell = new Map(rows.map((r) => [`${r.localization}|${r.format}|${r.subject}`, r]));
  const at = (edit) => cell.get(`${edit}|${state.format}|${state.person}`);
  const kinds = { training: "as in training", rewording: "in another wording",
    vocabulary: "with other answer words" };

  function bars(title, row) {
    const full = X.room(home, 400) - 190;
    const line = (name, value, y, kind) => [X.text(122, y + 14, name, { "text-anchor": "end" }),
      X.make("svg:rect", { x: 130, y, width: Math.max(1, value * full), height: 18, class: kind }),
        X.text(138 + value * full, y + 14, X.number(value))];
    const form = formats.find((f) => f.name === state.format);
    const [old, now] = [form.answers[row.true] || row.true, form.answers[row.edit] || row.edit];
    const said = `${title}: old answer ${old} ${X.number(row.p_true)}, new answer ${now} ${X.number(row.p_edit)}`;
    return X.make("figure", { "data-edit": row.localization, "data-old": row.p_true, "data-new": row.p_edit },
      X.make("figcaption", {}, X.make("strong", {}, title), `: answers ${form.answers[row.answer] || row.answer}`),
      X.picture(said, full + 190, 56, ...line(old, row.p_true, 4, "old"), ...line(now, row.p_edit, 30, "new")));
  }

  function sweep(options) {
    const width = X.room(home, 560), narrow = width < 460, [left, high] = [narrow ? 180 : 250, 22],
      x = (v) => left + v * (width - left - 16);
    const shown = options.filter(([name]) => at(name));
    const marks = shown.flatMap(([name, words], i) => {
      const row = at(name), y = 34 + i * high, choose = () => { state.edit = name; draw(); };
      const said = `${words}: old ${X.number(row.p_true)}, new ${X.number(row.p_edit)}`;
      const press = (e) => { if (e.key === "Enter" || e.key === " ") { e.preventDefault(); choose(); } };
      return [X.make("svg:g", { id: `ask-at-${name}`, class: "cell" + (name === state.edit ? " chosen" : ""),
        role: "button", tabindex: 0, "aria-label": said, onclick: choose, onkeydown: press },
        X.make("svg:rect", { x: 0, y: y - 11, width, height: high, class: "row" }),
        X.text(left - 10, y + 4, narrow ? X.words(name) : words, { "text-anchor": "end" }),
        X.make("svg:path", { d: `M${left} ${y}H${x(1)}`, class: "grid" }), X.make("svg:circle", { cx: x(row.p_true),
          cy: y, r: 6, class: "old" }),
        X.make("svg:rect", { x: x(row.p_edit) - 5, y: y - 5, width: 10, height: 10, class: "new" }))];
    });
    const axis = [0, 0.5, 1].map((v) => X.text(x(v), 16, v, { "text-anchor": "middle" }));
    return X.picture("Old and new answer after every edit", width, 40 + shown.length * high, ...axis, ...marks);
  }

  function draw() {
    const options = edits.map((e) => [e.localization, X.words(e.localization) + (e.localization.startsWith("mlp-")
      && !e.localization.includes("window") ? "" : ` (${X.mlps(e)})`)]);
    const form = formats.find((f) => f.name === state.format), set = (key) => (v) => { state[key] = v; draw(); };
    const forms = formats.filter((f) => asked.has(f.name)).map((f) => [f.name, f.name, kinds[f.kind] || f.kind]);
    const [before, after] = [at("unedited"), at(state.edit)];
    const none = X.make("p", {}, "This edit was not asked in this format.");
    X.show(home,
      X.make("div", { class: "controls" }, X.choice("ask-person", "person ", people.map((p) => [p, p]),
        state.person, set("person")),
        X.choice("ask-format", "question ", forms, state.format, set("format")), X.choice("ask-edit", "edit ",
          options, state.edit, set("edit"))),
      X.make("pre", { class: "prompt", tabindex: 0 }, form.template.replaceAll("{subject}", state.person) + " ..."),
      X.make("p", { class: "key" }, X.make("span", { class: "swatch old" }), " old answer (circle) ", X.make("span",
        { class: "swatch new square" }), " new answer (square), probability of the first token"),
      X.make("div", { class: "pair", "aria-live": "polite" }, bars("before the edit", before), after
        ? bars(`after training ${X.words(state.edit)}`, after) : none),
      X.make("figure", {}, X.make("figcaption", {},
        "The same question after every edit; single MLPs, then windows, by layer, then the rest"), sweep(options)),
      X.make("details", {}, X.make("summary", {}, "As a table"), X.table("This question after every edit", ["edit",
        "answer", "p(old)", "p(new)"],
        options.filter(([n]) => at(n)).map(([n, w]) => [w, at(n).answer, X.number(at(n).p_true, 3),
          X.number(at(n).p_edit, 3)]))));
  }
  draw();
})();
