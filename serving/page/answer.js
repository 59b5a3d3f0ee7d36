// One model's answer to one question: asked, shown as it comes, and measured.

import { Refusal } from "./api.js";
import { make } from "./dom.js";
import { chat } from "./stream.js";

export class Answer {
  /** @param {string} name The name that is asked. */
  constructor(name) {
    this.name = name;
    this.text = "";
    this.outcome = "";
    this.heading = make("h3", {}, name);
    this.body = make("div", { class: "text" }, document.createTextNode(""));
    this.figures = make("p", { class: "figures" });
    this.element = make("article", { class: "answer", "aria-label": `Answer of ${name}` }, this.heading, this.body, this.figures);
  }

  /** Ask, and show what comes; ends when the answer has, however it ends. */
  async ask(body, signal) {
    this.element.setAttribute("aria-busy", "true");
    const times = { asked: performance.now(), first: null, last: null };
    let finish = null;
    let usage = null;
    try {
      for await (const chunk of chat({ ...body, model: this.name }, signal)) {
        this.answeredBy(chunk.model);
        usage = chunk.usage ?? usage;
        const choice = chunk.choices?.[0];
        finish = choice?.finish_reason ?? finish;
        if (choice?.delta?.content) {
          times.last = performance.now();
          times.first ??= times.last;
          this.append(choice.delta.content);
        }
      }
      this.outcome = this.text ? "complete" : "empty";
      if (!this.text) this.note("The answer is empty.");
      if (finish === "length") this.note("Cut off: the limit of tokens is reached.");
    } catch (error) {
      this.failed(error);
    }
    this.element.removeAttribute("aria-busy");
    this.body.hidden = !this.text;
    this.changed(() => (this.figures.textContent = told(times, usage)));
  }

  append(piece) {
    this.text += piece;
    this.changed(() => this.body.firstChild.appendData(piece));
  }

  /** Change what is shown; who reads its end goes on seeing the end. */
  changed(change) {
    const whole = document.documentElement;
    const atEnd = innerHeight + scrollY > whole.scrollHeight - 60;
    change();
    if (atEnd) scrollTo(0, whole.scrollHeight);
  }

  /** A name may stand for a version, and with a canary for one of two. */
  answeredBy(model) {
    if (model && model !== this.name) this.heading.textContent = `${this.name} → ${model}`;
  }

  failed(error) {
    if (error.name === "AbortError") {
      this.outcome = "stopped";
      this.note("Stopped.");
      return;
    }
    this.outcome = "failed";
    const reason = error instanceof Refusal ? error.message : `The page failed: ${error.message}`;
    this.changed(() => this.figures.before(make("p", { class: "problem" }, reason)));
  }

  note(text) {
    this.changed(() => this.figures.before(make("p", { class: "note" }, text)));
  }
}

function told({ asked, first, last }, usage) {
  const figures = [];
  const tokens = usage?.completion_tokens;
  if (tokens !== undefined) figures.push(`${tokens} ${tokens === 1 ? "token" : "tokens"}`);
  if (first !== null) figures.push(`first after ${seconds(first - asked)}`);
  if (tokens > 1 && last > first) figures.push(`${(((tokens - 1) * 1000) / (last - first)).toFixed(1)} tokens/s`);
  return figures.map((figure) => figure.replaceAll(" ", "\u00a0")).join(" · ");
}

const seconds = (ms) => (ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`);
