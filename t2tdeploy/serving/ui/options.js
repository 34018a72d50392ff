// The decoding options of a request as fields. What is left empty is not sent: then the model's default holds.

import { element } from "./dom.js";

const HYPOTHESES = 3;

const NUMBERS = [
  ["beam_size", "Beam size", "1"],
  ["num_hypotheses", "Hypotheses", "1"],
  ["alpha", "Length penalty α", "0.1"],
  ["max_length", "Most tokens", "1"],
  ["temperature", "Temperature", "0.1"],
  ["top_p", "Top p", "0.05"],
  ["top_k", "Top k", "1"],
  ["seed", "Seed", "1"],
];

const SWITCHES = [
  ["alternatives", "Hypotheses that differ after the prefix"],
  ["truncate", "Cut sentences that are too long"],
];

const HINTS = {
  temperature: "above 0: samples instead of a search",
};

export class Options {
  #inputs = new Map();
  #defaults = {};

  constructor(container) {
    for (const [name, label, step] of NUMBERS) container.append(this.#number(name, label, step));
    this.prefix = element("input", { id: "target_prefixes", type: "text", dir: "auto", spellcheck: "false" });
    container.append(
      element(
        "div",
        { class: "field wide" },
        element("label", { for: "target_prefixes" }, "Translations start with"),
        this.prefix,
      ),
    );
    for (const [name, label] of SWITCHES) container.append(this.#switch(name, label));
    this.#inputs.get("temperature").addEventListener("input", () => this.#showDefaults());
  }

  // Defaults of a model, shown where a field is empty.
  suit(model) {
    this.#defaults = model.defaults;
    this.#showDefaults();
  }

  // What a request says. Throws a RangeError that names the first field which holds no number.
  read() {
    const options = {};
    for (const [name] of NUMBERS) {
      const input = this.#inputs.get(name);
      if (input.validity.badInput) throw new RangeError(`options.${name}: not a number`);
      if (input.value !== "" && !input.disabled) options[name] = Number(input.value);
    }
    for (const [name] of SWITCHES) if (this.#inputs.get(name).checked) options[name] = true;
    return options;
  }

  // What the page asks for where nobody asked for anything else; a model may have to be asked without it.
  get wishes() {
    return { num_hypotheses: this.#usualHypotheses() };
  }

  // The field that a name of the server, e.g. "options.alpha", stands for; null: none on this page.
  input(field) {
    if (field.startsWith("target_prefixes")) return this.prefix;
    return this.#inputs.get(field.replace(/^options\./, "")) ?? null;
  }

  get #sampling() {
    return Number(this.#inputs.get("temperature").value) > 0;
  }

  #usualHypotheses() {
    if (this.#sampling) return HYPOTHESES;
    const beam = Number(this.#inputs.get("beam_size").value) || this.#defaults.beam_size || 1;
    return Math.max(1, Math.min(HYPOTHESES, beam));
  }

  #showDefaults() {
    const beam = this.#inputs.get("beam_size");
    beam.disabled = this.#sampling; // each sample is its own: the server refuses a beam then
    for (const name of ["alpha", "beam_size"]) {
      this.#inputs.get(name).placeholder = String(this.#defaults[name] ?? "");
    }
    beam.placeholder = this.#sampling ? "none" : beam.placeholder;
    this.#inputs.get("num_hypotheses").placeholder = String(this.#usualHypotheses());
  }

  #number(name, label, step) {
    const input = element("input", { id: name, type: "number", step, inputmode: "decimal" });
    this.#inputs.set(name, input);
    if (name === "beam_size") input.addEventListener("input", () => this.#showDefaults());
    const hint = HINTS[name] && element("span", { class: "hint", id: `${name}-hint` }, HINTS[name]);
    if (hint) input.setAttribute("aria-describedby", hint.id);
    return element("div", { class: "field" }, element("label", { for: name }, label), input, hint);
  }

  #switch(name, label) {
    const input = element("input", { id: name, type: "checkbox" });
    this.#inputs.set(name, input);
    return element("label", { class: "switch", for: name }, input, label);
  }
}
