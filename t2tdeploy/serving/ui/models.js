// Which model and version is asked: two lists, kept while what is served changes.

import { element } from "./dom.js";

export class ModelChoice {
  #models = [];

  constructor(modelList, versionList, changed) {
    this.modelList = modelList;
    this.versionList = versionList;
    this.changed = changed;
    modelList.addEventListener("change", () => this.#showVersions("", true));
    versionList.addEventListener("change", () => this.changed(this.current));
  }

  // What ListModels says of the chosen version; null: nothing is served.
  get current() {
    const versions = this.#versions();
    const number = this.versionList.value;
    return (number ? versions.find((one) => one.number === number) : versions[0]) ?? null;
  }

  // What a request says of it: an empty version follows the newest.
  get asked() {
    return { model: this.modelList.value, model_version: this.versionList.value };
  }

  show(models) {
    if (JSON.stringify(models) === JSON.stringify(this.#models)) return;
    const { model, model_version } = this.asked;
    this.#models = models;
    const names = [...new Set(models.map((one) => one.name))];
    this.modelList.replaceChildren(...names.map((name) => element("option", { value: name }, name)));
    if (names.includes(model)) this.modelList.value = model;
    this.#showVersions(this.modelList.value === model ? model_version : "", true);
  }

  #versions() {
    const found = this.#models.filter((one) => one.name === this.modelList.value);
    return found.sort((one, other) => Number(other.number) - Number(one.number));
  }

  #showVersions(wanted, tell) {
    const versions = this.#versions();
    const numbers = versions.map((one) => one.number);
    const newest = numbers.length ? [element("option", { value: "" }, `newest (${numbers[0]})`)] : [];
    this.versionList.replaceChildren(
      ...newest,
      ...numbers.map((number) => element("option", { value: number }, number)),
    );
    this.versionList.value = numbers.includes(wanted) ? wanted : "";
    if (tell) this.changed(this.current);
  }
}
