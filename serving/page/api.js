// The endpoint's routes, relative to the page, which may lie below a path. The browser sends the key itself.

// Without a key that stood in the page's own address: browsers refuse to fetch such URLs.
const HERE = new URL(".", location.origin + location.pathname);

export const address = (path) => new URL(path, HERE).href;

/** Why the endpoint did not answer, in a sentence for people. */
export class Refusal extends Error {}

export async function getJson(path) {
  const response = await reach(path);
  return response.json();
}

/** The response to a request that was not refused. */
export async function reach(path, options = {}) {
  let response;
  try {
    response = await fetch(address(path), options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refusal("The endpoint can't be reached.");
  }
  if (response.ok) return response;
  throw new Refusal(await reasonOf(response));
}

async function reasonOf(response) {
  if (response.status === 401) return "401: the key is not accepted any more. Reload the page to give another.";
  const body = await response.json().catch(() => null);
  const wait = response.headers.get("retry-after");
  const said = body?.error?.message ?? response.statusText;
  return `${response.status}: ${said}${wait && !/ in \d+ s/.test(said) ? ` Retry after ${wait}\u00a0s.` : ""}`;
}
