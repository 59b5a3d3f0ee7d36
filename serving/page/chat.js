// The conversation: one question at a time, asked of one or two models, each of which remembers its own answers.

import { Answer } from "./answer.js";
import { getJson } from "./api.js";
import { announce, byId, make, tell } from "./dom.js";

const NONE = "";
const USUAL_MAX_TOKENS = 256;

const sides = [byId("left"), byId("right")];
let turns = []; // {question, answers: [Answer of the left side, of the right one or null]}
let running = null; // AbortController of the answers that are coming

export function startChat() {
  byId("composer").addEventListener("submit", (event) => {
    event.preventDefault();
    send();
  });
  byId("question").addEventListener("keydown", (event) => {
    // Not while an input method composes a character: there Enter chooses one.
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    byId("composer").requestSubmit();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") stop();
  });
  byId("stop").addEventListener("click", stop);
  byId("clear").addEventListener("click", clear);
  byId("settings").addEventListener("input", tellSettings);
  // A field that is wrong can't be shown while it is folded away.
  byId("composer").addEventListener("invalid", () => (byId("settings").open = true), true);
}

/** Fill both lists with the models that the key opens; what was chosen stays chosen. */
export async function refreshModels() {
  try {
    const cards = (await getJson("v1/models")).data;
    tell(byId("models-problem"), cards.length ? null : "This key opens no model that is served.");
    const [left, right] = usualChoice(cards);
    fill(sides[0], cards, left, false);
    fill(sides[1], cards, right, true);
    if (!byId("max-tokens").dataset.set && cards.length) {
      byId("max-tokens").dataset.set = "yes";
      byId("max-tokens").value = Math.min(USUAL_MAX_TOKENS, Math.ceil(cards[0].max_model_len / 2));
    }
    tellSettings();
  } catch (error) {
    tell(byId("models-problem"), error.message);
  }
}

/** Put a version on the right, beside what it is to be compared with. */
export function choose(name) {
  if ([...sides[1].options].some((option) => option.value === name)) sides[1].value = name;
}

/** The base model against the default alias's version, else what there is. */
function usualChoice(cards) {
  const ids = cards.map((card) => card.id);
  const base = cards.find((card) => isBase(card))?.id;
  const tuned = cards.find((card) => !card.id.includes("@") && !isBase(card))?.id ?? ids.find((id) => id.includes("@"));
  const left = base ?? tuned ?? NONE;
  return [left, [tuned, ...ids].find((id) => id && id !== left) ?? NONE];
}

const isBase = (card) => card.id === card.root && !card.id.includes("@");

function fill(select, cards, usual, optional) {
  const chosen = select.value || usual;
  const groups = new Map();
  for (const card of cards) {
    const group = isBase(card) ? "Base model" : card.id.split("@")[0];
    const label = card.id === card.root ? card.id : `${card.id} → ${card.root}`;
    if (!groups.has(group)) groups.set(group, make("optgroup", { label: group }));
    groups.get(group).append(make("option", { value: card.id }, label));
  }
  const order = [...groups.keys()].sort((one, other) => (other === "Base model") - (one === "Base model"));
  select.replaceChildren(...order.map((group) => groups.get(group)));
  if (optional) select.append(make("option", { value: NONE }, "No second model"));
  select.value = cards.some((card) => card.id === chosen) ? chosen : usual;
}

function tellSettings() {
  const parts = [`temperature ${byId("temperature").value || "?"}`];
  if (byId("max-tokens").value) parts.push(`at most ${byId("max-tokens").value} tokens`);
  if (byId("system").value.trim()) parts.push("system prompt");
  byId("settings-told").textContent = parts.join(", ");
}

async function send() {
  const question = byId("question").value.trim();
  if (!question || running || !sides[0].value) return;
  running = new AbortController();
  byId("question").value = "";
  const turn = { question, answers: sides.map((side) => (side.value === NONE ? null : new Answer(side.value))) };
  const bodies = turn.answers.map((_, side) => bodyFor(side, question));
  turns.push(turn);
  show(turn);
  const asked = turn.answers.filter((answer) => answer !== null);
  await Promise.all(turn.answers.map((answer, side) => answer?.ask(bodies[side], running.signal)));
  running = null;
  setRunning(false);
  announce(asked.map((answer) => `${answer.name}: ${answer.outcome}.`).join(" "));
  // What nobody answered need not be written again.
  if (asked.every((answer) => !answer.text) && !byId("question").value) byId("question").value = question;
}

/** What one side is asked: its own conversation, without turns that it said nothing in. */
function bodyFor(side, question) {
  const system = byId("system").value.trim();
  const messages = system ? [{ role: "system", content: system }] : [];
  for (const turn of turns) {
    const text = turn.answers[side]?.text;
    if (text) messages.push({ role: "user", content: turn.question }, { role: "assistant", content: text });
  }
  messages.push({ role: "user", content: question });
  const body = { messages, temperature: Number(byId("temperature").value) };
  return byId("max-tokens").value ? { ...body, max_tokens: Number(byId("max-tokens").value) } : body;
}

function show(turn) {
  const asked = turn.answers.filter((answer) => answer !== null);
  const answers = make("div", { class: asked.length > 1 ? "answers" : "answers single" }, asked.map((answer) => answer.element));
  byId("turns").append(make("section", { class: "turn" }, make("h2", { class: "question" }, turn.question), answers));
  byId("hint").hidden = true;
  setRunning(true);
  announce("Asked.");
  scrollTo(0, document.documentElement.scrollHeight);
}

function setRunning(yes) {
  const lost = document.activeElement === byId("send") || document.activeElement === byId("stop");
  byId("send").hidden = yes;
  byId("stop").hidden = !yes;
  byId("clear").disabled = yes || !turns.length;
  byId("turns").setAttribute("aria-busy", yes);
  if (lost) byId("question").focus();
}

function stop() {
  running?.abort();
}

function clear() {
  turns = [];
  byId("turns").replaceChildren();
  byId("hint").hidden = false;
  setRunning(false);
  byId("question").focus();
}
