// The pack's one address on ComfyUI's server: a question at a time, the newest only.
import { api } from "../../../scripts/api.js";

const TYPING = 150; // milliseconds without a key before the server is asked
const KEPT = 60; // answers: undo, tabs and drags come back to scripts that were asked before
const answers = new Map();

// The answer, null where there is no server that knows the address. Rejects when `signal` aborts.
async function post(question, signal) {
  const body = JSON.stringify(question);
  const init = { method: "POST", body, signal, headers: { "Content-Type": "application/json" } };
  try {
    const reply = await api.fetchApi("/moga/timeline", init);
    const answer = await reply.json();
    return answer.timeline || answer.error ? answer : null;
  } catch (error) {
    if (signal.aborted) throw error;
    return null;
  }
}

function keep(question, answer) {
  const key = JSON.stringify(question);
  answers.delete(key);
  answers.set(key, answer);
  if (answers.size > KEPT) answers.delete(answers.keys().next().value);
}

export class Asker {
  #timer = 0;
  #running = null;

  // Calls `then(answer)` unless another question or `cancel` comes first.
  ask(question, then) {
    this.cancel();
    const known = answers.get(JSON.stringify(question));
    if (known) return then(known);
    this.#timer = setTimeout(() => this.#send(question, then), TYPING);
  }

  // Asks for `question` with an edit, at once; what comes back is known by its own question then.
  edit(question, edit, then) {
    this.cancel();
    this.#send({ ...question, edit }, (answer) => {
      const { script, timeline } = answer ?? {};
      if (timeline) keep({ ...question, script }, { timeline });
      then(answer);
    });
  }

  cancel() {
    clearTimeout(this.#timer);
    this.#running?.abort();
    this.#running = null;
  }

  async #send(question, then) {
    const running = (this.#running = new AbortController());
    let answer;
    try {
      answer = await post(question, running.signal);
    } catch {
      return; // aborted
    }
    if (running.signal.aborted) return;
    if (answer && !question.edit) keep(question, answer);
    then(answer);
  }
}
