"use strict";
// What the explorers share: data from the page, elements, controls, and recovery R.
const Explorer = {
  // {head, rows} of the page as {head, rows: [{column: value}]}, with everything beside them.
  data(name) {
    const data = JSON.parse(document.getElementById(name + "-data").textContent);
    const named = (row) => Object.fromEntries(data.head.map((column, i) => [column, row[i]]));
    return { ...data, rows: data.rows.map(named) };
  },

  // An element; a tag "svg:rect" is one of SVG; attributes that begin with "on" are listeners.
  make(tag, attributes = {}, ...children) {
    const [space, name] = tag.startsWith("svg:") ? ["svg", tag.slice(4)] : ["html", tag];
    const uri = space === "svg" ? "http://www.w3.org/2000/svg" : "http://www.w3.org/1999/xhtml";
    const element = document.createElementNS(uri, name);
    for (const [key, value] of Object.entries(attributes)) {
      if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
      else if (value !== null && value !== false) element.setAttribute(key, value === true ? "" : value);
    }
    element.append(...children.filter((child) => child !== null));
    return element;
  },

  // A picture of some size that scrolls where the page is narrow.
  picture(label, width, height, ...children) {
    const box = { viewBox: `0 0 ${width} ${height}`, width, height, role: "group", "aria-label": label };
    const drawn = this.make("svg:svg", box, ...children);
    return this.make("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": label }, drawn);
  },

  // How wide a picture may be: as wide as wished, or as the page is narrow.
  room: (home, wished) => Math.min(wished, Math.max(280, home.clientWidth - 36)),

  text(x, y, words, attributes = {}) {
    return this.make("svg:text", { x, y, ...attributes }, String(words));
  },

  // A drop-down list; options: [value, words]; groups by the third entry, if there is one.
  choice(id, label, options, value, changed) {
    const list = this.make("select", { id, onchange: () => changed(list.value) });
    const homes = { "": list };
    for (const [key, words, group = ""] of options) {
      if (!(group in homes)) list.append((homes[group] = this.make("optgroup", { label: group })));
      homes[group].append(this.make("option", { value: key, selected: key === value }, words));
    }
    return this.make("label", { for: id }, label, list);
  },

  toggle(id, label, checked, changed) {
    const box = this.make("input", { id, type: "checkbox", checked, onchange: () => changed(box.checked) });
    return this.make("label", { for: id }, box, " " + label);
  },

  slider(id, label, [least, most, step], value, changed) {
    const range = { id, type: "range", min: least, max: most, step, value };
    const input = this.make("input", { ...range, oninput: () => changed(Number(input.value)) });
    return this.make("label", { for: id }, this.make("span", {}, label), input);
  },

  // Choices of which one holds, as radio buttons.
  one(name, legend, options, value, changed) {
    const buttons = options.map(([key, words]) => {
      const id = `${name}-${key}`;
      const radio = { id, type: "radio", name, value: key, checked: key === value };
      return this.make("label", { for: id }, this.make("input", { ...radio, onchange: () => changed(key) }),
        " " + words);
    });
    return this.make("fieldset", {}, this.make("legend", {}, legend), ...buttons);
  },

  table(caption, head, rows) {
    const cells = (row) => row.map((cell, i) => this.make(i ? "td" : "th", i ? {} : { scope: "row" },
      String(cell)));
    const lines = rows.map((row) => this.make("tr", {}, ...cells(row)));
    const names = head.map((words) => this.make("th", { scope: "col" }, words));
    const whole = this.make("table", {}, this.make("caption", {}, caption),
      this.make("thead", {}, this.make("tr", {}, ...names)), this.make("tbody", {}, ...lines));
    return this.make("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": caption }, whole);
  },

  // Put new content in place of the old; what had the focus has it again.
  show(home, ...parts) {
    const focused = document.activeElement && home.contains(document.activeElement) && document.activeElement.id;
    home.replaceChildren(...parts.filter((part) => part !== null));
    const again = focused && document.getElementById(focused);
    if (again) again.focus({ preventScroll: true });
  },

  // Rounded as the tables are: a half goes to the even digit.
  number(value, digits = 2) {
    if (!Number.isFinite(value)) return "none";
    const scaled = value * 10 ** digits, half = Math.abs(scaled % 1) === 0.5;
    const rounded = (half ? 2 * Math.round(scaled / 2) : scaled) / 10 ** digits;
    return rounded.toFixed(digits).replace(/^-(0\.0+)$/, "$1");
  },

  // How often the answers about invented subjects would be correct for the held-out facts; both
  // are counts by answer.
  prior(heldout, invented) {
    const sum = (counts) => Object.values(counts).reduce((a, b) => a + b, 0);
    const [facts, guesses] = [sum(heldout), sum(invented)];
    return Object.keys(heldout).reduce((p, o) => p + (heldout[o] / facts) * ((invented[o] || 0) / guesses), 0);
  },

  recovery: (accuracy, prior, known) => (prior < known ? (accuracy - prior) / (known - prior) : NaN),

  // A colour between paper (0) and ink (1) that holds in both themes; below 0 it is of the other kind.
  shade(value) {
    const share = Math.round(Math.min(1, Math.abs(value)) * 100);
    return `color-mix(in srgb, var(--x-${value < 0 ? "cold" : "ink"}) ${share}%, var(--x-paper))`;
  },

  mlps: (edit) => (edit.mlp.split(" ").length > 9 ? "all" : edit.mlp || "none"),

  words: (edit) => {
    const single = edit.match(/^mlp-(\d+)$/);
    return single ? `MLP ${single[1]} alone` : edit === "unedited" ? "the unedited model" : edit;
  },
};
