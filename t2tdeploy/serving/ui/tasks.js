// What can be asked of a model, by its task (translation.proto, Model.task): how, and how its answer is shown.
//
// A task is { verb, ask(request, signal, model), render(answer, request) }: `ask` resolves with the server's answer, `render`
// makes the elements that show it. It may have `cannot(model)`, why a model cannot be asked here, `pictures(model)`, whether
// it is asked about pictures, so that request.sources are files and not lines, and `hint(model)`, what is to be given;
// `options` is true if decoding options mean something. A task that is not here is named, and cannot be asked on this page.

import { classification, regression } from "./classification.js";
import { translation } from "./translation.js";

export const TASKS = { translate: translation, classify: classification, regress: regression };
