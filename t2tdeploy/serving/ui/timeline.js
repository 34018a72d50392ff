// Who answered a request, and where its time went.

import { element } from "./dom.js";

const PARTS = [
  ["queue", "queue"],
  ["compute", "compute"],
  ["way", "network and page"],
];

// Which model answered, and where the time went; notices below them, if any.
export function about(answer, roundTrip, ...notices) {
  return element(
    "div",
    { class: "about" },
    element(
      "p",
      { class: "by" },
      "Answered by ",
      element("strong", {}, `${answer.model}:${answer.model_number}`),
      ", content ",
      element("code", { title: answer.model_version }, answer.model_version.slice(0, 12)),
    ),
    timeline(answer.timing, roundTrip),
    ...notices,
  );
}

// timing: of the response, Durations as "0.0123s"; roundTrip: milliseconds that this page waited.
function timeline(timing, roundTrip) {
  const spent = { queue: milliseconds(timing.queue), compute: milliseconds(timing.compute) };
  spent.way = Math.max(0, roundTrip - spent.queue - spent.compute);
  const bar = element("div", { class: "bar", "aria-hidden": "true" });
  const legend = element("ul", { class: "legend" });
  for (const [name, label] of PARTS) {
    const part = element("span", { class: name });
    part.style.setProperty("flex-grow", spent[name]);
    bar.append(part);
    legend.append(
      element("li", { class: name }, `${label} `, element("strong", { id: `time-${name}` }, written(spent[name]))),
    );
  }
  return element("div", { class: "timeline" }, bar, legend);
}

const milliseconds = (duration) => 1000 * Number.parseFloat(duration ?? "0");

function written(ms) {
  if (ms >= 10_000) return `${(ms / 1000).toFixed(1)} s`;
  return `${ms >= 100 ? Math.round(ms) : ms.toFixed(ms >= 10 ? 0 : 1)} ms`;
}
