// Which of the views is shown: the one that the address names after its #.

import { choose, refreshModels, startChat } from "./chat.js";
import { byId } from "./dom.js";
import { showReference } from "./reference.js";
import { refreshVersions } from "./versions.js";

const VIEWS = { chat: refreshModels, versions: () => refreshVersions(chatWith), api: showReference };

async function showView() {
  const view = Object.keys(VIEWS).find((name) => location.hash === `#${name}`) ?? "chat";
  for (const name of Object.keys(VIEWS)) byId(name).hidden = name !== view;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.hash === `#${view}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  scrollTo(0, 0);
  await VIEWS[view]();
}

async function chatWith(name) {
  await refreshModels();
  choose(name);
  location.hash = "#chat";
  byId("question").focus();
}

startChat();
addEventListener("hashchange", showView);
showView();
