// Elements are made of text alone: nothing that a model or a registry says is ever read as HTML.

export const byId = (id) => document.getElementById(id);

/** An element with attributes (`false` and `null` ones are left out) and children: texts, elements or lists of them. */
export function make(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== false && value !== null) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.flat().filter((child) => child !== null));
  return made;
}

/** Show a problem where one stands for it; none: hide the place. */
export function tell(place, problem) {
  place.textContent = problem ?? "";
  place.hidden = !problem;
}

/** Say something to those who hear the page. */
export function announce(text) {
  byId("status").textContent = text;
}
