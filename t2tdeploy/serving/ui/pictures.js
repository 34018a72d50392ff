// Pictures to ask about: chosen in a dialog or dropped on the page, shown small, sent as the files they are.

import { element } from "./dom.js";

const SIDE = 192;

export class Pictures {
  #files = [];

  constructor(area, input, list) {
    this.area = area;
    this.list = list;
    input.addEventListener("change", () => {
      this.#add(input.files);
      input.value = ""; // so that the same file can be chosen again
    });
    for (const name of ["dragenter", "dragover", "dragleave", "drop"]) {
      document.addEventListener(name, (event) => this.#dragged(event));
    }
  }

  get files() {
    return [...this.#files];
  }

  #add(files) {
    this.#files.push(...files);
    this.list.append(...[...files].map((file) => this.#entry(file)));
  }

  #entry(file) {
    const remove = element("button", { type: "button", class: "remove", "aria-label": `Remove ${file.name}` }, "×");
    const entry = element("li", {}, thumbnail(file), element("span", { class: "name", dir: "auto" }, file.name), remove);
    remove.addEventListener("click", () => {
      this.#files.splice(this.#files.indexOf(file), 1);
      entry.remove();
      this.area.querySelector("input").focus();
    });
    return entry;
  }

  // A file that is dropped beside the area would take the place of the page, so all of the page takes them.
  #dragged(event) {
    if (this.area.closest("[hidden]") || !event.dataTransfer?.types.includes("Files")) return;
    event.preventDefault();
    const left = event.type === "drop" || (event.type === "dragleave" && !event.relatedTarget);
    this.area.classList.toggle("over", !left);
    if (event.type === "drop") this.#add(event.dataTransfer.files);
  }
}

// The picture, on a canvas: an address of it would have to be allowed by the page's policy.
export function thumbnail(file) {
  const canvas = element("canvas", { class: "thumbnail", role: "img", "aria-label": file.name, width: 1, height: 1 });
  createImageBitmap(file).then(
    (bitmap) => {
      const scale = Math.min(1, SIDE / Math.max(bitmap.width, bitmap.height));
      canvas.width = Math.max(1, Math.round(scale * bitmap.width));
      canvas.height = Math.max(1, Math.round(scale * bitmap.height));
      canvas.getContext("2d").drawImage(bitmap, 0, 0, canvas.width, canvas.height);
      canvas.classList.toggle("tiny", scale === 1);
      bitmap.close();
    },
    () => {}, // it stays empty: a server reads formats that browsers do not
  );
  return canvas;
}

// How large files may be together, in bytes and in words, if a request may have `most` bytes: it has them as base64.
const capacity = (most) => Math.floor((most * 3) / 4);
export const capacityInWords = (most) => inWords(capacity(most));

// The files as base64, which bytes are in JSON.
export function encoded(files, most) {
  const size = files.reduce((sum, file) => sum + file.size, 0);
  if (size > capacity(most)) {
    const words = `${inWords(size)} together, the server takes ${capacityInWords(most)} at once`;
    throw new RangeError(`images: ${words} (choose fewer or smaller ones, or raise its max_request_bytes)`);
  }
  return Promise.all(files.map(base64Of));
}

function base64Of(file, index) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(file.size ? reader.result.slice(reader.result.indexOf(",") + 1) : "");
    reader.onerror = () => reject(new RangeError(`images[${index}]: the file cannot be read (is it a folder, or gone?)`));
    reader.readAsDataURL(file);
  });
}

const inWords = (bytes) => (bytes < 1e6 ? `${Math.round(bytes / 1e3)} kB` : `${(bytes / 1e6).toFixed(1)} MB`);
