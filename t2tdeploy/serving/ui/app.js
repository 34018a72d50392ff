// The page: reads the form, asks the model, shows the answer or what the server says is wrong.

import { ServerError, listExamples, listModels, useToken } from "./api.js";
import { byId, element } from "./dom.js";
import { ModelChoice } from "./models.js";
import { Options } from "./options.js";
import { Pictures } from "./pictures.js";
import { TASKS } from "./tasks.js";

const STARTING_MS = 2000;
const UNAUTHENTICATED = 401;
const NOT_FOUND = 404;
const UNAVAILABLE = 503;

const form = byId("form");
const sources = byId("sources");
const go = byId("go");
const stop = byId("stop");
const status = byId("status");
const errorBox = byId("error");
const results = byId("results");
const pictures = new Pictures(byId("drop"), byId("images"), byId("chosen"));
const options = new Options(byId("options").querySelector(".fields"));
const models = new ModelChoice(byId("model"), byId("version"), suit);
let running = null;

function suit(model) {
  const task = model && TASKS[model.task];
  const reason = task?.cannot?.(model);
  const asksPictures = Boolean(task?.pictures?.(model));
  go.disabled = !task || Boolean(reason);
  status.textContent = reason ?? "";
  byId("options").hidden = !task?.options;
  byId("texts").hidden = asksPictures;
  byId("pictures").hidden = !asksPictures;
  byId(asksPictures ? "pictures-hint" : "sources-lines").textContent = task?.hint?.(model) ?? "One sentence a line.";
  if (!model) status.textContent = "The server has no model now.";
  else if (!task) status.textContent = `This page cannot ask models of the task "${model.task}".`;
  else {
    go.textContent = task.verb;
    if (task.options) options.suit(model);
  }
}

async function refresh() {
  try {
    models.show(await listModels());
    if (!models.current) suit(null);
  } catch (error) {
    if (error.status === UNAUTHENTICATED) return askForToken(error);
    status.textContent = error.message;
    if (error.status === UNAVAILABLE) setTimeout(refresh, STARTING_MS);
  }
}

function askForToken(error) {
  showError(error, []);
  byId("access").hidden = false;
  byId("token").focus();
}

// What is asked about: pictures, or the lines that hold something. `place` says which one it is where there are several.
function examples() {
  if (!byId("pictures").hidden) return pictures.files.map((file) => ({ source: file, place: file.name }));
  const lines = sources.value.split("\n");
  return lines
    .map((text, index) => ({ source: text.trim(), place: lines.length > 1 && `line ${index + 1}` }))
    .filter((line) => line.source);
}

async function submit() {
  const model = models.current;
  const task = TASKS[model.task];
  const given = examples();
  forgetError();
  running?.abort();
  const asksPictures = Boolean(task.pictures?.(model));
  if (!given.length) {
    const missing = asksPictures ? "images: there is none (choose a file)" : "sources: there is none (write a sentence)";
    return showError(new RangeError(missing), given);
  }
  const request = { ...models.asked, sources: given.map((one) => one.source) };
  try {
    if (task.options) request.options = options.read();
  } catch (error) {
    return showError(error, given);
  }
  if (task.options && options.prefix.value) request.target_prefixes = given.map(() => options.prefix.value);

  const run = new AbortController();
  running = run;
  busy(true);
  const started = performance.now();
  try {
    const answer = await task.ask(request, run.signal, model, options.wishes);
    const took = performance.now() - started;
    results.replaceChildren(...task.render(answer, request, took));
    const what = task.options ? "sentence" : asksPictures ? "picture" : "example";
    const count = given.length === 1 ? `1 ${what}` : `${given.length} ${what}s`;
    status.textContent = `${count} in ${Math.round(took)} ms`;
  } catch (error) {
    if (running !== run) return; // another request took its place
    if (error.status === UNAUTHENTICATED) askForToken(error);
    else if (error.name === "AbortError") status.textContent = "Stopped.";
    else showError(error, given);
    if (error.status === NOT_FOUND) refresh();
  } finally {
    if (running === run) {
      running = null;
      busy(false);
    }
  }
}

function busy(is) {
  results.setAttribute("aria-busy", String(is));
  stop.hidden = !is;
  if (is) status.textContent = "Asking …";
}

function showError(error, given) {
  const { field, problem, help } = error instanceof ServerError ? error : new ServerError(error.message);
  status.textContent = "";
  const place = given[Number(/^(?:sources|images)\[(\d+)\]$/.exec(field ?? "")?.[1])]?.place;
  errorBox.replaceChildren(
    element(
      "p",
      {},
      field && element("code", {}, field),
      field && ": ",
      element("span", { class: "problem" }, problem),
      place && ` [${place}]`,
    ),
    ...(help ? [element("p", { class: "help" }, help)] : []),
  );
  errorBox.hidden = false;
  const input = inputOf(field);
  if (!input) return;
  input.setAttribute("aria-invalid", "true");
  input.setAttribute("aria-errormessage", "error");
  input.closest("details")?.setAttribute("open", "");
  input.focus();
}

function inputOf(field) {
  if (!field) return null;
  if (field.startsWith("sources")) return sources;
  if (field.startsWith("images")) return byId("images");
  if (field === "model" || field === "model_version") return byId(field === "model" ? "model" : "version");
  return options.input(field);
}

function forgetError() {
  errorBox.hidden = true;
  errorBox.replaceChildren();
  for (const input of document.querySelectorAll("[aria-invalid]")) {
    input.removeAttribute("aria-invalid");
    input.removeAttribute("aria-errormessage");
  }
}

function showExamples(examples) {
  byId("examples").replaceChildren(
    ...examples.map((text) => {
      const button = element("button", { type: "button", class: "example", dir: "auto" }, text);
      button.addEventListener("click", () => {
        sources.value = text;
        if (!go.disabled) submit();
      });
      return button;
    }),
  );
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  if (!go.disabled) submit();
});
sources.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
  event.preventDefault();
  form.requestSubmit();
});
byId("token").addEventListener("change", () => {
  useToken(byId("token").value);
  forgetError();
  start();
});
stop.addEventListener("click", () => running?.abort());
document.addEventListener("visibilitychange", () => document.hidden || refresh());

function start() {
  refresh();
  listExamples().then(showExamples, () => {}); // without examples the page does all else
}

start();
