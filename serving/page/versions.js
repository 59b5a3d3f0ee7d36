// Registered versions: where the aliases stand, what each version is, and how it was judged.

import { address, getJson } from "./api.js";
import { byId, make, tell } from "./dom.js";
import { evaluationTables } from "./evaluation.js";

let opened = null; // ids of the evaluations that are unfolded; null: the page was not looked at yet

/** Read the versions anew. */
export async function refreshVersions(onChat) {
  try {
    const versions = (await getJson("v1/versions")).data;
    tell(byId("versions-problem"), versions.length ? null : "No version is registered that this key opens.");
    opened ??= new Set(versions.filter((one) => one.aliases.length).map((one) => one.id));
    const byName = Map.groupBy(versions, (one) => one.name);
    const parts = [...byName].flatMap(([name, those]) => [make("h2", {}, name), ...those.map((one) => card(one, onChat))]);
    byId("versions-list").replaceChildren(...parts);
  } catch (error) {
    tell(byId("versions-problem"), error.message);
  }
}

function card(version, onChat) {
  return make(
    "article",
    { class: "version", "aria-label": version.id },
    make("div", { class: "head" }, make("h3", {}, version.id), tags(version), links(version, onChat)),
    ...(version.lineage_id ? described(version) : [make("p", { class: "problem" }, `Can't be read: ${version.problem}.`)]),
  );
}

function described(version) {
  return [
    facts(version),
    version.problem ? make("p", { class: "note" }, `Not served: ${version.problem}.`) : null,
    version.has_evaluation ? evaluation(version) : make("p", { class: "note" }, "Registered without an evaluation."),
  ];
}

function tags(version) {
  const canaries = Object.entries(version.canary_of);
  return [
    ...version.aliases.map((alias) => make("span", { class: "tag alias" }, alias)),
    ...canaries.map(([alias, share]) => make("span", { class: "tag" }, `canary: ${percent(share)} of ${alias}`)),
  ];
}

function links(version, onChat) {
  const chat = make("button", { type: "button", "aria-label": `Chat with ${version.id}` }, "Chat");
  chat.addEventListener("click", () => onChat(version.id));
  const report = `v1/versions/${encodeURIComponent(version.id)}/report`;
  return make(
    "div",
    { class: "links" },
    version.has_report
      ? make("a", { href: address(report), target: "_blank", rel: "noopener", "aria-label": `Report of ${version.id}` }, "Report")
      : null,
    version.served ? chat : null,
  );
}

function facts(version) {
  const fact = (name, value, wide = false) => make("div", { class: wide && "whole" }, make("dt", {}, name), make("dd", {}, value));
  return make(
    "dl",
    { class: "facts" },
    fact("Method", version.objective === "sft" ? version.method : `${version.method}, ${version.objective}`),
    fact("Base model", version.base_model),
    fact("Made", day(version.made_at), true),
    fact("Lineage", make("code", {}, version.lineage_id), true),
  );
}

/** Folded; read when it is first unfolded. */
function evaluation(version) {
  const place = make("div", {});
  const folded = make("details", {}, make("summary", {}, "Evaluation"), place);
  folded.addEventListener("toggle", async () => {
    opened[folded.open ? "add" : "delete"](version.id);
    if (!folded.open || place.hasChildNodes()) return;
    try {
      const found = await getJson(`v1/versions/${encodeURIComponent(version.id)}`);
      if (found.evaluation) place.replaceChildren(...evaluationTables(found.evaluation));
      else place.replaceChildren(make("p", { class: "problem" }, `The evaluation can't be shown: ${found.evaluation_problem}.`));
    } catch (error) {
      place.replaceChildren(make("p", { class: "problem" }, error.message));
    }
  });
  folded.open = opened.has(version.id);
  return folded;
}

const percent = (share) => `${+(share * 100).toFixed(1)} %`;

const day = (at) => new Date(at).toISOString().slice(0, 16).replace("T", " ") + " UTC";
