// Attention as a table: a row for every target token, a column for every source piece. The arrow keys move in it.

import { element, percent, pieceOf } from "./dom.js";

const MOST_CELLS = 20_000;
const SHOWN = 0.1; // the share from which a cell shows its number
const STRONG = 0.66; // and from which the number is light on dark, or dark on light: the contrast is best so

const MOVES = {
  ArrowUp: [-1, 0],
  ArrowDown: [1, 0],
  ArrowLeft: [0, -1],
  ArrowRight: [0, 1],
};

// tokens: [{ piece, attention }] with a weight for every source piece.
export function heatMap(sourcePieces, tokens) {
  const weights = tokens.map((token) => token.attention);
  if (!weights.some((row) => row.some((weight) => weight > 0))) {
    return element("p", { class: "hint" }, "This model does not tell.");
  }
  const cells = sourcePieces.length * tokens.length;
  if (cells > MOST_CELLS) {
    return element("p", { class: "hint" }, `${cells} cells are too many to draw; ask for shorter sentences.`);
  }
  const readout = element("p", { class: "readout", "aria-hidden": "true" }, "Point at a cell to read it.");
  const table = tableOf(sourcePieces, tokens, weights);
  follow(table, sourcePieces, tokens, readout);
  const area = element("div", { class: "map-area" }, table);
  return element("div", { class: "map" }, area, readout, scale());
}

function tableOf(sourcePieces, tokens, weights) {
  const head = element(
    "tr",
    {},
    element("td", { class: "corner" }),
    ...sourcePieces.map((piece) => element("th", { scope: "col" }, element("span", {}, ...pieceOf(piece)))),
  );
  const rows = tokens.map((token, row) =>
    element("tr", {}, element("th", { scope: "row" }, ...pieceOf(token.piece)), ...weights[row].map(cellOf)),
  );
  const table = element(
    "table",
    { class: "heat-map", role: "grid", "aria-label": "Attention in percent: target tokens by source pieces" },
    element("thead", {}, head),
    element("tbody", {}, ...rows),
  );
  table.style.setProperty("--columns", sourcePieces.length);
  table.tBodies[0].rows[0].cells[1].tabIndex = 0;
  return table;
}

function cellOf(weight) {
  const kind = weight < SHOWN ? "weak" : weight < STRONG ? "pale" : "strong";
  const cell = element("td", { role: "gridcell", class: kind, tabindex: "-1" }, percent(weight));
  cell.style.setProperty("--weight", weight);
  return cell;
}

function follow(table, sourcePieces, tokens, readout) {
  const body = table.tBodies[0];
  let lit = [];
  const light = (cell) => {
    const row = cell.parentElement.rowIndex - 1;
    const column = cell.cellIndex - 1;
    for (const one of lit) one.classList.remove("lit");
    lit = [cell, cell.parentElement.cells[0], table.tHead.rows[0].cells[cell.cellIndex]];
    for (const one of lit) one.classList.add("lit");
    const share = percent(tokens[row].attention[column]);
    readout.replaceChildren(
      element("strong", {}, ...pieceOf(tokens[row].piece)),
      " looked at ",
      element("strong", {}, ...pieceOf(sourcePieces[column])),
      ` with ${share} %`,
    );
  };
  const cellAt = (event) => event.target.closest?.("tbody td");
  table.addEventListener("pointerover", (event) => cellAt(event) && light(cellAt(event)));
  table.addEventListener("focusin", (event) => cellAt(event) && light(cellAt(event)));
  table.addEventListener("keydown", (event) => {
    const cell = cellAt(event);
    const move = MOVES[event.key];
    if (!cell || !move || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    const next = body.rows[cell.parentElement.rowIndex - 1 + move[0]]?.cells[cell.cellIndex + move[1]];
    if (next?.tagName !== "TD") return;
    cell.tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  });
}

function scale() {
  return element("p", { class: "scale", "aria-hidden": "true" }, "0 %", element("span", {}), "100 %");
}
