// What can be asked of a model, by its task (translation.proto, Model.task): how, and how its answer is shown.
//
// A task is { verb, ask(request, signal), render(answer, request) }: `ask` resolves with the server's answer, `render`
// makes the elements that show it. A task that is not here is named, and cannot be asked on this page.

import { translation } from "./translation.js";

export const TASKS = { translate: translation };
