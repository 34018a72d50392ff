// Task "translate": sources in, hypotheses with tokens and attention out.

import { translate } from "./api.js";
import { element, percent, pieceOf } from "./dom.js";
import { heatMap } from "./heatmap.js";
import { about } from "./timeline.js";

const UNSURE = 0.5;

export const translation = { verb: "Translate", options: true, ask, render };

const WITHOUT = {
  num_hypotheses: "One hypothesis: ",
  return_attention: "No tokens and no attention: ",
};

// Asks for several hypotheses, tokens and attention too. A server that refuses one of these, which nobody typed, is asked
// again without it: a search of fixed sizes has one hypothesis.
async function ask(request, signal, model, wishes) {
  const wished = { ...wishes, return_attention: true };
  const refused = [];
  for (;;) {
    try {
      const answer = await translate({ ...request, options: { ...wished, ...request.options } }, signal);
      return { ...answer, refused };
    } catch (error) {
      const name = error.field?.replace(/^options\./, "");
      if (!(name in wished) || name in request.options) throw error;
      delete wished[name];
      refused.push({ name, why: error.message });
    }
  }
}

function render(answer, request, roundTrip) {
  const cards = answer.translations.map((one, index) => sentence(one, request.sources[index], index));
  const notices = answer.refused.map(({ name, why }) => element("p", { class: "notice" }, WITHOUT[name], why));
  return [about(answer, roundTrip, ...notices), ...cards];
}

function sentence(one, source, index) {
  const details = element("div", { class: "details" });
  const badges = [
    element("span", { class: "badge" }, `${one.source_tokens} tokens`),
    one.truncated && element("span", { class: "badge warn" }, "source was cut"),
  ].filter(Boolean);
  const choose = (hypothesis) => details.replaceChildren(...detailsOf(hypothesis, one.source_pieces));
  const card = element(
    "article",
    { class: "card", "aria-labelledby": `sentence-${index}` },
    element("h2", { class: "unseen", id: `sentence-${index}` }, `Sentence ${index + 1}`),
    element("div", { class: "source" }, element("p", { dir: "auto" }, source), ...badges),
    hypothesesOf(one.hypotheses, index, choose),
  );
  if (!one.hypotheses.some((hypothesis) => hypothesis.details.length)) return card;

  // Of many sentences, only those that are opened are drawn.
  const more = element("details", { class: "more" }, element("summary", {}, "Tokens and attention"), details);
  const chosen = () => one.hypotheses[Number(card.querySelector("input:checked").value)];
  more.addEventListener("toggle", () => more.open && !details.childElementCount && choose(chosen()));
  if (index === 0) {
    more.open = true;
    choose(one.hypotheses[0]);
  }
  card.append(more);
  return card;
}

function hypothesesOf(hypotheses, index, choose) {
  const rows = hypotheses.map((one, rank) => {
    const input = element("input", { type: "radio", name: `hypothesis-${index}`, value: rank, checked: rank === 0 });
    input.addEventListener("change", () => choose(one));
    const text = one.tokens === 0 ? "nothing: the options forbid every token" : one.text || "(empty)";
    return element(
      "label",
      { class: "hypothesis" },
      input,
      element("span", { class: one.text ? "text" : "text none", dir: "auto" }, text),
      element(
        "span",
        { class: "numbers" },
        one.tokens > 0 && scoreOf(one),
        element("span", {}, `${one.tokens} tokens`),
        one.finished ? null : element("span", { class: "badge warn" }, "cut off by its length limit"),
      ),
    );
  });
  return element("fieldset", { class: "hypotheses" }, element("legend", {}, "Hypotheses, best first"), ...rows);
}

function scoreOf({ score }) {
  const number = element("strong", {}, score.toFixed(3).replace("-", "\u2212"));
  return element("span", { class: "score", title: "log-probability over the length penalty" }, "score ", number);
}

function detailsOf(hypothesis, sourcePieces) {
  if (!hypothesis.details.length) return [element("p", { class: "hint" }, "There are no tokens to show.")];
  return [
    element("h3", {}, "How sure it was of every token"),
    element("ol", { class: "tokens" }, ...hypothesis.details.map(tokenOf)),
    element("h3", {}, "What it looked at"),
    heatMap(sourcePieces, hypothesis.details),
  ];
}

function tokenOf({ piece, score }) {
  const share = Math.exp(score);
  const chip = element(
    "li",
    { class: share < UNSURE ? "token unsure" : "token", title: `log-probability ${score.toFixed(3)}` },
    element("span", { class: "piece" }, ...pieceOf(piece)),
    element("span", { class: "share" }, `${percent(share)} %`),
  );
  chip.style.setProperty("--share", share);
  return chip;
}
