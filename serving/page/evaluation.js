// An evaluation as tables: metrics of every variant with their intervals, gains, and the classes where there are some.

import { make } from "./dom.js";

const VARIANTS = { few_shot: "few-shot", majority: "majority class" };
const LOWER_IS_BETTER = new Set(["perplexity"]);

export function evaluationTables(evaluation) {
  const tables = [metrics(evaluation.variants, evaluation.differences, `${evaluation.n} test rows, intervals at ${evaluation.confidence * 100} %`)];
  for (const [name, task] of Object.entries(evaluation.tasks)) {
    const variants = Object.fromEntries(Object.entries(task.variants).map(([variant, found]) => [variant, { metrics: found }]));
    tables.push(metrics(variants, {}, `${name}, ${task.n} rows`));
  }
  if (evaluation.labels.length) tables.push(make("details", {}, make("summary", {}, "Classes"), classes(evaluation)));
  return tables;
}

function metrics(variants, differences, caption) {
  const names = Object.keys(variants);
  const pairs = Object.keys(differences);
  const head = [...names.map(variantName), ...pairs.map((pair) => pair.split("-").map(variantName).join(" − "))];
  const rows = Object.keys(variants[names[0]].metrics).map((metric) => [
    metricName(metric),
    ...names.map((name) => interval(variants[name].metrics[metric], figure)),
    ...pairs.map((pair) => interval(differences[pair][metric], signed, verdict(differences[pair][metric], metric))),
  ]);
  return table(caption, ["Metric", ...head], rows);
}

function classes(evaluation) {
  const names = Object.keys(evaluation.variants);
  const rows = evaluation.labels.map((label) => {
    const found = names.map((name) => evaluation.variants[name].per_class[label]);
    return [label, cell(String(found[0].support)), ...found.map((scores) => cell(figure(scores.f1)))];
  });
  return table("F1 of each class", ["Class", "Rows", ...names.map(variantName)], rows);
}

function table(caption, head, rows) {
  const header = head.map((name, place) => make("th", { scope: "col", class: place > 0 && "number" }, name));
  const body = rows.map(([first, ...cells]) => make("tr", {}, make("th", { scope: "row" }, first), cells));
  const made = make("table", {}, make("caption", {}, caption), make("thead", {}, make("tr", {}, header)), make("tbody", {}, body));
  // A region that scrolls must be reachable, or the keyboard can't scroll it.
  return make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption }, made);
}

function interval(found, form, kind = "") {
  if (!found) return cell("");
  const made = cell(form(found.value), make("small", {}, `${form(found.low)} to ${form(found.high)}`));
  made.className += ` ${kind}`;
  return made;
}

const cell = (...children) => make("td", { class: "number" }, ...children);

/** Better or worse where the whole interval says so. */
function verdict(difference, metric) {
  if (!difference || (difference.low <= 0 && 0 <= difference.high)) return "";
  return difference.low > 0 !== LOWER_IS_BETTER.has(metric) ? "good" : "bad";
}

const variantName = (name) => VARIANTS[name] ?? name;
const metricName = (name) => name.replaceAll("_", " ").replace("f1", "F1").replace("rouge l", "ROUGE-L");
const figure = (value) => (Math.abs(value) < 10 ? value.toFixed(3) : String(+value.toPrecision(4)));
const signed = (value) => (value < 0 ? "−" : "+") + figure(Math.abs(value));
