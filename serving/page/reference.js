// The API: what every route takes and answers, as GET /openapi.json tells it.

import { address, getJson } from "./api.js";
import { byId, make, tell } from "./dom.js";

// A range in words: which keys are its ends, and what is counted.
const RANGES = [["minimum", "maximum", ""], ["minLength", "maxLength", " characters"], ["minItems", "maxItems", " items"]];

/** Read the description, once. */
export async function showReference() {
  const list = byId("api-list");
  if (list.childElementCount) return;
  try {
    const told = await getJson("openapi.json");
    const operations = Object.entries(told.paths).flatMap(([path, methods]) =>
      Object.entries(methods).map(([method, operation]) => route(method, path, operation, told.components.schemas)),
    );
    const source = make("a", { href: address("openapi.json"), target: "_blank", rel: "noopener" }, "openapi.json");
    list.replaceChildren(make("p", { class: "muted" }, "The same for programs: ", source), ...operations);
    tell(byId("api-problem"), null);
  } catch (error) {
    tell(byId("api-problem"), error.message);
  }
}

function route(method, path, operation, schemas) {
  const name = `${method.toUpperCase()} ${path}`;
  const asked = operation.requestBody?.content["application/json"].schema;
  return make(
    "details",
    { class: "version", "aria-label": name },
    make("summary", {}, make("code", {}, name), ` ${operation.summary}`),
    ...(asked ? fieldsOf(nameOf(asked), schemas) : []),
    answers(operation.responses),
  );
}

/** Tables of a schema's fields and of those that its fields are made of. */
function fieldsOf(first, schemas) {
  const names = new Set([first]);
  for (const name of names) {
    for (const one of referred(schemas[name])) names.add(one);
  }
  return [...names].map((name) => fields(name, schemas[name]));
}

function referred(schema) {
  if (schema === null || typeof schema !== "object") return [];
  return schema.$ref ? [nameOf(schema)] : Object.values(schema).flatMap(referred);
}

function fields(name, schema) {
  const rows = Object.entries(schema.properties ?? {}).map(([field, one]) =>
    make(
      "tr",
      {},
      make("th", { scope: "row" }, make("code", {}, field), schema.required?.includes(field) ? make("small", {}, "required") : null),
      make("td", {}, kindOf(one)),
      make("td", {}, plain(one.description)),
    ),
  );
  return table(name, plain(schema.description), ["Field", "Takes", "Meaning"], rows);
}

function answers(responses) {
  const rows = Object.entries(responses).map(([status, one]) =>
    make("tr", {}, make("th", { scope: "row" }, status), make("td", {}, Object.keys(one.content).join(", ")), make("td", {}, one.description)),
  );
  return table("Answers", "", ["Status", "Form", "When"], rows);
}

function table(title, note, heads, rows) {
  const caption = make("caption", {}, make("strong", {}, title), note ? ` ${note}` : "");
  const head = make("thead", {}, make("tr", {}, ...heads.map((one) => make("th", { scope: "col" }, one))));
  return make("div", { class: "scroll" }, make("table", {}, caption, head, make("tbody", {}, ...rows)));
}

/** What a field takes, in words. */
function kindOf(schema) {
  if (schema.$ref) return nameOf(schema);
  if (schema.anyOf) return schema.anyOf.filter((one) => one.type !== "null").map(kindOf).join(", or ");
  if (schema.enum) return schema.enum.map((one) => JSON.stringify(one)).join(", ");
  if ("const" in schema) return JSON.stringify(schema.const);
  const kind = schema.type === "array" ? `list of ${kindOf(schema.items ?? {})}` : (schema.type ?? "anything");
  return [kind, ...RANGES.map((range) => rangeOf(schema, range)), above(schema)].filter(Boolean).join(", ");
}

function rangeOf(schema, [low, high, what]) {
  const [from, to] = [schema[low], schema[high]].map((end) => (Number.isSafeInteger(end) || end % 1 ? end : undefined));
  if (from === undefined && to === undefined) return null;
  if (to === undefined) return `at least ${from}${what}`;
  return from === undefined ? `at most ${to}${what}` : `${from} to ${to}${what}`;
}

const above = (schema) => ("exclusiveMinimum" in schema ? `above ${schema.exclusiveMinimum}` : null);

const nameOf = (schema) => schema.$ref.split("/").pop();

const plain = (text) => (text ?? "").replaceAll("``", "");
