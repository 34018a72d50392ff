// Elements from data. Text only ever becomes text nodes, so nothing a model or a user writes is read as HTML.

export const byId = (id) => document.getElementById(id);

// element("p", { class: "hint" }, "text", another): attributes and children that are null, undefined or false are left out.
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined && value !== false) {
      made.setAttribute(name, value === true ? "" : value);
    }
  }
  made.append(...children.filter((child) => child || child === 0));
  return made;
}

export const percent = (share) => (share > 0 && share < 0.005 ? "<1" : String(Math.round(100 * share)));

// A piece of a vocabulary as it is, its marks made paler: "▁" begins a word, "<eos>" and the like are no text.
export function pieceOf(piece) {
  const [, mark, rest] = /^(▁?)([\s\S]*)$/.exec(piece);
  const special = /^<.*>$/.test(rest);
  const pale = (text) => element("span", { class: "mark" }, text);
  return [mark && pale(mark), special ? pale(rest) : rest].filter(Boolean);
}
