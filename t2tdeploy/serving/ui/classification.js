// Tasks "classify" and "regress": texts in, pictures, or a table's rows as JSON; classes with their probabilities, or
// values, out.

import { ServerError, classify } from "./api.js";
import { element, percent } from "./dom.js";
import { capacityInWords, encoded, thumbnail } from "./pictures.js";
import { about } from "./timeline.js";

const MOST_CLASSES = 5;

export const classification = { verb: "Classify", ask, render, hint, cannot, pictures };
export const regression = { ...classification, verb: "Predict" };

const isOnly = (model, kind) => model.features.length === 1 && model.features[0].kind === kind;
const isText = (model) => isOnly(model, "text") && model.features[0].parts === 1;
const isRow = (model) => model.features.every(({ kind }) => kind === "number" || kind === "category");

// Why this page cannot ask a model; null: it can.
function cannot(model) {
  if (isText(model) || pictures(model) || isRow(model)) return null;
  const kinds = model.features.map(({ name, kind }) => `${name} (${kind})`).join(", ");
  return `This page asks about texts, pictures, and rows of numbers and categories; an example of this model is ${kinds}.`;
}

// Whether an example is a picture.
function pictures(model) {
  return isOnly(model, "image");
}

function hint(model) {
  if (isText(model)) return "One text a line.";
  if (pictures(model)) {
    const [height, width, channels] = model.features[0].shape.map(Number);
    const seen = `${width} × ${height} pixels${channels === 1 ? " in grey" : ""}`;
    const most = capacityInWords(model.limits.max_request_bytes);
    return `PNG, JPEG, WebP, BMP, GIF, TIFF or PPM, together at most ${most}. The model sees ${seen}.`;
  }
  const row = model.features.map(({ name, kind }) => `"${name}": ${kind === "number" ? "1.5" : '"…"'}`).join(", ");
  return `One row a line: {${row}}`;
}

async function ask(request, signal, model) {
  const { model: name, model_version, sources } = request;
  const asked = { model: name, model_version };
  if (isText(model)) asked.texts = sources;
  else if (pictures(model)) asked.images = await encoded(sources, model.limits.max_request_bytes);
  else asked.examples = sources.map(exampleOf);
  if (model.classes.length) asked.options = { top_k: Math.min(MOST_CLASSES, model.classes.length) };
  try {
    return await classify(asked, signal);
  } catch (error) {
    const place = /^examples\[(\d+)\](?:\.([^:]+))?: ([\s\S]*)$/.exec(error.message);
    if (!place) throw error;
    const [, index, feature, words] = place;
    const named = feature && isRow(model) ? `${feature}: ${words}` : words;
    throw new ServerError(`${pictures(model) ? "images" : "sources"}[${index}]: ${named}`, error.status);
  }
}

function exampleOf(line, index) {
  let row;
  try {
    row = JSON.parse(line);
  } catch {
    row = null;
  }
  if (row === null || typeof row !== "object" || Array.isArray(row)) {
    throw new RangeError(`sources[${index}]: not a JSON object`);
  }
  const features = {};
  for (const [name, value] of Object.entries(row)) {
    if (typeof value === "number") features[name] = { number: value };
    else if (typeof value === "boolean") features[name] = { truth: value };
    else if (typeof value === "string") features[name] = { text: value };
    else if (value !== null) throw new RangeError(`sources[${index}]: ${name} is neither number nor text`);
  }
  return { features };
}

function render(answer, request, roundTrip) {
  const cards = answer.classifications.map((one, index) => card(one, request.sources[index], index));
  return [about(answer, roundTrip), ...cards];
}

function card(one, source, index) {
  return element(
    "article",
    { class: "card", "aria-labelledby": `example-${index}` },
    element("h2", { class: "unseen", id: `example-${index}` }, `Example ${index + 1}`),
    element(
      "div",
      { class: "source" },
      source instanceof File && thumbnail(source),
      element("p", { dir: "auto" }, source.name ?? source),
      one.truncated && element("span", { class: "badge warn" }, "text was cut"),
    ),
    one.labels.length
      ? element("ol", { class: "labels" }, ...one.labels.map(labelOf))
      : element("p", { class: "values" }, one.values.map((value) => Number(value.toPrecision(6))).join(", ")),
  );
}

function labelOf({ name, probability, logit }) {
  const row = element(
    "li",
    { class: "label", title: `logit ${logit.toFixed(3)}` },
    element("span", { class: "name", dir: "auto" }, name),
    element("span", { class: "share" }, `${percent(probability)} %`),
  );
  row.style.setProperty("--share", probability);
  return row;
}
