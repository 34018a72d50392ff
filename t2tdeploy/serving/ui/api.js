// The server's JSON: POST /v1/translate, POST /v1/classify and GET /v1/models are its protos by protobuf's JSON mapping.

// This file is …/ui/api.js, also where a proxy puts a path before it; the server's routes are beside ui/.
const ROOT = new URL("../", import.meta.url);

let token = "";

// Sent with every request from now on.
export function useToken(text) {
  token = text.trim();
}

// What the server said instead of an answer. `field` and `help` are null where its sentence has none.
export class ServerError extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status;
    Object.assign(this, partsOf(message));
  }
}

// "options.alpha: 11 is not … (help)" -> { field, problem, help }
export function partsOf(message) {
  const field = /^([a-z_]+(?:\.[a-z_]+)?(?:\[\d+\])?): /.exec(message);
  const rest = field ? message.slice(field[0].length) : message;
  const start = startOfHelp(rest);
  return {
    field: field ? field[1] : null,
    problem: start === null ? rest : rest.slice(0, start),
    help: start === null ? null : rest.slice(start + 2, -1),
  };
}

function startOfHelp(text) {
  if (!text.endsWith(")")) return null;
  let open = 0;
  for (let place = text.length - 1; place > 0; place--) {
    if (text[place] === ")") open++;
    if (text[place] === "(" && --open === 0) return text[place - 1] === " " ? place - 1 : null;
  }
  return null;
}

export const listModels = async () => (await call("v1/models")).models ?? [];

export const translate = (request, signal) => call("v1/translate", request, signal);

export const classify = (request, signal) => call("v1/classify", request, signal);

export const listExamples = () => call("ui/examples.json");

async function call(path, message, signal) {
  const given = { signal, headers: {}, credentials: "same-origin", redirect: "error" };
  if (token) given.headers.Authorization = `Bearer ${token}`;
  if (message !== undefined) {
    given.method = "POST";
    given.headers["Content-Type"] = "application/json";
    given.body = JSON.stringify(message);
  }
  let response, text;
  try {
    response = await fetch(new URL(path, ROOT), given);
    text = await response.text();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServerError("the server cannot be reached (is it still running?)");
  }
  const answer = parsed(text);
  if (response.ok && answer !== null) return answer;
  const unknown = `the server answered ${response.status} ${response.statusText}`.trim();
  throw new ServerError(answer?.error ?? unknown, response.status);
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}
